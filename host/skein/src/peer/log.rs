//! What the peer has said already: after a restart it says the same again, and never something else.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use skein_kernels::Digest;
use skein_store::Store;
use skein_workflow::identity::{Identity, PeerId};
use skein_workflow::record::{Header, Kind, Record};

/// The peer's own records of the rounds that it has not finished, and the last one before them.
#[derive(Debug, Default)]
pub(super) struct History {
    records: BTreeMap<(u64, Kind), Record>,
    last: Option<(u64, Digest)>,
}

impl History {
    /// Reads what the peer published before it was last ended, `round` being the last one it applied.
    pub(super) async fn read(store: &dyn Store, me: PeerId, job: Digest, round: u64) -> Result<History> {
        let mut history = History::default();
        let mut number = 0;
        loop {
            let records = store.records(number, Duration::ZERO).await?;
            let Some((last, _)) = records.last() else { break };
            number = *last;
            for (_, bytes) in records {
                // Whoever can write to the peer's own store can leave anything there.
                let Ok(record) = Record::decode(&bytes) else { continue };
                let Header { job: of, peer, .. } = *record.header();
                if peer == me && of == job {
                    history.add(record);
                }
            }
        }
        history.forget(round);
        Ok(history)
    }

    /// The record with that header: the one that was signed before, whatever it says, or a new one.
    pub(super) fn say(&mut self, identity: &Identity, header: Header, payload: Vec<u8>) -> Record {
        let key = (header.round, header.kind);
        self.records.entry(key).or_insert_with(|| Record::sign(identity, header, payload)).clone()
    }

    fn said(&self, round: u64, kind: Kind) -> Option<&Record> {
        self.records.get(&(round, kind))
    }

    /// All of them, in their order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    pub(super) fn add(&mut self, record: Record) {
        let Header { round, kind, .. } = *record.header();
        self.records.insert((round, kind), record);
    }

    /// Drops records of rounds before `round`, but for the hash of the last.
    pub(super) fn forget(&mut self, round: u64) {
        let kept = self.records.split_off(&(round, Kind::Announcement));
        let dropped = std::mem::replace(&mut self.records, kept);
        if let Some((_, record)) = dropped.into_iter().next_back() {
            self.last = Some((record.header().round, record.hash()));
        }
    }

    /// Hash of the last record of a round before `round`, which that round's first record follows.
    pub(super) fn before(&self, round: u64) -> Option<Digest> {
        let kept = self.records.range(..(round, Kind::Announcement)).next_back().map(|(_, record)| record.hash());
        kept.or_else(|| self.last.filter(|(last, _)| *last < round).map(|(_, hash)| hash))
    }

    /// The check that a peer owes the others which was ended after it had applied `round` and before it said so.
    pub(super) fn owed(&self, identity: &Identity, round: u64, state_hash: Digest) -> Option<Record> {
        let vote = self.said(round, Kind::Vote)?;
        if self.said(round, Kind::Check).is_some() {
            return None;
        }
        let header = Header { kind: Kind::Check, previous: vote.hash(), ..*vote.header() };
        Some(Record::sign(identity, header, state_hash.0.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use skein_store::Embedded;

    use super::*;

    const JOB: Digest = Digest([1; 32]);

    fn header(identity: &Identity, round: u64, kind: Kind) -> Header {
        Header { job: JOB, round, peer: identity.id(), kind, state: Digest([2; 32]), previous: Digest([3; 32]) }
    }

    #[tokio::test]
    async fn what_was_said_before_a_restart_is_said_again() {
        let (me, other, store) = (Identity::derived(1, 0), Identity::derived(1, 1), Embedded::default());
        let mut history = History::default();
        let vote = history.say(&me, header(&me, 7, Kind::Vote), vec![1]);
        let earlier = Record::sign(&me, header(&me, 6, Kind::Check), vec![9; 32]);
        let foreign = Record::sign(&other, header(&other, 7, Kind::Announcement), vec![5]);
        for record in [&earlier, &vote, &foreign, &vote] {
            store.publish(record.encode()).await.expect("published");
        }
        store.publish(b"nonsense".to_vec()).await.expect("published");

        let mut history = History::read(&store, me.id(), JOB, 6).await.expect("readable");
        assert_eq!(history.say(&me, header(&me, 7, Kind::Vote), vec![2]), vote, "never another one");
        assert_eq!(history.before(7), Some(earlier.hash()));
        assert_eq!(history.say(&me, header(&me, 7, Kind::Announcement), vec![4]).payload(), [4], "nobody else's");
        let elsewhere = History::read(&store, me.id(), Digest([8; 32]), 6).await.expect("readable");
        assert_eq!(elsewhere.records().count(), 0, "of another job");
    }

    #[tokio::test]
    async fn a_check_that_was_left_unsaid_is_owed() {
        let (me, mut history) = (Identity::derived(1, 0), History::default());
        assert_eq!(history.owed(&me, 7, Digest([4; 32])), None, "it did not even vote");
        let vote = history.say(&me, header(&me, 7, Kind::Vote), vec![1]);
        let check = history.owed(&me, 7, Digest([4; 32])).expect("it voted and was ended");
        assert_eq!(
            (check.header().kind, check.header().previous, check.payload()),
            (Kind::Check, vote.hash(), &[4; 32][..])
        );
        history.add(check);
        assert_eq!(history.owed(&me, 7, Digest([4; 32])), None);
        history.forget(8);
        assert!(history.before(8).is_some() && history.records().next().is_none());
    }
}
