//! Rounds of several peers; the tests carry records from one to the other by hand.

mod agreement;
mod presence;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_protocol::identity::Identity;
use skein_protocol::presence::Presence;
use skein_protocol::round::announcement::{Announcement, Vote};
use skein_protocol::round::record::{Header, Kind, Record};
use skein_protocol::round::{
    Absence, Agreement, Context, Ended, Misbehaviour, Received, Round, RoundError, Step, Waits,
};
use skein_types::Digest;
use skein_types::PeerId;

const WAIT: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(100);
/// Wait for a suspect if the others are quick.
const SUSPECT_WAIT: Duration = Duration::from_secs(1);

/// The round of one peer, and the records in its store.
struct Peer {
    identity: Identity,
    round: Round,
    store: Vec<Vec<u8>>,
}

impl Peer {
    fn id(&self) -> PeerId {
        self.identity.id()
    }

    /// Signs any record, also one that an honest peer would not sign.
    fn sign(&self, header: Header, payload: Vec<u8>) -> Vec<u8> {
        Record::sign(&self.identity, header, payload).encode()
    }

    fn header(&self, kind: Kind) -> Header {
        self.round.header(kind, Digest::default())
    }
}

/// Peers of one round; records travel only by `exchange` and `read`.
struct Peers(Vec<Peer>);

fn state() -> Digest {
    Digest([7; 32])
}

fn announcement(index: usize) -> Announcement {
    Announcement { values: Digest([index as u8; 32]), samples: 10, loss: 1.0, evaluation: None }
}

impl Peers {
    fn start(count: u32, faults: u32) -> Peers {
        let mut identities: Vec<Identity> = (0..count).map(|index| Identity::derived(3, index)).collect();
        identities.sort_by_key(Identity::id);
        let roster: BTreeSet<PeerId> = identities.iter().map(Identity::id).collect();
        let context = Context { run: Digest([1; 32]), round: 4, state: state(), roster, faults };
        let start = |identity: Identity| Peer {
            round: Round::new(identity.id(), context.clone(), Presence::default(), waits(Duration::ZERO)),
            identity,
            store: Vec::new(),
        };
        Peers(identities.into_iter().map(start).collect())
    }

    /// The same peers in the next round, which begins at `now`.
    fn next_round(self, now: Duration) -> Peers {
        let roster: BTreeSet<PeerId> = self.0.iter().map(Peer::id).collect();
        let context = Context { run: Digest([1; 32]), round: 5, state: state(), roster, faults: 1 };
        let start = |peer: Peer| Peer {
            round: Round::new(peer.id(), context.clone(), peer.round.presence(), waits(now)),
            ..peer
        };
        Peers(self.0.into_iter().map(start).collect())
    }

    fn id(&self, index: usize) -> PeerId {
        self.0[index].identity.id()
    }

    fn publish(&mut self, index: usize, kind: Kind, payload: Vec<u8>) {
        let peer = &mut self.0[index];
        let record = peer.sign(peer.header(kind), payload);
        peer.round.receive(Duration::ZERO, peer.id(), &record);
        peer.store.push(record);
    }

    fn announce(&mut self, index: usize) {
        self.publish(index, Kind::Announcement, announcement(index).encode());
        self.hold(index, index, Duration::ZERO);
    }

    fn hold(&mut self, index: usize, owner: usize, now: Duration) {
        let owner = self.id(owner);
        self.0[index].round.hold(now, owner);
    }

    /// Every peer reads every store.
    fn exchange(&mut self) {
        (0..self.0.len()).for_each(|reader| self.read(reader, Duration::ZERO));
    }

    /// One peer reads every store.
    fn read(&mut self, reader: usize, now: Duration) {
        let records: Vec<(PeerId, Vec<u8>)> =
            self.0.iter().flat_map(|p| p.store.iter().map(|r| (p.id(), r.clone()))).collect();
        for (owner, record) in &records {
            assert_ne!(self.0[reader].round.receive(now, *owner, record), Received::Early);
        }
    }

    fn step(&mut self, index: usize, now: Duration) -> Result<Step, RoundError> {
        self.0[index].round.step(now)
    }

    /// Holds whatever the round wants to fetch, and publishes the vote that follows.
    fn vote(&mut self, index: usize, now: Duration) -> Vote {
        loop {
            match self.step(index, now).expect("gathering refuses nothing") {
                Step::Fetch { wanted, .. } => wanted.keys().for_each(|peer| self.0[index].round.hold(now, *peer)),
                Step::Vote(vote) => {
                    self.publish(index, Kind::Vote, vote.encode());
                    return vote;
                }
                step => panic!("{step:?}"),
            }
        }
    }

    fn agreement(&mut self, index: usize, now: Duration) -> Agreement {
        match self.step(index, now) {
            Ok(Step::Aggregate(agreement)) => agreement,
            other => panic!("{other:?}"),
        }
    }

    /// Applies the agreement and publishes the check.
    fn apply(&mut self, index: usize, now: Duration, state: Digest) {
        self.agreement(index, now);
        self.0[index].round.applied(now, state);
        self.publish(index, Kind::Check, state.0.to_vec());
    }

    /// Peers `0..live` go through the round; the others are silent.
    fn finish_without_the_others(&mut self, live: usize, now: Duration) {
        (0..live).for_each(|peer| self.announce(peer));
        self.exchange();
        (0..live).for_each(|peer| drop(self.vote(peer, now)));
        self.exchange();
        (0..live).for_each(|peer| self.apply(peer, now, state()));
        self.exchange();
        for peer in 0..live {
            let done = Step::Finish { unconfirmed: BTreeSet::new(), differing: BTreeSet::new() };
            assert_eq!(self.step(peer, now), Ok(done));
        }
    }
}

fn waits(opened: Duration) -> Waits {
    Waits { opened, wait: WAIT, wait_max: WAIT_MAX }
}
