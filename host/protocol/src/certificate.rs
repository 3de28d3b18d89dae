//! Signatures of so many members that they show everybody what was decided, or which state is right.

use std::collections::BTreeMap;

use skein_types::{Digest, PeerId};

use crate::keys::{Keys, Signature};
use crate::mutant::{self, Mutant};
use crate::slot::{Kind, Position, Slot, View};
use crate::standing::Check;
use crate::wire::{Fields, Writer, hash_of};

/// The two votes of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BallotKind {
    /// The proposed value is acceptable.
    Prevote,
    /// A quorum has prevoted the value.
    Precommit,
}

/// Votes of a quorum for one value. The caller has verified all signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Which of the two votes.
    pub kind: BallotKind,
    /// The view in which all of them were cast.
    pub view: View,
    /// The value that all of them are for.
    pub value: Digest,
    /// The signatures of those who voted for it.
    pub votes: BTreeMap<PeerId, Signature>,
}

impl From<BallotKind> for Kind {
    fn from(kind: BallotKind) -> Kind {
        match kind {
            BallotKind::Prevote => Kind::Prevote,
            BallotKind::Precommit => Kind::Precommit,
        }
    }
}

impl Certificate {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.view);
        to.bytes(&self.value.0);
        write_signatures(&self.votes, to);
    }

    pub(crate) fn read(fields: &mut Fields<'_>, kind: BallotKind) -> Option<Certificate> {
        let view: View = fields.u32()?;
        let value = fields.digest()?;
        let votes = read_signatures(fields)?;
        Some(Certificate { kind, view, value, votes })
    }

    /// Whether all its votes are signed.
    pub(crate) fn is_signed(&self, run: Digest, position: Position, keys: &impl Keys) -> bool {
        if mutant::is(Mutant::UncheckedCertificate) {
            return true;
        }
        let slot = |peer| Slot { run, position, view: self.view, kind: self.kind.into(), peer };
        are_signed(&self.votes, slot, hash_of(&self.value.0), keys)
    }
}

/// A state that is right, because so many members signed it that one of them is honest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedState {
    /// The round after which they have it.
    pub position: Position,
    /// Its hashes.
    pub check: Check,
    /// The signatures of those who have it.
    pub checks: BTreeMap<PeerId, Signature>,
}

impl CertifiedState {
    pub(crate) fn write(&self, to: &mut Writer) {
        self.position.write(to);
        self.check.write(to);
        write_signatures(&self.checks, to);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<CertifiedState> {
        let position = Position::read(fields)?;
        let check = Check::read(fields)?;
        Some(CertifiedState { position, check, checks: read_signatures(fields)? })
    }

    fn is_signed(&self, run: Digest, keys: &impl Keys) -> bool {
        let CertifiedState { position, check, checks } = self;
        let slot = |peer| Slot { run, position: *position, view: 0, kind: Kind::Check, peer };
        let mut payload = Writer::new();
        check.write(&mut payload);
        are_signed(checks, slot, hash_of(&payload.finish()), keys)
    }
}

/// That a round is over, as anybody can check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// These members precommitted one selection of the round.
    Decided(Position, Certificate),
    /// These members have one state after the round.
    Certified(CertifiedState),
}

impl Reached {
    /// The round that is over.
    pub fn position(&self) -> Position {
        match self {
            Reached::Decided(position, _) => *position,
            Reached::Certified(state) => state.position,
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        match self {
            Reached::Decided(position, certificate) => {
                to.byte(0);
                position.write(to);
                certificate.write(to);
            }
            Reached::Certified(state) => {
                to.byte(1);
                state.write(to);
            }
        }
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Reached> {
        match fields.byte()? {
            0 => Some(Reached::Decided(Position::read(fields)?, Certificate::read(fields, BallotKind::Precommit)?)),
            1 => CertifiedState::read(fields).map(Reached::Certified),
            _ => None,
        }
    }

    /// Whether all its signatures are those of their members. How many they are is for the reader to judge.
    pub(crate) fn is_signed(&self, run: Digest, keys: &impl Keys) -> bool {
        match self {
            Reached::Decided(position, certificate) => certificate.is_signed(run, *position, keys),
            Reached::Certified(state) => state.is_signed(run, keys),
        }
    }
}

fn write_signatures(signatures: &BTreeMap<PeerId, Signature>, to: &mut Writer) {
    to.u16(signatures.len() as u16);
    for (peer, signature) in signatures {
        to.bytes(&peer.0);
        to.bytes(signature);
    }
}

fn read_signatures(fields: &mut Fields<'_>) -> Option<BTreeMap<PeerId, Signature>> {
    let count = fields.u16()?;
    let mut signatures = BTreeMap::new();
    for _ in 0..count {
        let (peer, signature) = (fields.peer()?, fields.take()?);
        // Sorted, so that the same certificate has one form.
        if signatures.last_key_value().is_some_and(|(last, _)| *last >= peer) {
            return None;
        }
        signatures.insert(peer, signature);
    }
    Some(signatures)
}

fn are_signed(
    signatures: &BTreeMap<PeerId, Signature>,
    slot: impl Fn(PeerId) -> Slot,
    payload: Digest,
    keys: &impl Keys,
) -> bool {
    let mut signed = signatures.iter();
    signed.all(|(peer, signature)| keys.is_signed(*peer, &slot(*peer).message(payload), signature))
}
