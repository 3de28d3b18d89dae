//! Rounds of several peers whose records are handed from one to the other by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_kernels::Digest;
use skein_workflow::announcement::{Announcement, Vote};
use skein_workflow::identity::{Identity, PeerId};
use skein_workflow::record::{Header, Kind, Record};
use skein_workflow::round::{Absence, Agreement, Charge, Context, Received, Refusal, Round, Step};

const WAIT: Duration = Duration::from_secs(10);

/// The round of one peer, and the records of its store.
struct Peer {
    identity: Identity,
    round: Round,
    store: Vec<Vec<u8>>,
}

/// Peers of one round; records travel when told to.
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
        let context = Context { job: Digest([1; 32]), round: 4, state: state(), roster, faults };
        let start = |identity: Identity| Peer {
            round: Round::new(identity.id(), context.clone(), BTreeMap::new(), Duration::ZERO, WAIT),
            identity,
            store: Vec::new(),
        };
        Peers(identities.into_iter().map(start).collect())
    }

    fn id(&self, index: usize) -> PeerId {
        self.0[index].identity.id()
    }

    fn publish(&mut self, index: usize, kind: Kind, payload: Vec<u8>) {
        let peer = &mut self.0[index];
        let record = Record::sign(&peer.identity, peer.round.header(kind), payload).encode();
        peer.round.receive(peer.identity.id(), &record);
        peer.store.push(record);
    }

    fn announce(&mut self, index: usize) {
        self.publish(index, Kind::Announcement, announcement(index).encode());
        let me = self.id(index);
        self.0[index].round.hold(me);
    }

    /// Everybody reads every store.
    fn exchange(&mut self) {
        let records: Vec<(PeerId, Vec<u8>)> =
            self.0.iter().flat_map(|p| p.store.iter().map(|r| (p.identity.id(), r.clone()))).collect();
        for peer in &mut self.0 {
            for (owner, record) in &records {
                assert_eq!(peer.round.receive(*owner, record), Received::Done);
            }
        }
    }

    fn step(&mut self, index: usize, now: Duration) -> Result<Step, Refusal> {
        self.0[index].round.step(now)
    }

    /// Holds whatever the round asks to fetch and publishes the vote that follows.
    fn vote(&mut self, index: usize, now: Duration) -> Vote {
        loop {
            match self.step(index, now).expect("gathering refuses nothing") {
                Step::Fetch { wanted, .. } => wanted.keys().for_each(|peer| self.0[index].round.hold(*peer)),
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
}

#[test]
fn honest_peers_agree_on_everybody_and_finish() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }), "nothing was read yet");
    peers.exchange();
    (0..4).for_each(|peer| assert_eq!(peers.vote(peer, Duration::ZERO).held.len(), 4));
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }), "the votes were not read yet");
    peers.exchange();
    let after = Digest([9; 32]);
    for peer in 0..4 {
        let agreement = peers.agreement(peer, Duration::ZERO);
        assert_eq!((agreement.peers.len(), agreement.faults, agreement.absent.len()), (4, 1, 0));
        peers.0[peer].round.applied(Duration::ZERO, after);
        peers.publish(peer, Kind::Check, after.0.to_vec());
    }
    peers.exchange();
    for peer in 0..4 {
        assert_eq!(peers.step(peer, Duration::ZERO), Ok(Step::Finish { unconfirmed: BTreeSet::new() }));
    }
}

#[test]
fn a_silent_peer_is_waited_for_until_the_deadline_and_no_longer() {
    let mut peers = Peers::start(4, 1);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    for peer in 0..3 {
        let Ok(Step::Fetch { wanted: fetch, .. }) = peers.step(peer, Duration::ZERO) else {
            panic!("others announced")
        };
        fetch.keys().for_each(|other| peers.0[peer].round.hold(*other));
        assert_eq!(peers.step(peer, WAIT / 2), Ok(Step::Wait { until: WAIT }));
        assert_eq!(peers.vote(peer, WAIT).held.len(), 3);
    }
    peers.exchange();
    let silent = peers.id(3);
    let agreement = peers.agreement(0, WAIT);
    assert_eq!(agreement.absent, BTreeMap::from([(silent, Absence::Silent)]));
    assert_eq!(agreement.faults, 1, "silence is no proof of a fault");
}

/// Every way to be caught: what `spoil` makes of the last peer's honest announcement.
#[test]
fn what_no_honest_peer_sends_is_charged_by_everybody_and_never_aggregated() {
    type Spoil = fn(&Identity, Header, Vec<u8>) -> Vec<Vec<u8>>;
    let cases: [(&str, Charge, Spoil); 8] = [
        ("rubbish", Charge::Unsigned, |_, _, _| vec![vec![0; 500]]),
        ("somebody else's record", Charge::Unsigned, |_, header, payload| {
            vec![Record::sign(&Identity::derived(3, 77), header, payload).encode()]
        }),
        ("a false signature", Charge::Unsigned, |identity, header, payload| {
            let mut bytes = Record::sign(identity, header, payload).encode();
            // Within the signature: everything else is as the peer wrote it.
            bytes[180] ^= 1;
            vec![bytes]
        }),
        ("another job", Charge::WrongJob, |identity, header, payload| {
            vec![Record::sign(identity, Header { job: Digest([2; 32]), ..header }, payload).encode()]
        }),
        ("another state", Charge::WrongState, |identity, header, payload| {
            vec![Record::sign(identity, Header { state: Digest([2; 32]), ..header }, payload).encode()]
        }),
        ("a round to come", Charge::WrongState, |identity, header, payload| {
            vec![Record::sign(identity, Header { round: 6, ..header }, payload).encode()]
        }),
        ("an empty payload", Charge::Payload, |identity, header, _| {
            vec![Record::sign(identity, header, vec![]).encode()]
        }),
        ("two announcements", Charge::Equivocation, |identity, header, payload| {
            let other = Announcement { samples: 11, ..announcement(3) }.encode();
            vec![Record::sign(identity, header, payload).encode(), Record::sign(identity, header, other).encode()]
        }),
    ];
    for (what, charge, spoil) in cases {
        let mut peers = Peers::start(4, 1);
        (0..3).for_each(|peer| peers.announce(peer));
        let liar = peers.id(3);
        let header = peers.0[3].round.header(Kind::Announcement);
        peers.0[3].store = spoil(&peers.0[3].identity, header, announcement(3).encode());
        peers.exchange();
        for peer in 0..3 {
            assert_eq!(peers.0[peer].round.charges(), &BTreeMap::from([(liar, charge)]), "{what}");
            peers.vote(peer, Duration::ZERO);
        }
        peers.0[3].store.clear();
        peers.exchange();
        for peer in 0..3 {
            let agreement = peers.agreement(peer, Duration::ZERO);
            assert_eq!(agreement.absent, BTreeMap::from([(liar, Absence::Charged(charge))]), "{what}");
            assert_eq!((agreement.peers.len(), agreement.faults), (3, 0), "{what}: the liar was the one fault");
        }
    }
}

#[test]
fn a_replayed_record_of_an_earlier_round_is_no_part_of_this_one() {
    let mut peers = Peers::start(2, 0);
    let header = Header { round: 3, ..peers.0[1].round.header(Kind::Announcement) };
    let old = Record::sign(&peers.0[1].identity, header, announcement(1).encode());
    peers.0[1].store.push(old.encode());
    peers.announce(0);
    peers.exchange();
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }), "it counts as not announced");
    assert!(peers.0[0].round.charges().is_empty(), "reading it again proves nothing");
}

#[test]
fn a_peer_that_is_a_round_ahead_is_kept_for_later() {
    let mut peers = Peers::start(2, 0);
    let header = Header { round: 5, ..peers.0[1].round.header(Kind::Announcement) };
    let early = Record::sign(&peers.0[1].identity, header, announcement(1).encode()).encode();
    let ahead = peers.id(1);
    assert_eq!(peers.0[0].round.receive(ahead, &early), Received::Early);
    assert!(peers.0[0].round.charges().is_empty());
}

#[test]
fn a_record_that_skips_its_predecessor_is_charged() {
    let mut peers = Peers::start(2, 0);
    peers.announce(1);
    let header = Header { previous: Digest([0; 32]), ..peers.0[1].round.header(Kind::Vote) };
    let skipping = Record::sign(&peers.0[1].identity, header, Vote::default().encode());
    peers.0[1].store.push(skipping.encode());
    peers.exchange();
    assert_eq!(peers.0[0].round.charges()[&peers.id(1)], Charge::Chain);
}

#[test]
fn more_liars_than_tolerated_refuse_the_round() {
    let mut peers = Peers::start(4, 1);
    (0..2).for_each(|peer| peers.announce(peer));
    (2..4).for_each(|peer| peers.0[peer].store.push(vec![0; 300]));
    peers.exchange();
    (0..2).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    (2..4).for_each(|peer| peers.0[peer].store.clear());
    peers.exchange();
    assert_eq!(peers.step(0, Duration::ZERO), Err(Refusal::Charged { charged: 2, faults: 1 }));
}

#[test]
fn a_contribution_that_few_hold_is_outvoted_everywhere() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    let late = peers.id(3);
    for peer in 0..4 {
        // Peers 0 and 1 never get the values of the last peer.
        let reachable = |other: &PeerId| peer >= 2 || *other != late;
        let Ok(Step::Fetch { wanted: fetch, .. }) = peers.step(peer, Duration::ZERO) else {
            panic!("others announced")
        };
        fetch.keys().filter(|other| reachable(other)).for_each(|other| peers.0[peer].round.hold(*other));
        match peers.step(peer, WAIT) {
            Ok(Step::Vote(vote)) => peers.publish(peer, Kind::Vote, vote.encode()),
            other => panic!("{other:?}"),
        }
    }
    peers.exchange();
    let agreements: Vec<_> = (0..4).map(|peer| peers.agreement(peer, WAIT)).collect();
    assert!(agreements.iter().all(|agreement| agreement.peers == agreements[0].peers));
    assert_eq!(agreements[0].absent[&late], Absence::Unreachable);
    assert_eq!(agreements[2].absent[&late], Absence::Outvoted);
}

#[test]
fn peers_out_of_step_are_noticed_in_the_same_round() {
    let mut peers = Peers::start(2, 0);
    (0..2).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..2).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    for peer in 0..2 {
        peers.agreement(peer, Duration::ZERO);
        let state = Digest([peer as u8; 32]);
        peers.0[peer].round.applied(Duration::ZERO, state);
        peers.publish(peer, Kind::Check, state.0.to_vec());
    }
    peers.exchange();
    let expected = Refusal::Diverged { mine: Digest([0; 32]), peer: peers.id(1), other: Digest([1; 32]) };
    assert_eq!(peers.step(0, Duration::ZERO), Err(expected));
}

#[test]
fn a_peer_that_dies_before_its_check_holds_nobody_up() {
    let mut peers = Peers::start(2, 0);
    (0..2).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..2).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    peers.agreement(0, Duration::ZERO);
    peers.0[0].round.applied(Duration::ZERO, state());
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }));
    assert_eq!(peers.step(0, WAIT), Ok(Step::Finish { unconfirmed: BTreeSet::from([peers.id(1)]) }));
}
