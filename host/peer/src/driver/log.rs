//! The records that the peer has signed: kept before anyone reads them, so that after a restart it publishes the same
//! records, never different ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skein_protocol::identity::Identity;
use skein_protocol::round::announcement::Announcement;
use skein_protocol::round::record::{Header, Kind, Record};
use skein_store::{PeerStore, RecordLog, StoreError};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::watch;

use super::folder::Folder;

/// Rounds before the last one whose records and contributions are kept. Peers that died together with their databases
/// continue from no older state: each published its check only when the checkpoint of the previous round was on disk.
const ROUNDS_KEPT: u64 = 1;
/// Most records read from the peer's own store. It keeps some thousands, and others may write to it without end.
const RECORDS_READ_MAX: usize = 10_000;

/// The peer's own records of its last rounds.
#[derive(Debug)]
pub struct Log {
    records: BTreeMap<(u64, Kind), Record>,
    /// Hash of the last record that was dropped.
    last: Digest,
    folder: Option<Arc<Folder>>,
    checkpointed: Arc<watch::Sender<u64>>,
}

impl Log {
    /// A log in memory, for peers whose stores are in memory too.
    pub fn volatile() -> Log {
        Log {
            records: BTreeMap::new(),
            last: Digest::default(),
            folder: None,
            checkpointed: Arc::new(watch::Sender::new(u64::MAX)),
        }
    }

    /// The log in a folder, with the records that the peer `me` signed in `run`. The checkpoint beside it is of round
    /// `checkpointed`.
    ///
    /// # Errors
    /// Another host uses the folder, or its files cannot be read or written.
    pub fn open(dir: &Path, me: PeerId, run: Digest, checkpointed: u64) -> Result<Log> {
        let (folder, records) = Folder::open(dir)?;
        let mut log = Log::volatile();
        for record in records {
            if is_own(&record, me, run) {
                log.insert(record);
            }
        }
        log.folder = Some(Arc::new(folder));
        log.checkpointed = Arc::new(watch::Sender::new(checkpointed));
        Ok(log)
    }

    /// Sender for the round of the checkpoint on disk; `None` if nothing waits for it.
    pub(crate) fn checkpointed(&self) -> Option<Arc<watch::Sender<u64>>> {
        self.folder.is_some().then(|| self.checkpointed.clone())
    }

    /// Waits until the checkpoint on disk is of `round` or later.
    pub(super) async fn wait_for_checkpoint(&self, round: u64) {
        // This log holds the sender, so it is never dropped.
        let _ = self.checkpointed.subscribe().wait_for(|written| *written >= round).await;
    }

    /// Reconciles the log and the store of a peer that continues from the state of `round`: each gets the records that
    /// it lacks. A database that came back empty gets those that others may still read, up to the next round.
    ///
    /// # Errors
    /// The store or the folder fails.
    pub(super) async fn reconcile(&mut self, store: &dyn RecordLog, me: PeerId, run: Digest, round: u64) -> Result<()> {
        self.forget(round);
        let mut published = Vec::new();
        let mut number = 0;
        loop {
            let records = store.records(number, Duration::ZERO).await?;
            let Some((last, _)) = records.last() else { break };
            number = *last;
            // Anyone who can write to the peer's own store can leave anything there.
            published.extend(records.into_iter().filter_map(|(_, bytes)| Record::decode(&bytes).ok()));
            if published.len() > RECORDS_READ_MAX {
                break;
            }
        }
        let matters = |record: &Record| is_own(record, me, run) && record.header().round + ROUNDS_KEPT >= round;
        published.retain(matters);
        for record in &published {
            let Header { round, kind, .. } = *record.header();
            if !self.records.contains_key(&(round, kind)) {
                self.keep(record.clone()).await?;
            }
        }
        // Records of later rounds are published again in those rounds. Before that, the others would think that this
        // peer is past this round, and that the values it has to compute again are no longer kept.
        let is_due = |record: &&Record| record.header().round <= round + 1 && !published.contains(record);
        for record in self.records.values().filter(is_due) {
            store.publish(record.encode()).await?;
        }
        Ok(())
    }

    /// The record for the round and kind of `header`: the one signed before, whatever its payload, or a new one. It is
    /// kept when this returns.
    ///
    /// # Errors
    /// The folder cannot be written, in which case the record must not be published; or another state was signed.
    pub(super) async fn sign_once(&mut self, identity: &Identity, header: Header, payload: Vec<u8>) -> Result<Record> {
        if let Some(signed) = self.records.get(&(header.round, header.kind)) {
            // The state has changed: a second record would prove equivocation, and the first one is wrong here.
            ensure!(
                signed.header().state == header.state && (header.kind != Kind::Check || signed.payload() == payload),
                "this peer has signed another state for round {} than it has now: its database or its `dir` changed; \
                 restore both, or start it with the checkpoint of another peer and an empty database",
                header.round
            );
            return Ok(signed.clone());
        }
        let record = Record::sign(identity, header, payload);
        self.keep(record.clone()).await?;
        Ok(record)
    }

    async fn keep(&mut self, record: Record) -> Result<()> {
        self.insert(record.clone());
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let kept: Vec<Record> = self.records.values().cloned().collect();
        let written = tokio::task::spawn_blocking(move || folder.append(&record, &kept)).await;
        written.context("writing a record was cut short")?
    }

    fn insert(&mut self, record: Record) {
        let Header { round, kind, .. } = *record.header();
        // The first record counts: others may have read it.
        self.records.entry((round, kind)).or_insert(record);
    }

    /// Hash of the last record, which the next one follows; zero before the first.
    pub(super) fn last(&self) -> Digest {
        self.records.last_key_value().map_or(self.last, |(_, record)| record.hash())
    }

    /// Drops records of rounds that no peer needs once `round` is finished.
    pub(super) fn forget(&mut self, round: u64) {
        let kept = self.records.split_off(&(round.saturating_sub(ROUNDS_KEPT), Kind::Announcement));
        let dropped = std::mem::replace(&mut self.records, kept);
        if let Some((_, record)) = dropped.last_key_value() {
            self.last = record.hash();
        }
    }

    /// The header of the vote for `round`, if the peer was stopped after the vote and before its check.
    pub(super) fn unchecked_vote(&self, round: u64) -> Option<Header> {
        let vote = self.records.get(&(round, Kind::Vote))?;
        (!self.records.contains_key(&(round, Kind::Check))).then(|| *vote.header())
    }

    /// Whether the record of that round and kind was signed.
    pub(super) fn has(&self, round: u64, kind: Kind) -> bool {
        self.records.contains_key(&(round, kind))
    }

    /// The peer's contribution to `round` from its store, to be kept beside the checkpoint of the round: it cannot be
    /// computed again from a later state, and a peer with an earlier one needs it. `None` if the log is volatile.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn own_contribution(
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
        let announced = self.records.values().filter(|record| record.header().kind == Kind::Announcement);
        let announced = announced
            .filter_map(|record| Some((record.header().round, Announcement::decode(record.payload())?.values)));
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

fn is_own(record: &Record, me: PeerId, run: Digest) -> bool {
    let header = record.header();
    header.peer == me && header.run == run
}

#[cfg(test)]
mod tests {
    use skein_store::{Contributions, Embedded};

    use super::*;

    const RUN: Digest = Digest([1; 32]);

    fn header(identity: &Identity, round: u64, kind: Kind) -> Header {
        Header { run: RUN, round, peer: identity.id(), kind, state: Digest([2; 32]), previous: Digest([3; 32]) }
    }

    async fn published(store: &Embedded) -> Vec<Record> {
        let records = store.records(0, Duration::ZERO).await.expect("readable");
        records.iter().map(|(_, bytes)| Record::decode(bytes).expect("a record")).collect()
    }

    /// After host and database were killed together, an honest peer signed other records, and counted as a liar.
    #[tokio::test]
    async fn signed_records_are_published_again_although_the_database_lost_them() {
        let me = Identity::derived(1, 0);
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), me.id(), RUN, 0).expect("a log");
        let check = log.sign_once(&me, header(&me, 6, Kind::Check), vec![9; 32]).await.expect("kept");
        let vote = log.sign_once(&me, header(&me, 7, Kind::Vote), vec![1]).await.expect("kept");
        drop(log);

        let mut log = Log::open(dir.path(), me.id(), RUN, 0).expect("a log");
        let empty = Embedded::default();
        log.reconcile(&empty, me.id(), RUN, 6).await.expect("settled");
        assert_eq!(published(&empty).await, [check.clone(), vote.clone()]);
        log.reconcile(&empty, me.id(), RUN, 6).await.expect("settled");
        assert_eq!(published(&empty).await.len(), 2, "no record twice");
        let again = log.sign_once(&me, header(&me, 7, Kind::Vote), vec![2]).await.expect("kept");
        assert_eq!(again, vote, "never another one");
        assert_eq!(log.last(), vote.hash());
        let elsewhere = Header { state: Digest([7; 32]), ..header(&me, 7, Kind::Vote) };
        let error = log.sign_once(&me, elsewhere, vec![1]).await.expect_err("of another state").to_string();
        assert!(error.contains("another state for round 7"), "{error}");
        assert!(log.sign_once(&me, header(&me, 6, Kind::Check), vec![8; 32]).await.is_err(), "of another check");
        drop(log);
        let mut elsewhere = Log::open(dir.path(), me.id(), Digest([8; 32]), 0).expect("a log");
        let other = elsewhere.sign_once(&me, header(&me, 7, Kind::Vote), vec![2]).await.expect("kept");
        assert_ne!(other, vote, "of another job");
    }

    /// A peer whose checkpoint is a round behind its records seemed to be ahead of all that were killed with it, and to
    /// have lost the values that they needed.
    #[tokio::test]
    async fn records_of_later_rounds_are_not_published_before_the_peer_is_there() {
        let me = Identity::derived(1, 0);
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), me.id(), RUN, 6).expect("a log");
        let vote = log.sign_once(&me, header(&me, 7, Kind::Vote), vec![1]).await.expect("kept");
        let next = log.sign_once(&me, header(&me, 8, Kind::Announcement), vec![2]).await.expect("kept");
        let empty = Embedded::default();
        log.reconcile(&empty, me.id(), RUN, 6).await.expect("settled");
        assert_eq!(published(&empty).await, std::slice::from_ref(&vote));
        let again = log.sign_once(&me, header(&me, 8, Kind::Announcement), vec![3]).await.expect("kept");
        assert_eq!(again, next, "it is published in its round, unchanged");
        log.reconcile(&empty, me.id(), RUN, 7).await.expect("settled");
        assert_eq!(published(&empty).await, [vote, next]);
    }

    #[tokio::test]
    async fn records_that_only_the_database_has_are_published_again_too() {
        let me = Identity::derived(1, 0);
        let other = Identity::derived(1, 1);
        let store = Embedded::default();
        let vote = Record::sign(&me, header(&me, 7, Kind::Vote), vec![1]);
        let foreign = Record::sign(&other, header(&other, 7, Kind::Announcement), vec![5]);
        let old = Record::sign(&me, header(&me, 2, Kind::Check), vec![9; 32]);
        for record in [&old, &vote, &foreign, &vote] {
            store.publish(record.encode()).await.expect("published");
        }
        store.publish(b"nonsense".to_vec()).await.expect("published");
        let mut log = Log::volatile();
        log.reconcile(&store, me.id(), RUN, 6).await.expect("settled");
        assert_eq!(log.sign_once(&me, header(&me, 7, Kind::Vote), vec![2]).await.expect("said"), vote);
        let own = log.sign_once(&me, header(&me, 7, Kind::Announcement), vec![4]).await.expect("said");
        assert_eq!(own.payload(), [4], "not another peer's");
        assert_eq!(log.records.len(), 2, "none that no longer matters");
    }

    #[tokio::test]
    async fn a_check_that_was_not_published_is_due() {
        let me = Identity::derived(1, 0);
        let mut log = Log::volatile();
        assert_eq!(log.unchecked_vote(7), None, "it did not even vote");
        let vote = log.sign_once(&me, header(&me, 7, Kind::Vote), vec![1]).await.expect("said");
        assert_eq!(log.unchecked_vote(7), Some(*vote.header()), "it voted and was stopped");
        log.sign_once(&me, header(&me, 7, Kind::Check), vec![4; 32]).await.expect("said");
        assert_eq!(log.unchecked_vote(7), None);
        let last = log.last();
        log.forget(9);
        assert!(log.records.is_empty());
        assert_eq!(log.last(), last, "the next one still follows it");
    }

    #[tokio::test]
    async fn contributions_match_their_announcements() {
        let me = Identity::derived(1, 0);
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), me.id(), RUN, 0).expect("a log");
        let values = Values::from(vec![1.0, 2.0]);
        let announcement = Announcement { values: values.statistics().hash, samples: 1, loss: 0.5, evaluation: None };
        log.sign_once(&me, header(&me, 7, Kind::Announcement), announcement.encode()).await.expect("said");
        assert!(log.contributions().await.expect("read").is_empty());
        for (values, expected) in [(values.clone(), 1), (vec![1.0, 3.0].into(), 0)] {
            let store = Embedded::default();
            store.put_contribution(7, me.id(), values).await.expect("kept");
            let own = log.own_contribution(&store, me.id(), 7).await.expect("readable");
            own.expect("a folder").save().expect("kept");
            assert_eq!(log.contributions().await.expect("read").len(), expected);
        }
    }
}
