//! One process of a member: its node, its disk and its database.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skein_protocol::node::{Entry, KeptLog, Node};
use skein_protocol::record::{Position, Record};
use skein_protocol::standing::Head;
use skein_types::PeerId;

use crate::keys::Secret;
use crate::lie::Lies;
use crate::store::Store;

/// What survives a crash of the process.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) log: KeptLog,
    pub(crate) saved: Head,
}

/// A process of a member, with its disk and database.
pub(crate) struct Seat {
    pub(crate) secret: Secret,
    /// The index of its member among all, by key.
    pub(crate) member: usize,
    /// What it does if it lies.
    pub(crate) lies: Option<Lies>,
    /// Whether it does nothing that proves that it lies.
    pub(crate) is_cautious: bool,
    /// Whether it is killed as soon as it writes its next record.
    pub(crate) is_doomed: bool,
    /// Whether its member lies or shares its key: nothing it does is judged.
    pub(crate) is_byzantine: bool,
    pub(crate) node: Option<Node>,
    /// Counts its lives: what was begun in an earlier one is dropped.
    pub(crate) life: u32,
    pub(crate) disk: Disk,
    pub(crate) writing: VecDeque<Entry>,
    pub(crate) is_syncing: bool,
    pub(crate) store: Store,
    /// Next record to read of each seat, and in which generation of its store.
    pub(crate) cursors: BTreeMap<usize, (u32, usize)>,
    /// When the node is woken next.
    pub(crate) wakes_at: Option<u64>,
    /// Its clock: how far ahead it began, and microseconds in a million that it gains.
    pub(crate) offset: Duration,
    pub(crate) gains: i64,
    /// How long it computes, in microseconds.
    pub(crate) compute_us: u64,
    /// Whether it computes the same contribution twice.
    pub(crate) is_reproducible: bool,
    pub(crate) is_finished: bool,
    /// The round of the contribution that it computes or has computed.
    pub(crate) computing: Option<Position>,
    /// Whether it evaluates the state before that round too.
    pub(crate) is_evaluating: bool,
}

impl Seat {
    /// The member's key.
    pub(crate) fn id(&self) -> PeerId {
        use skein_protocol::keys::Signer;
        self.secret.id()
    }

    /// The time on its clock.
    pub(crate) fn clock(&self, now: u64) -> Duration {
        let gained = i128::from(now) * i128::from(self.gains) / 1_000_000;
        self.offset + Duration::from_micros((i128::from(now) + gained) as u64)
    }

    /// When its clock will show `at`.
    pub(crate) fn when(&self, at: Duration) -> u64 {
        let shown = at.saturating_sub(self.offset).as_micros() as i128;
        // Rounded up, so that the clock shows at least that.
        (shown * 1_000_000 / (1_000_000 + i128::from(self.gains))) as u64 + 1
    }

    /// Writes the first `count` waiting entries.
    pub(crate) fn sync(&mut self, count: usize) -> Vec<Arc<Record>> {
        let mut records = Vec::new();
        for entry in self.writing.drain(..count) {
            if let Entry::Signed(record) = &entry {
                records.push(record.clone());
            }
            self.disk.log.keep(entry);
        }
        records
    }
}
