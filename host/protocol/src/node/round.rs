//! What a member knows about one round that is not applied yet.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use skein_types::{Digest, PeerId};

use super::RunTerms;
use crate::agreement::{Certificate, Decider, View, ViewStep};
use crate::decision::Decision;
use crate::record::payload::Selection;
use crate::record::{Kind, Position, Record};
use crate::standing::{Head, Standing};

/// Most records of one member in one round: announcement, and proposals and votes of many views, each slot twice at most.
const RECORDS_MAX: usize = 256;
/// Most bytes of them.
const BYTES_MAX: usize = 1 << 19;

/// A running timer of a view.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timer {
    pub(super) at: Duration,
    /// How long the step may take; the timer may run out earlier to see whether the proposer is suspected by then.
    pub(super) until: Duration,
    pub(super) view: View,
    pub(super) step: ViewStep,
}

/// A selection that was proposed or decided, and how many of its contributions are known to be held.
#[derive(Debug, Clone)]
pub(super) struct Proposed {
    pub(super) selection: Selection,
    /// The first so many are held.
    pub(super) held: usize,
    /// Whether this member would vote for it, were its announcements held.
    pub(super) is_sound: bool,
    /// The decider knows that it is acceptable.
    pub(super) is_told: bool,
    /// How many announcements were known when what it lacks was last asked for.
    pub(super) asked_at: Option<usize>,
}

/// One round as one member sees it.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) position: Position,
    pub(super) begun: Duration,
    /// When the member's own contribution was ready, or the others were seen to go on without it.
    pub(super) ready: Option<Duration>,
    /// Hash of the member's own contribution, once it is computed.
    pub(super) computed: Option<Digest>,
    /// The first announcement of each member that is sound, by its hash.
    pub(super) announced: BTreeMap<PeerId, Digest>,
    /// All sound announcements, at most two of a member.
    pub(super) announcements: BTreeMap<Digest, Arc<Record>>,
    /// Members that announced something that does not belong to the round.
    pub(super) unsound: BTreeSet<PeerId>,
    /// Members whose values are not what they announced.
    pub(super) wrong: BTreeSet<PeerId>,
    /// Hashes of announcements whose values are in the store, and their members.
    pub(super) held: BTreeMap<Digest, PeerId>,
    pub(super) held_of: BTreeSet<PeerId>,
    /// How long it took until enough contributions were held, and until those of all that count as punctual were.
    pub(super) enough: Option<Duration>,
    pub(super) others: Option<Duration>,
    /// Something arrived that gathering may have waited for.
    pub(super) is_changed: bool,
    /// When gathering may end although nothing arrives.
    pub(super) gathers_until: Option<Duration>,
    pub(super) decider: Decider,
    pub(super) is_begun: bool,
    pub(super) timer: Option<Timer>,
    /// The view that it is to propose in, and the prevotes of an earlier one.
    pub(super) proposing: Option<(View, Option<Certificate>)>,
    pub(super) proposed: BTreeMap<Digest, Proposed>,
    /// Selections that a vote depends on.
    pub(super) wanted: BTreeSet<Digest>,
    pub(super) certificate: Option<Certificate>,
    pub(super) decision: Option<Arc<Decision>>,
    pub(super) is_applying: bool,
    /// The standing after the round, while it is being applied.
    pub(super) standing: Option<Standing>,
    /// The state after the round, which is in the store.
    pub(super) applied: Option<Head>,
    /// Since when nothing could be done but wait for what nobody has.
    pub(super) stuck_since: Option<Duration>,
    /// Records that count, each slot's first and, of another payload, second.
    records: BTreeMap<PeerId, Vec<Arc<Record>>>,
    bytes: BTreeMap<PeerId, usize>,
    known: HashSet<Digest>,
    relayed: HashSet<Digest>,
}

/// What became of a record that was added.
#[derive(Debug, Clone)]
pub(super) enum Added {
    /// The first of its slot.
    First,
    /// It contradicts this one.
    Second(Arc<Record>),
    /// Known, or beyond the quota of its member.
    Nothing,
}

impl Round {
    pub(super) fn new(position: Position, decider: Decider, now: Duration) -> Round {
        Round {
            position,
            begun: now,
            ready: None,
            computed: None,
            announced: BTreeMap::new(),
            announcements: BTreeMap::new(),
            unsound: BTreeSet::new(),
            wrong: BTreeSet::new(),
            held: BTreeMap::new(),
            held_of: BTreeSet::new(),
            enough: None,
            others: None,
            decider,
            is_changed: true,
            gathers_until: None,
            is_begun: false,
            timer: None,
            proposing: None,
            proposed: BTreeMap::new(),
            wanted: BTreeSet::new(),
            certificate: None,
            decision: None,
            is_applying: false,
            standing: None,
            applied: None,
            stuck_since: None,
            records: BTreeMap::new(),
            bytes: BTreeMap::new(),
            known: HashSet::new(),
            relayed: HashSet::new(),
        }
    }

    /// Adds a record of this round, within its member's quota.
    pub(super) fn add(&mut self, record: &Arc<Record>) -> Added {
        if self.known.contains(&record.hash()) {
            return Added::Nothing;
        }
        let records = self.records.entry(record.peer()).or_default();
        let bytes = self.bytes.entry(record.peer()).or_default();
        let same: Vec<_> = records.iter().filter(|other| other.slot() == record.slot()).collect();
        if same.len() > 1 || records.len() >= RECORDS_MAX || *bytes + record.len() > BYTES_MAX {
            return Added::Nothing;
        }
        let first = same.first().map(|first| (*first).clone());
        *bytes += record.len();
        records.push(record.clone());
        self.known.insert(record.hash());
        first.map_or(Added::First, Added::Second)
    }

    pub(super) fn is_known(&self, hash: &Digest) -> bool {
        self.known.contains(hash)
    }

    pub(super) fn bytes_kept(&self) -> usize {
        self.bytes.values().sum()
    }

    /// All records, member by member in the order of their arrival.
    pub(super) fn records(&self) -> Vec<Arc<Record>> {
        self.records.values().flatten().cloned().collect()
    }

    /// Votes and proposals that this member counts and has not published yet, of the current view and the one before.
    pub(super) fn relay(&mut self, me: PeerId) -> Vec<Arc<Record>> {
        let from = self.decider.view().saturating_sub(1);
        let others = self.records.iter().filter(|(peer, _)| **peer != me).flat_map(|(_, records)| records);
        let counted = others.filter(|record| {
            let slot = record.slot();
            slot.kind != Kind::Announcement && slot.view >= from
        });
        let counted: Vec<Arc<Record>> =
            counted.filter(|record| !self.relayed.contains(&record.hash())).cloned().collect();
        self.relayed.extend(counted.iter().map(|record| record.hash()));
        counted
    }

    /// The announcement of a member that has this hash, if it is sound.
    pub(super) fn announcement(&self, peer: &PeerId, hash: &Digest) -> Option<&Arc<Record>> {
        self.announcements.get(hash).filter(|record| record.peer() == *peer)
    }

    /// The values of an announcement are in the store.
    pub(super) fn hold(&mut self, peer: PeerId, hash: Digest) {
        self.held.insert(hash, peer);
        self.held_of.insert(peer);
        self.is_changed = true;
    }

    /// Hashes of the first announcement of each member, if it is held, sorted by member.
    pub(super) fn held_first(&self) -> Vec<(PeerId, Digest)> {
        let announced = self.announced.iter().map(|(peer, hash)| (*peer, *hash));
        announced.filter(|(_, hash)| self.held.contains_key(hash)).collect()
    }

    /// Whether an announcement of a known selection is not held.
    pub(super) fn lacks(&mut self, value: Digest) -> bool {
        let Some(proposed) = self.proposed.get_mut(&value) else { return true };
        let rest = &proposed.selection.announcements[proposed.held..];
        proposed.held += rest.iter().take_while(|(peer, hash)| self.held.get(hash) == Some(peer)).count();
        proposed.held < proposed.selection.announcements.len()
    }

    /// The announcements of a known selection that are not held; none if they are the same as last time.
    pub(super) fn lacking(&mut self, value: Digest) -> Vec<(PeerId, Digest)> {
        let known = Some(self.announcements.len());
        let Some(proposed) = self.proposed.get_mut(&value) else { return Vec::new() };
        if std::mem::replace(&mut proposed.asked_at, known) == known {
            return Vec::new();
        }
        let all = proposed.selection.announcements[proposed.held..].iter();
        all.filter(|(peer, hash)| self.held.get(hash) != Some(peer)).copied().collect()
    }
}

/// Who proposes in which view: those whose contributions were aggregated last, beginning with another one in each round,
/// then the others. So a member that withholds its contribution, or proposed nothing that was decided, is among the last.
///
/// Before an era, members hold different states, so only what all of them know decides.
pub(super) fn proposers(terms: &RunTerms, head: &Head, position: Position) -> Vec<PeerId> {
    if position.round == 0 {
        let mut members: Vec<PeerId> = terms.members.iter().copied().collect();
        members.rotate_left(position.era as usize % terms.members.len());
        return members;
    }
    let standing = &head.standing;
    let is_first = |peer: &&PeerId| {
        let is_last = standing.removed.contains(*peer) || standing.passed.contains_key(*peer);
        standing.contributors.contains(*peer) && !is_last
    };
    let (mut first, mut rest): (Vec<PeerId>, Vec<PeerId>) = terms.members.iter().partition(|peer| is_first(peer));
    rest.sort_by_key(|peer| (standing.removed.contains(peer), standing.passed.get(peer)));
    let rotated = if first.is_empty() { &mut rest } else { &mut first };
    let by = (position.round + u64::from(position.era)) % rotated.len() as u64;
    rotated.rotate_left(by as usize);
    first.extend(rest);
    first
}
