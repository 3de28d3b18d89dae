//! What the members of a run share after a round besides its tensors: memory that decides how the run goes on.

use std::collections::{BTreeMap, BTreeSet};

use skein_types::{Digest, PeerId};

use crate::convergence::Progress;
use crate::slot::Position;
use crate::wire::{Fields, Writer};

/// Hashes of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check {
    /// Hash of the tensors; see [`state_hash`](crate::state::state_hash).
    pub state: Digest,
    /// Hash of the [`Standing`].
    pub standing: Digest,
}

impl Check {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.bytes(&self.state.0);
        to.bytes(&self.standing.0);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Check> {
        Some(Check { state: fields.digest()?, standing: fields.digest()? })
    }
}

/// What every member knows after a round, and derives from decisions alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Memory of the convergence rules.
    pub progress: Progress,
    /// The convergence rules have ended training: no round follows.
    pub is_stopped: bool,
    /// Members whose contributions were aggregated last: they propose first.
    pub contributors: BTreeSet<PeerId>,
    /// Members that are proven Byzantine. Their seats stay empty: quorums and bounds are as before.
    pub removed: BTreeSet<PeerId>,
    /// Members that proposed nothing that was decided when it was their turn, and the round up to which they propose last.
    pub passed: BTreeMap<PeerId, u64>,
}

impl Standing {
    /// The standing before the first round.
    pub fn new(learning_rate: f64) -> Standing {
        Standing {
            progress: Progress::new(learning_rate),
            is_stopped: false,
            contributors: BTreeSet::new(),
            removed: BTreeSet::new(),
            passed: BTreeMap::new(),
        }
    }

    /// Hash of the standing, which checks compare.
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key("skein 2026-11 standing of a run", &self.encode()))
    }

    /// Encodes the standing, to be kept beside the state.
    pub fn encode(&self) -> Vec<u8> {
        let Standing { progress, is_stopped, contributors, removed, passed } = self;
        let mut bytes = Writer::new();
        bytes.number(progress.learning_rate);
        for (best, waited) in
            [(progress.stopping_best, progress.stopping_waited), (progress.plateau_best, progress.plateau_waited)]
        {
            bytes.byte(u8::from(best.is_some()));
            bytes.number(best.unwrap_or_default());
            bytes.u32(waited);
        }
        bytes.u64(progress.optimizer_since);
        bytes.byte(u8::from(*is_stopped));
        for peers in [contributors, removed] {
            bytes.u16(peers.len() as u16);
            peers.iter().for_each(|peer| bytes.bytes(&peer.0));
        }
        for (peer, until) in passed {
            bytes.bytes(&peer.0);
            bytes.u64(*until);
        }
        bytes.finish()
    }

    /// Decodes what [`Standing::encode`] wrote; `None` if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Option<Standing> {
        let mut fields = Fields::new(bytes);
        let learning_rate = fields.number()?;
        let mut rule = || {
            let is_known = fields.byte()? == 1;
            let best = fields.number()?;
            Some((is_known.then_some(best), fields.u32()?))
        };
        let (stopping_best, stopping_waited) = rule()?;
        let (plateau_best, plateau_waited) = rule()?;
        let optimizer_since = fields.u64()?;
        let progress =
            Progress { learning_rate, stopping_best, stopping_waited, plateau_best, plateau_waited, optimizer_since };
        let is_stopped = fields.byte()? == 1;
        let mut peers = || {
            let count = fields.u16()?;
            (0..count).map(|_| fields.peer()).collect::<Option<BTreeSet<PeerId>>>()
        };
        let contributors = peers()?;
        let removed = peers()?;
        let mut passed = BTreeMap::new();
        while !fields.is_empty() {
            passed.insert(fields.peer()?, fields.u64()?);
        }
        let standing = Standing { progress, is_stopped, contributors, removed, passed };
        // The same standing has one form.
        (standing.encode() == bytes).then_some(standing)
    }
}

/// A member's state after a round that it has applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The round; 0 is the state before the first.
    pub position: Position,
    /// Hash of the tensors.
    pub state: Digest,
    /// All that members share besides tensors.
    pub standing: Standing,
}

impl Head {
    /// The hashes that members compare.
    pub fn check(&self) -> Check {
        Check { state: self.state, standing: self.standing.digest() }
    }
}
