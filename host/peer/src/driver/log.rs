//! What the peer keeps besides its state: the records that it signs and what binds it, before anyone can see them, so that
//! after a restart it says the same, never anything else.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use skein_protocol::node::{Entry, KeptLog};
use skein_protocol::record::payload::Body;
use skein_protocol::record::{Position, Record};
use skein_store::{PeerStore, StoreError};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::watch;

use super::folder::Folder;

/// Rounds before the last one whose contribution is kept. A peer that signs the state after a round has the state before that
/// round on disk, so nobody continues from an older one.
const ROUNDS_KEPT: u64 = 1;
/// Position of the state on disk for peers that keep nothing there.
const ALWAYS: Position = Position { era: u32::MAX, round: u64::MAX };

/// The peer's log.
#[derive(Debug)]
pub struct Log {
    kept: KeptLog,
    /// Entries that are not on disk yet.
    waiting: Vec<Entry>,
    folder: Option<Arc<Folder>>,
    checkpointed: Arc<watch::Sender<Position>>,
}

impl Log {
    /// A log in memory, for peers whose stores are in memory too.
    pub fn volatile() -> Log {
        let checkpointed = Arc::new(watch::Sender::new(ALWAYS));
        Log { kept: KeptLog::default(), waiting: Vec::new(), folder: None, checkpointed }
    }

    /// The log in a folder, of the peer `me` in `run`. The checkpoint beside it is of `checkpointed`.
    ///
    /// # Errors
    /// Another host uses the folder, its files cannot be read or written, or they are of another run or peer.
    pub fn open(dir: &Path, me: PeerId, run: Digest, checkpointed: Position) -> Result<Log> {
        let (folder, entries) = Folder::open(dir, me, run)?;
        let mut kept = KeptLog::default();
        entries.into_iter().for_each(|entry| kept.keep(entry));
        let checkpointed = Arc::new(watch::Sender::new(checkpointed));
        Ok(Log { kept, waiting: Vec::new(), folder: Some(Arc::new(folder)), checkpointed })
    }

    /// Whether anything outlives the process.
    pub(super) fn is_durable(&self) -> bool {
        self.folder.is_some()
    }

    /// What an earlier process kept.
    pub(super) fn kept(&self) -> &KeptLog {
        &self.kept
    }

    /// The position of the state on disk.
    pub(super) fn saved(&self) -> Position {
        *self.checkpointed.borrow()
    }

    /// A random number with which the peer finds out whether it lost an earlier log; `None` if nothing outlives the process.
    ///
    /// # Errors
    /// The operating system provides no random bytes.
    pub(super) fn inquiry(&self) -> Result<Option<[u8; 16]>> {
        if !self.is_durable() {
            return Ok(None);
        }
        let mut number = [0; 16];
        getrandom::fill(&mut number).context("the operating system provided no random bytes")?;
        Ok(Some(number))
    }

    /// Receiver of the position of the state on disk; `None` if nothing waits for it.
    pub(super) fn checkpointed(&self) -> Option<watch::Receiver<Position>> {
        self.is_durable().then(|| self.checkpointed.subscribe())
    }

    /// Sender of the position of the state on disk; `None` if nothing waits for it.
    pub(crate) fn checkpoints(&self) -> Option<Arc<watch::Sender<Position>>> {
        self.is_durable().then(|| self.checkpointed.clone())
    }

    /// Adds a record that the peer has signed, unless it may be signed again.
    pub(super) fn sign(&mut self, record: &Arc<Record>) {
        if record.slot().kind.is_signed_once() {
            self.keep(Entry::Signed(record.clone()));
        }
    }

    /// Adds an entry, which is on disk after [`Log::flush`].
    pub(super) fn keep(&mut self, entry: Entry) {
        if self.is_durable() {
            self.waiting.push(entry);
        }
    }

    /// Writes what was added since the last time; on disk when this returns.
    ///
    /// # Errors
    /// The folder cannot be written, in which case nothing that was signed may be published.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let Some(folder) = self.folder.clone().filter(|_| !self.waiting.is_empty()) else { return Ok(()) };
        let entries = std::mem::take(&mut self.waiting);
        entries.iter().for_each(|entry| self.kept.keep(entry.clone()));
        let all = folder.is_full().then(|| self.kept.entries());
        let written = tokio::task::spawn_blocking(move || match all {
            Some(all) => folder.replace(&all),
            None => folder.append(&entries),
        });
        written.await.context("writing the log was cut short")?
    }

    /// The peer's contribution to a round from its store, to be kept beside the checkpoint of the round: it cannot be
    /// computed again from a later state, and a peer with an earlier one needs it. `None` if the log is volatile.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn own_contribution(
        &self,
        store: &dyn PeerStore,
        me: PeerId,
        round: u64,
    ) -> Result<Option<OwnContribution>, StoreError> {
        let Some(folder) = self.folder.clone() else { return Ok(None) };
        let values = store.contribution(round, me).await?;
        Ok(values.map(|values| OwnContribution { folder, round, values }))
    }

    /// The peer's kept contributions by round, if they match their announcements.
    ///
    /// # Errors
    /// Reading them was cut short.
    pub(super) async fn contributions(&self) -> Result<Vec<(u64, Values)>> {
        let Some(folder) = self.folder.clone() else { return Ok(Vec::new()) };
        let announced = self.kept.records.iter().filter_map(|record| match record.body() {
            Body::Announcement(announcement) => Some((record.slot().position.round, announcement.values)),
            _ => None,
        });
        let announced: Vec<(u64, Digest)> = announced.collect();
        let read = move || {
            let kept = announced.into_iter().filter_map(|(round, hash)| {
                let values = Values::from(folder.kept_contribution(round)?);
                // A file that does not match the announcement is of no use to others.
                (values.statistics().hash == hash).then_some((round, values))
            });
            kept.collect()
        };
        tokio::task::spawn_blocking(read).await.context("reading contributions was cut short")
    }
}

/// The peer's contribution to a round, to be kept on disk beside the checkpoint of that round.
#[derive(Debug, Clone)]
pub struct OwnContribution {
    folder: Arc<Folder>,
    round: u64,
    values: Values,
}

impl OwnContribution {
    /// Writes it to disk, and deletes those that no peer needs any more.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        self.folder.keep_contribution(self.round, &self.values, self.round.saturating_sub(ROUNDS_KEPT))
    }
}

#[cfg(test)]
mod tests {
    use skein_protocol::identity::Identity;
    use skein_protocol::record::payload::{Announcement, Check};
    use skein_protocol::record::{Kind, Slot, Statement};
    use skein_store::{Contributions, Embedded};

    use super::*;

    const RUN: Digest = Digest([1; 32]);

    fn me() -> Identity {
        Identity::derived(1, 0)
    }

    fn open(dir: &Path) -> Log {
        Log::open(dir, me().id(), RUN, Position { era: 0, round: 6 }).expect("a log")
    }

    fn signed(round: u64, kind: Kind, body: Body) -> Arc<Record> {
        let slot = Slot { run: RUN, position: Position { era: 0, round }, view: 0, kind, peer: me().id() };
        Arc::new(Statement { slot, body }.sign(&me()))
    }

    fn announcing(round: u64, values: &Values) -> Arc<Record> {
        let values = values.statistics().hash;
        let announcement = Announcement { state: Digest([2; 32]), values, samples: 1, loss: 1.0, evaluation: None };
        signed(round, Kind::Announcement, Body::Announcement(announcement))
    }

    /// After host and database were killed together, an honest peer signed other records, and counted as a liar.
    #[tokio::test]
    async fn what_was_signed_outlives_the_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = open(dir.path());
        assert_eq!(log.saved(), Position { era: 0, round: 6 });
        let vote = signed(7, Kind::Prevote, Body::Vote(None));
        let inquiry = signed(0, Kind::Inquiry, Body::Inquiry([1; 16]));
        log.sign(&vote);
        log.sign(&inquiry);
        log.keep(Entry::Lost(Position { era: 0, round: 5 }));
        log.flush().await.expect("written");
        log.sign(&signed(8, Kind::Check, Body::Check(Check { state: RUN, standing: RUN })));
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.kept().records, [vote], "not what may be signed again, nor what was not flushed");
        assert_eq!(log.kept().lost, Some(Position { era: 0, round: 5 }));
        assert!(log.inquiry().expect("random bytes").is_some() && Log::volatile().inquiry().expect("none").is_none());
    }

    #[tokio::test]
    async fn contributions_are_kept_if_they_are_the_announced_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Embedded::default();
        let mut log = open(dir.path());
        let values: Vec<Values> = [1.0, 2.0].map(|value| Values::from(vec![value; 3])).into();
        for (round, announced) in [(7, &values[0]), (8, &values[0])] {
            log.sign(&announcing(round, announced));
            let kept = values[round as usize - 7].clone();
            store.put_contribution(round, me().id(), kept).await.expect("kept");
            let own = log.own_contribution(&store, me().id(), round).await.expect("readable").expect("it is durable");
            own.save().expect("written");
        }
        log.flush().await.expect("written");
        drop(log);
        let kept = open(dir.path()).contributions().await.expect("readable");
        assert_eq!(kept, [(7, values[0].clone())], "the other one was announced with another hash");
        assert!(Log::volatile().own_contribution(&store, me().id(), 7).await.expect("readable").is_none());
    }
}
