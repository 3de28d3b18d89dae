//! Records of rounds to come, from members that are ahead: few of each member, since whatever is dropped can be read again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use skein_types::{Digest, PeerId};

use crate::record::{Position, Record};

/// Rounds ahead of the current one whose records are kept.
const ROUNDS_AHEAD: u64 = 2;
/// Most records kept of one member.
const RECORDS_MAX: usize = 64;
/// Most bytes kept of one member.
const BYTES_MAX: usize = 1 << 19;

#[derive(Debug, Default)]
pub(super) struct Early {
    records: BTreeMap<Position, Vec<Arc<Record>>>,
    known: HashSet<Digest>,
    /// Records and bytes of each member.
    quotas: BTreeMap<PeerId, (usize, usize)>,
    /// The latest position of which something in a store was dropped.
    dropped: BTreeMap<PeerId, Position>,
}

impl Early {
    /// Keeps a record that was read in the store of `owner` while this member is at `current`.
    pub(super) fn put(&mut self, current: Position, owner: PeerId, record: Arc<Record>) {
        let position = record.slot().position;
        if self.known.contains(&record.hash()) {
            return;
        }
        let is_near = if position.era == current.era {
            position.round <= current.round + ROUNDS_AHEAD
        } else {
            position == current.next_era()
        };
        let (records, bytes) = self.quotas.entry(record.peer()).or_default();
        if !is_near || *records >= RECORDS_MAX || *bytes + record.len() > BYTES_MAX {
            let dropped = self.dropped.entry(owner).or_insert(position);
            *dropped = position.max(*dropped);
            return;
        }
        *records += 1;
        *bytes += record.len();
        self.known.insert(record.hash());
        self.records.entry(position).or_default().push(record);
    }

    /// Keeps records that were accepted before.
    pub(super) fn put_back(&mut self, position: Position, records: Vec<Arc<Record>>) {
        self.known.extend(records.iter().map(|record| record.hash()));
        self.records.entry(position).or_default().extend(records);
    }

    /// The records of a position; those of earlier ones are dropped.
    pub(super) fn take(&mut self, position: Position) -> Vec<Arc<Record>> {
        let later = self.records.split_off(&position.next());
        let mut taken = std::mem::replace(&mut self.records, later);
        let taken_now = taken.remove(&position).unwrap_or_default();
        self.known.clear();
        self.quotas.clear();
        for record in self.records.values().flatten() {
            self.known.insert(record.hash());
            let (records, bytes) = self.quotas.entry(record.peer()).or_default();
            *records += 1;
            *bytes += record.len();
        }
        taken_now
    }

    /// The records of a position, which stay.
    pub(super) fn of(&self, position: Position) -> impl Iterator<Item = &Arc<Record>> {
        self.records.get(&position).into_iter().flatten()
    }

    /// The stores in which something of this position or a later one was dropped; they are told once.
    pub(super) fn dropped(&mut self, position: Position) -> Vec<PeerId> {
        let again: Vec<PeerId> =
            self.dropped.iter().filter(|(_, of)| **of >= position).map(|(owner, _)| *owner).collect();
        again.iter().for_each(|owner| {
            self.dropped.remove(owner);
        });
        again
    }

    pub(super) fn is_known(&self, hash: &Digest) -> bool {
        self.known.contains(hash)
    }

    pub(super) fn bytes_kept(&self) -> usize {
        self.records.values().flatten().map(|record| record.len()).sum()
    }
}
