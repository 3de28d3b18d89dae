//! What the peer has signed: kept before anybody reads it, so that after a restart it says the same again, and never
//! something else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skein_protocol::announcement::Announcement;
use skein_protocol::identity::Identity;
use skein_protocol::record::{Header, Kind, Record};
use skein_store::{PeerStore, RecordLog, StoreError};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::watch;

use super::folder::Folder;

/// Rounds before the last one whose records and contributions are kept. Of peers that died together with their databases
/// none goes on from an older state: each published its check only when the checkpoint of the round before was on disk.
const ROUNDS_KEPT: u64 = 1;
/// Most records that are read of the own store. It keeps some thousands, and others can write to it without end.
const RECORDS_READ_MAX: usize = 10_000;

/// The peer's own records of its last rounds.
#[derive(Debug)]
pub struct Log {
    records: BTreeMap<(u64, Kind), Record>,
    /// Hash of the last record before them.
    last: Digest,
    folder: Option<Arc<Folder>>,
    checkpointed: Arc<watch::Sender<u64>>,
}

impl Log {
    /// A log that ends with the process, for peers whose stores do so too.
    pub fn volatile() -> Log {
        Log {
            records: BTreeMap::new(),
            last: Digest::default(),
            folder: None,
            checkpointed: Arc::new(watch::Sender::new(u64::MAX)),
        }
    }

    /// The log in a folder, with the records that the peer `me` signed for `job`. The checkpoint beside it is of round
    /// `checkpointed`.
    ///
    /// # Errors
    /// Another host uses the folder, or its files cannot be used.
    pub fn open(dir: &Path, me: PeerId, job: Digest, checkpointed: u64) -> Result<Log> {
        let (folder, records) = Folder::open(dir)?;
        let mut log = Log::volatile();
        for record in records {
            if is_own(&record, me, job) {
                log.insert(record);
            }
        }
        log.folder = Some(Arc::new(folder));
        log.checkpointed = Arc::new(watch::Sender::new(checkpointed));
        Ok(log)
    }

    /// Where to tell which round the checkpoint on disk is of; none if nothing waits for it.
    pub(crate) fn checkpointed(&self) -> Option<Arc<watch::Sender<u64>>> {
        self.folder.is_some().then(|| self.checkpointed.clone())
    }

    /// Waits until the checkpoint on disk is of `round` or a later one.
    pub(super) async fn wait_for_checkpoint(&self, round: u64) {
        // The sender is this log's own, so it is never gone.
        let _ = self.checkpointed.subscribe().wait_for(|written| *written >= round).await;
    }

    /// Brings the log and the store together once the state of `round` is what the peer goes on from: what either of them
    /// lacks is taken from the other. A database that came back empty gets what others may still have to read of the rounds
    /// up to the next.
    ///
    /// # Errors
    /// The store or the folder fails.
    pub(super) async fn settle(&mut self, store: &dyn RecordLog, me: PeerId, job: Digest, round: u64) -> Result<()> {
        self.forget(round);
        let mut published = Vec::new();
        let mut number = 0;
        loop {
            let records = store.records(number, Duration::ZERO).await?;
            let Some((last, _)) = records.last() else { break };
            number = *last;
            // Others that can write to the peer's own store can leave anything there.
            published.extend(records.into_iter().filter_map(|(_, bytes)| Record::decode(&bytes).ok()));
            if published.len() > RECORDS_READ_MAX {
                break;
            }
        }
        let matters = |record: &Record| is_own(record, me, job) && record.header().round + ROUNDS_KEPT >= round;
        published.retain(matters);
        for record in &published {
            let Header { round, kind, .. } = *record.header();
            if !self.records.contains_key(&(round, kind)) {
                self.keep(record.clone()).await?;
            }
        }
        // What it said of rounds further on it says again there. Until then the others would take it for one that has left
        // this round behind, and what it has to compute again for values that nobody keeps any more.
        let is_due = |record: &&Record| record.header().round <= round + 1 && !published.contains(record);
        for record in self.records.values().filter(is_due) {
            store.publish(record.encode()).await?;
        }
        Ok(())
    }

    /// The record with that header: the one that was signed before, whatever it says, or a new one. It is kept when this
    /// returns.
    ///
    /// # Errors
    /// The folder cannot be written; the record must not be published then.
    pub(super) async fn say(&mut self, identity: &Identity, header: Header, payload: Vec<u8>) -> Result<Record> {
        if let Some(said) = self.records.get(&(header.round, header.kind)) {
            // Both would be proof against this peer, or lead it astray: the state is not what it was.
            ensure!(
                said.header().state == header.state && (header.kind != Kind::Check || said.payload() == payload),
                "this peer has signed another state for round {} than it has now: its database or its `dir` holds \
                 something else than before; restore both, or give it the checkpoint of another peer and an empty database",
                header.round
            );
            return Ok(said.clone());
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
        written.context("keeping a record was cut short")?
    }

    fn insert(&mut self, record: Record) {
        let Header { round, kind, .. } = *record.header();
        // The first one counts: it is the one that others may have read.
        self.records.entry((round, kind)).or_insert(record);
    }

    /// Hash of the last record, which the next one follows; zero before the first.
    pub(super) fn last(&self) -> Digest {
        self.records.last_key_value().map_or(self.last, |(_, record)| record.hash())
    }

    /// Drops records of rounds that no peer has to hear of again once `round` is finished.
    pub(super) fn forget(&mut self, round: u64) {
        let kept = self.records.split_off(&(round.saturating_sub(ROUNDS_KEPT), Kind::Announcement));
        let dropped = std::mem::replace(&mut self.records, kept);
        if let Some((_, record)) = dropped.last_key_value() {
            self.last = record.hash();
        }
    }

    /// The header of the vote for `round`, if the peer was ended after it and before it said what state came of it.
    pub(super) fn unchecked_vote(&self, round: u64) -> Option<Header> {
        let vote = self.records.get(&(round, Kind::Vote))?;
        (!self.records.contains_key(&(round, Kind::Check))).then(|| *vote.header())
    }

    /// Whether the record of that round and kind was signed.
    pub(super) fn has(&self, round: u64, kind: Kind) -> bool {
        self.records.contains_key(&(round, kind))
    }

    /// The own contribution to `round` as the store has it, to be kept beside the checkpoint of the round: it cannot be
    /// computed again from a later state, and a peer with an earlier one needs it. None if the log ends with the process.
    ///
    /// # Errors
    /// The store's own.
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

    /// The own contributions that are kept, by round, as they were announced.
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
                // A file that is not what others were told is of no use to them.
                (values.statistics().hash == hash).then_some((round, values))
            });
            kept.collect()
        };
        tokio::task::spawn_blocking(read).await.context("reading contributions was cut short")
    }
}

/// The own contribution to a round, to be kept on disk beside the checkpoint of that round.
#[derive(Debug, Clone)]
pub struct OwnContribution {
    folder: Arc<Folder>,
    round: u64,
    values: Values,
}

impl OwnContribution {
    /// Writes it to disk, and drops those that no peer needs any more.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        self.folder.keep_contribution(self.round, &self.values, self.round.saturating_sub(ROUNDS_KEPT))
    }
}

fn is_own(record: &Record, me: PeerId, job: Digest) -> bool {
    let header = record.header();
    header.peer == me && header.job == job
}

#[cfg(test)]
mod tests {
    use skein_store::{Contributions, Embedded};

    use super::*;

    const JOB: Digest = Digest([1; 32]);

    fn header(identity: &Identity, round: u64, kind: Kind) -> Header {
        Header { job: JOB, round, peer: identity.id(), kind, state: Digest([2; 32]), previous: Digest([3; 32]) }
    }

    async fn published(store: &Embedded) -> Vec<Record> {
        let records = store.records(0, Duration::ZERO).await.expect("readable");
        records.iter().map(|(_, bytes)| Record::decode(bytes).expect("a record")).collect()
    }

    /// After host and database were killed together, an honest peer signed something else, and counted as a liar.
    #[tokio::test]
    async fn what_was_signed_is_said_again_although_the_database_lost_it() {
        let me = Identity::derived(1, 0);
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), me.id(), JOB, 0).expect("a log");
        let check = log.say(&me, header(&me, 6, Kind::Check), vec![9; 32]).await.expect("kept");
        let vote = log.say(&me, header(&me, 7, Kind::Vote), vec![1]).await.expect("kept");
        drop(log);

        let mut log = Log::open(dir.path(), me.id(), JOB, 0).expect("a log");
        let empty = Embedded::default();
        log.settle(&empty, me.id(), JOB, 6).await.expect("settled");
        assert_eq!(published(&empty).await, [check.clone(), vote.clone()]);
        log.settle(&empty, me.id(), JOB, 6).await.expect("settled");
        assert_eq!(published(&empty).await.len(), 2, "no record twice");
        let again = log.say(&me, header(&me, 7, Kind::Vote), vec![2]).await.expect("kept");
        assert_eq!(again, vote, "never another one");
        assert_eq!(log.last(), vote.hash());
        let elsewhere = Header { state: Digest([7; 32]), ..header(&me, 7, Kind::Vote) };
        let error = log.say(&me, elsewhere, vec![1]).await.expect_err("of another state").to_string();
        assert!(error.contains("another state for round 7"), "{error}");
        assert!(log.say(&me, header(&me, 6, Kind::Check), vec![8; 32]).await.is_err(), "which came of it");
        drop(log);
        let mut elsewhere = Log::open(dir.path(), me.id(), Digest([8; 32]), 0).expect("a log");
        let other = elsewhere.say(&me, header(&me, 7, Kind::Vote), vec![2]).await.expect("kept");
        assert_ne!(other, vote, "of another job");
    }

    /// A peer whose checkpoint is a round behind its records seemed to be ahead of all who were killed with it, and to have
    /// lost what they needed.
    #[tokio::test]
    async fn what_was_signed_further_on_is_not_said_before_the_peer_is_there() {
        let me = Identity::derived(1, 0);
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), me.id(), JOB, 6).expect("a log");
        let vote = log.say(&me, header(&me, 7, Kind::Vote), vec![1]).await.expect("kept");
        let next = log.say(&me, header(&me, 8, Kind::Announcement), vec![2]).await.expect("kept");
        let empty = Embedded::default();
        log.settle(&empty, me.id(), JOB, 6).await.expect("settled");
        assert_eq!(published(&empty).await, [vote.clone()]);
        let again = log.say(&me, header(&me, 8, Kind::Announcement), vec![3]).await.expect("kept");
        assert_eq!(again, next, "it is said in its round, as it was");
        log.settle(&empty, me.id(), JOB, 7).await.expect("settled");
        assert_eq!(published(&empty).await, [vote, next]);
    }

    #[tokio::test]
    async fn what_only_the_database_has_is_said_again_too() {
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
        log.settle(&store, me.id(), JOB, 6).await.expect("settled");
        assert_eq!(log.say(&me, header(&me, 7, Kind::Vote), vec![2]).await.expect("said"), vote);
        let own = log.say(&me, header(&me, 7, Kind::Announcement), vec![4]).await.expect("said");
        assert_eq!(own.payload(), [4], "nobody else's");
        assert_eq!(log.records.len(), 2, "nothing that no longer matters");
    }

    #[tokio::test]
    async fn a_check_that_was_left_unsaid_is_owed() {
        let me = Identity::derived(1, 0);
        let mut log = Log::volatile();
        assert_eq!(log.unchecked_vote(7), None, "it did not even vote");
        let vote = log.say(&me, header(&me, 7, Kind::Vote), vec![1]).await.expect("said");
        assert_eq!(log.unchecked_vote(7), Some(*vote.header()), "it voted and was ended");
        log.say(&me, header(&me, 7, Kind::Check), vec![4; 32]).await.expect("said");
        assert_eq!(log.unchecked_vote(7), None);
        let last = log.last();
        log.forget(9);
        assert!(log.records.is_empty());
        assert_eq!(log.last(), last, "the next one follows it all the same");
    }

    #[tokio::test]
    async fn contributions_are_those_that_were_announced() {
        let me = Identity::derived(1, 0);
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(dir.path(), me.id(), JOB, 0).expect("a log");
        let values = Values::from(vec![1.0, 2.0]);
        let announcement = Announcement { values: values.statistics().hash, samples: 1, loss: 0.5, evaluation: None };
        log.say(&me, header(&me, 7, Kind::Announcement), announcement.encode()).await.expect("said");
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
