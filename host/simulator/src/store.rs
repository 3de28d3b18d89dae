//! A member's database as others read it: the log of published records, and what is served by hash.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use skein_protocol::decision::Decision;
use skein_protocol::node::Served;
use skein_protocol::record::payload::{Check, Selection};
use skein_protocol::record::{Position, Record};
use skein_protocol::standing::{Head, Standing};
use skein_types::Digest;

/// Readers by their seat, one bit each.
pub type Readers = u128;

/// Everybody.
pub const ALL: Readers = Readers::MAX;

/// Most records that a log keeps.
const RECORDS_MAX: usize = 8192;

/// A published record, and who is shown it.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) record: Arc<Record>,
    pub(crate) to: Readers,
}

/// What a database holds of one run.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Counts how often the database came back empty: readers then begin again.
    pub(crate) generation: u32,
    pub(crate) log: Vec<Published>,
    /// Records before this one were read by somebody.
    pub(crate) read_until: usize,
    published: HashSet<(Digest, Readers)>,
    /// Values by the hash with which they were asked for or computed: what they are in truth, and of which round.
    pub(crate) values: BTreeMap<Digest, (Digest, Position)>,
    pub(crate) announcements: BTreeMap<Digest, Arc<Record>>,
    pub(crate) selections: BTreeMap<Digest, (Position, Selection)>,
    pub(crate) decisions: BTreeMap<Position, Arc<Decision>>,
    pub(crate) head: Option<Head>,
    /// The state before it, which may still be asked for.
    before: Option<Head>,
}

impl Store {
    /// Loses everything.
    pub(crate) fn lose(&mut self) {
        *self = Store { generation: self.generation + 1, ..Store::default() };
    }

    /// Appends a record unless it is there; returns whether it was appended.
    pub(crate) fn publish(&mut self, record: Arc<Record>, to: Readers) -> bool {
        let is_new = self.published.insert((record.hash(), to)) && self.log.len() < RECORDS_MAX;
        if is_new {
            self.log.push(Published { record, to });
        }
        is_new
    }

    /// Appends a record once more, as a flood does.
    pub(crate) fn publish_again(&mut self, record: Arc<Record>, to: Readers) {
        if self.log.len() < RECORDS_MAX {
            self.log.push(Published { record, to });
        }
    }

    pub(crate) fn serve(&mut self, served: Served) {
        match served {
            Served::Announcement(record) => {
                self.announcements.insert(record.hash(), record);
            }
            Served::Selection(position, value, selection) => {
                self.selections.insert(value, (position, selection));
            }
            Served::Decision(decision) => {
                self.decisions.insert(decision.position, decision);
            }
        }
    }

    pub(crate) fn forget(&mut self, before: Position) {
        self.values.retain(|_, (_, position)| *position >= before);
        self.announcements.retain(|_, record| record.slot().position >= before);
        self.selections.retain(|_, (position, _)| *position >= before);
    }

    /// Replaces the state, and keeps the one before for those that still ask for it.
    pub(crate) fn set_head(&mut self, head: Head) {
        self.before = self.head.replace(head);
    }

    /// The same tensors after another round, or with another standing.
    pub(crate) fn relabel(&mut self, head: &Head) {
        if self.head.as_ref().is_some_and(|before| before.state == head.state) {
            self.head = Some(head.clone());
        }
    }

    /// A standing with this hash.
    pub(crate) fn standing(&self, hash: Digest) -> Option<&Standing> {
        let heads = [&self.head, &self.before].into_iter().flatten();
        heads.map(|head| &head.standing).find(|standing| standing.digest() == hash)
    }

    /// A state with these hashes, the current one or the one before.
    pub(crate) fn state(&self, check: Check) -> Option<&Head> {
        [&self.head, &self.before].into_iter().flatten().find(|head| head.check() == check)
    }
}
