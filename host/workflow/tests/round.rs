//! Rounds of several peers whose records are handed from one to the other by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_kernels::Digest;
use skein_workflow::announcement::{Announcement, Vote};
use skein_workflow::identity::{Identity, PeerId};
use skein_workflow::presence::Presence;
use skein_workflow::record::{Header, Kind, Record};
use skein_workflow::round::{Absence, Agreement, Charge, Context, Received, Refusal, Round, Step, Waits};

const WAIT: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(100);
/// How long a suspect is waited for if the others are quick.
const SUSPECT_WAIT: Duration = Duration::from_secs(1);

/// The round of one peer, and the records of its store.
struct Peer {
    identity: Identity,
    round: Round,
    store: Vec<Vec<u8>>,
}

impl Peer {
    fn id(&self) -> PeerId {
        self.identity.id()
    }

    /// Another record than an honest peer would sign.
    fn sign(&self, header: Header, payload: Vec<u8>) -> Vec<u8> {
        Record::sign(&self.identity, header, payload).encode()
    }

    fn header(&self, kind: Kind) -> Header {
        self.round.header(kind, Digest::default())
    }
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
            round: Round::new(identity.id(), context.clone(), Presence::default(), waits(Duration::ZERO)),
            identity,
            store: Vec::new(),
        };
        Peers(identities.into_iter().map(start).collect())
    }

    /// The same peers in the next round, which begins at `now`.
    fn next_round(self, now: Duration) -> Peers {
        let roster: BTreeSet<PeerId> = self.0.iter().map(Peer::id).collect();
        let context = Context { job: Digest([1; 32]), round: 5, state: state(), roster, faults: 1 };
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

    /// Everybody reads every store.
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

    fn step(&mut self, index: usize, now: Duration) -> Result<Step, Refusal> {
        self.0[index].round.step(now)
    }

    /// Holds whatever the round asks to fetch and publishes the vote that follows.
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

#[test]
fn honest_peers_agree_on_everybody_and_finish() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT_MAX }), "nothing was read yet");
    peers.exchange();
    (0..4).for_each(|peer| assert_eq!(peers.vote(peer, Duration::ZERO).held.len(), 4));
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }), "the votes were not read yet");
    peers.exchange();
    for peer in 0..4 {
        let agreement = peers.agreement(peer, Duration::ZERO);
        assert_eq!((agreement.peers.len(), agreement.absent.len()), (4, 0));
        peers.0[peer].round.applied(Duration::ZERO, state());
        peers.publish(peer, Kind::Check, state().0.to_vec());
    }
    peers.exchange();
    for peer in 0..4 {
        let done = Step::Finish { unconfirmed: BTreeSet::new(), differing: BTreeSet::new() };
        assert_eq!(peers.step(peer, Duration::ZERO), Ok(done));
        assert_eq!(peers.0[peer].round.arrivals(), [Duration::ZERO]);
    }
}

#[test]
fn a_silent_peer_is_waited_for_until_the_deadline_and_no_longer() {
    let mut peers = Peers::start(4, 1);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    for peer in 0..3 {
        (0..3).for_each(|other| peers.hold(peer, other, Duration::ZERO));
        assert_eq!(peers.step(peer, WAIT / 2), Ok(Step::Wait { until: WAIT }));
        assert_eq!(peers.0[peer].round.awaited(), BTreeSet::from([peers.id(3)]));
    }
    assert_eq!(peers.vote(0, WAIT).held.len(), 3);
    assert_eq!(peers.0[0].round.arrivals(), [], "nothing is learned from a deadline");
    (1..3).for_each(|peer| assert_eq!(peers.vote(peer, WAIT).held.len(), 3));
    peers.exchange();
    let agreement = peers.agreement(0, WAIT);
    assert_eq!(agreement.absent, BTreeMap::from([(peers.id(3), Absence::Silent)]));
}

/// SIGKILL of one of four hosts cost the others the whole wait in every round.
#[test]
fn a_peer_that_missed_a_round_costs_the_next_ones_a_second() {
    let mut peers = Peers::start(4, 1);
    peers.finish_without_the_others(3, WAIT);
    peers.0.iter_mut().for_each(|peer| peer.store.clear());
    let later = WAIT * 2;
    let mut peers = peers.next_round(later);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..3).for_each(|other| peers.hold(0, other, later));
    assert_eq!(peers.step(0, later), Ok(Step::Wait { until: later + SUSPECT_WAIT }));
    // Where the others take longer than a second, the suspect may as well.
    (0..3).for_each(|other| peers.hold(1, other, later + SUSPECT_WAIT * 3));
    assert_eq!(peers.step(1, later), Ok(Step::Wait { until: later + SUSPECT_WAIT * 3 }));
    // It is heard, and waited for as any other.
    peers.announce(3);
    peers.read(0, later);
    let Ok(Step::Fetch { wanted, until }) = peers.step(0, later) else { panic!("it announced") };
    assert_eq!((wanted.len(), until), (1, later + WAIT));
}

#[test]
fn how_late_a_peer_was_is_learned_when_it_comes() {
    let mut peers = Peers::start(4, 1);
    peers.finish_without_the_others(3, WAIT);
    let late = peers.0[3].sign(peers.0[3].header(Kind::Announcement), announcement(3).encode());
    let mut peers = peers.next_round(WAIT * 2);
    let owner = peers.id(3);
    for _ in 0..2 {
        assert_eq!(peers.0[0].round.receive(WAIT * 3, owner, &late), Received::Ignored);
    }
    assert_eq!(peers.0[0].round.arrivals(), [WAIT * 3], "once, from the beginning of its round");
}

/// The others have voted without the silent peer, so waiting longer for it changes nothing.
#[test]
fn nobody_waits_for_the_silent_once_a_majority_has_voted() {
    let mut peers = Peers::start(4, 1);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (1..3).for_each(|peer| drop(peers.vote(peer, WAIT)));
    (0..3).for_each(|other| peers.hold(0, other, Duration::ZERO));
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }));
    peers.exchange();
    assert!(matches!(peers.step(0, Duration::ZERO), Ok(Step::Vote(_))));

    // One that they have heard is only late here.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (1..3).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    let mut reader = Peers::start(4, 1);
    reader.announce(0);
    (0..3).for_each(|other| reader.hold(0, other, Duration::ZERO));
    (1..3).for_each(|other| reader.0[other].store = std::mem::take(&mut peers.0[other].store));
    reader.read(0, Duration::ZERO);
    assert_eq!(reader.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }));
}

/// Peers that counted different votes went on with different sets.
#[test]
fn a_vote_that_may_decide_is_waited_for() {
    let mut peers = Peers::start(4, 1);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..3).for_each(|other| peers.hold(0, other, Duration::ZERO));
    assert_eq!(peers.vote(0, WAIT).held.len(), 3);
    peers.announce(3);
    let unseen = std::mem::take(&mut peers.0[3].store);
    for peer in 1..3 {
        peers.0[3].store = unseen.clone();
        peers.read(peer, Duration::ZERO);
        assert_eq!(peers.vote(peer, Duration::ZERO).held.len(), 4);
    }
    peers.0[3].store.clear();
    peers.read(0, WAIT);
    // Two votes of four are for the last peer, and its own may be the third.
    assert_eq!(peers.step(0, WAIT), Ok(Step::Wait { until: WAIT * 2 }));
    peers.0[3].store = unseen;
    peers.read(3, WAIT);
    assert_eq!(peers.vote(3, WAIT).held.len(), 4);
    peers.read(0, WAIT);
    let Ok(Step::Fetch { wanted, .. }) = peers.step(0, WAIT) else { panic!("it is agreed on") };
    assert_eq!(wanted.keys().collect::<Vec<_>>(), [&peers.id(3)]);
}

/// Every way to be caught: what `lie` makes of the last peer's honest announcement.
#[test]
fn what_no_honest_peer_sends_is_charged_by_everybody_and_never_aggregated() {
    type Lie = fn(&Peer, Header, Vec<u8>) -> Vec<Vec<u8>>;
    let cases: [(&str, Charge, Lie); 7] = [
        ("rubbish", Charge::Unsigned, |_, _, _| vec![vec![0; 500]]),
        ("somebody else's record", Charge::Unsigned, |_, header, payload| {
            vec![Record::sign(&Identity::derived(3, 77), header, payload).encode()]
        }),
        ("a false signature", Charge::Unsigned, |peer, header, payload| {
            let mut bytes = peer.sign(header, payload);
            // Within the signature: everything else is as the peer wrote it.
            bytes[180] ^= 1;
            vec![bytes]
        }),
        ("another job", Charge::WrongJob, |peer, header, payload| {
            vec![peer.sign(Header { job: Digest([2; 32]), ..header }, payload)]
        }),
        ("another state", Charge::WrongState, |peer, header, payload| {
            vec![peer.sign(Header { state: Digest([2; 32]), ..header }, payload)]
        }),
        ("an empty payload", Charge::Payload, |peer, header, _| vec![peer.sign(header, vec![])]),
        ("two announcements", Charge::Equivocation, |peer, header, payload| {
            let other = Announcement { samples: 11, ..announcement(3) }.encode();
            vec![peer.sign(header, payload), peer.sign(header, other)]
        }),
    ];
    for (what, charge, lie) in cases {
        let mut peers = Peers::start(4, 1);
        (0..3).for_each(|peer| peers.announce(peer));
        let liar = peers.id(3);
        peers.0[3].store = lie(&peers.0[3], peers.0[3].header(Kind::Announcement), announcement(3).encode());
        peers.exchange();
        for peer in 0..3 {
            assert_eq!(peers.0[peer].round.charges(), &BTreeMap::from([(liar, charge)]), "{what}");
            assert!(peers.vote(peer, Duration::ZERO).held.iter().all(|(held, _)| *held != liar), "{what}");
        }
        peers.0[3].store.clear();
        peers.exchange();
        for peer in 0..3 {
            // One that announced is waited for until the deadline.
            let agreement = peers.agreement(peer, WAIT);
            assert_eq!(agreement.absent, BTreeMap::from([(liar, Absence::Charged(charge))]), "{what}");
            assert_eq!(agreement.peers.len(), 3, "{what}");
        }
    }
}

#[test]
fn a_replayed_record_of_an_earlier_round_is_no_part_of_this_one() {
    let mut peers = Peers::start(2, 0);
    let header = Header { round: 3, ..peers.0[1].header(Kind::Announcement) };
    let old = peers.0[1].sign(header, announcement(1).encode());
    peers.0[1].store.push(old);
    peers.announce(0);
    peers.exchange();
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT_MAX }), "it counts as not announced");
    assert!(peers.0[0].round.charges().is_empty(), "reading it again proves nothing");
}

/// One peer could fill the memory of another, or have the records of others dropped, by the same record again and again.
#[test]
fn a_peer_that_is_a_round_ahead_is_kept_for_later_once() {
    let mut peers = Peers::start(2, 0);
    let header = Header { round: 5, ..peers.0[1].header(Kind::Announcement) };
    let early = peers.0[1].sign(header, announcement(1).encode());
    let owner = peers.id(1);
    let mut receive = || peers.0[0].round.receive(Duration::ZERO, owner, &early);
    assert_eq!([receive(), receive()], [Received::Early, Received::Ignored]);
    assert!(peers.0[0].round.charges().is_empty());
}

/// A restart or a record that was not read made an honest peer a liar for good.
#[test]
fn a_gap_before_a_record_is_no_offence() {
    let mut peers = Peers::start(2, 0);
    peers.announce(1);
    let unknown = Header { previous: Digest([9; 32]), ..peers.0[1].header(Kind::Vote) };
    let vote = peers.0[1].sign(unknown, Vote::default().encode());
    let owner = peers.id(1);
    assert_eq!(peers.0[0].round.receive(Duration::ZERO, owner, &vote), Received::Taken);
    assert!(peers.0[0].round.charges().is_empty());
}

/// A peer that was stopped for some rounds charged all the others, and died with a message that blamed them.
#[test]
fn a_peer_that_others_left_behind_says_so_and_blames_nobody() {
    let ahead = |peers: &mut Peers, index: usize, round: u64| {
        let header = Header { round, state: Digest([5; 32]), ..peers.0[index].header(Kind::Check) };
        let record = peers.0[index].sign(header, vec![5; 32]);
        let owner = peers.id(index);
        assert_eq!(peers.0[0].round.receive(Duration::ZERO, owner, &record), Received::Ignored);
        assert!(peers.0[0].round.charges().is_empty());
    };
    let mut peers = Peers::start(4, 1);
    peers.announce(0);
    ahead(&mut peers, 1, 90);
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT_MAX }), "one peer may lie");
    ahead(&mut peers, 2, 9);
    let behind = Refusal::Behind { state: 3, needed: 8 };
    assert!(behind.to_string().contains("round 3") && behind.to_string().contains("round 8"), "{behind}");
    assert_eq!(peers.step(0, Duration::ZERO), Err(behind));

    // The same where it read what the others said of its round, and they no longer have the values.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (1..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.read(0, Duration::ZERO);
    (1..4).for_each(|peer| ahead(&mut peers, peer, 6));
    for missed in 1..4 {
        assert!(matches!(peers.step(0, Duration::ZERO), Ok(Step::Fetch { .. })), "they may have them still");
        let owner = peers.id(missed);
        peers.0[0].round.miss(owner);
    }
    assert_eq!(peers.step(0, Duration::ZERO), Err(Refusal::Behind { state: 3, needed: 5 }));

    // One that has all it needs goes on all the same.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    (1..4).for_each(|peer| ahead(&mut peers, peer, 6));
    assert_eq!(peers.agreement(0, Duration::ZERO).peers.len(), 4);
}

#[test]
fn more_liars_than_tolerated_refuse_the_round() {
    let mut peers = Peers::start(5, 1);
    (0..3).for_each(|peer| peers.announce(peer));
    (3..5).for_each(|peer| peers.0[peer].store.push(vec![0; 300]));
    peers.exchange();
    (0..3).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    (3..5).for_each(|peer| peers.0[peer].store.clear());
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
        (0..4).filter(|other| peer >= 2 || *other < 3).for_each(|other| peers.hold(peer, other, Duration::ZERO));
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

/// A liar that served its values to some peers and others to one of them had that one aggregate what nobody verified.
#[test]
fn values_that_were_agreed_on_are_got_from_any_holder_even_of_a_charged_peer() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    let liar = peers.id(3);
    peers.0[0].round.charge(Duration::ZERO, liar, Charge::Hash);
    (0..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    let Ok(Step::Fetch { wanted, until }) = peers.step(0, Duration::ZERO) else { panic!("it is not held here") };
    assert_eq!(wanted.keys().collect::<Vec<_>>(), [&liar]);
    assert_eq!(wanted[&liar].holders, [peers.id(1), peers.id(2), liar], "the owner last, who did not give it");
    assert_eq!(until, WAIT_MAX, "without them the round cannot be finished");
    peers.hold(0, 3, Duration::ZERO);
    let agreements: Vec<_> = (0..4).map(|peer| peers.agreement(peer, Duration::ZERO)).collect();
    assert!(agreements.iter().all(|agreement| agreement.peers.len() == 4 && agreement.peers == agreements[0].peers));
    assert_eq!(
        peers.0[0].round.step(WAIT_MAX * 3),
        Ok(Step::Aggregate(agreements[0].clone())),
        "what was agreed on stays so"
    );
}

/// Two halves of a cut network went on for themselves, each with a majority of the votes that it got.
#[test]
fn a_part_without_a_majority_of_the_roster_applies_nothing() {
    let mut peers = Peers::start(4, 1);
    (0..2).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..2).for_each(|peer| (0..2).for_each(|other| peers.hold(peer, other, Duration::ZERO)));
    assert_eq!(peers.step(0, WAIT), Ok(Step::Wait { until: WAIT_MAX }), "no vote is cast");
    let refused = Refusal::Minority { heard: 2, roster: 4, majority: 3, waited: WAIT_MAX };
    assert_eq!(peers.step(0, WAIT_MAX), Err(refused));

    // The same where the others are lost after they announced.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..2).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    assert_eq!(peers.step(0, WAIT), Ok(Step::Wait { until: WAIT_MAX }));
    assert!(matches!(peers.step(0, WAIT_MAX), Err(Refusal::Minority { heard: 2, .. })));
    peers.vote(2, Duration::ZERO);
    peers.exchange();
    assert_eq!(peers.agreement(0, WAIT_MAX).peers.len(), 4, "until the majority is back");
}

/// One wrong check stopped every peer.
#[test]
fn one_liar_cannot_make_the_others_doubt_their_state() {
    for (liars, faults) in [(1, 1), (2, 2)] {
        let mut peers = Peers::start(5, faults);
        (0..5).for_each(|peer| peers.announce(peer));
        peers.exchange();
        (0..5).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
        peers.exchange();
        for peer in 0..5 {
            peers.apply(peer, Duration::ZERO, Digest([if peer < liars { 8 } else { 9 }; 32]));
        }
        peers.exchange();
        let differing = (0..liars).map(|liar| peers.id(liar)).collect();
        assert_eq!(peers.step(4, Duration::ZERO), Ok(Step::Finish { unconfirmed: BTreeSet::new(), differing }));
        // So many others that one of them is honest have another state than the first peer.
        let diverged = Refusal::Diverged { mine: Digest([8; 32]), peers: 5 - liars, other: Digest([9; 32]) };
        assert_eq!(peers.step(0, Duration::ZERO), Err(diverged));
    }
}

/// A peer whose state differs before the round has no part in it, and knows that it is the one.
#[test]
fn a_peer_out_of_step_is_noticed_before_it_computes_on() {
    let mut peers = Peers::start(4, 1);
    for other in 1..4 {
        let header = Header { state: Digest([6; 32]), ..peers.0[other].header(Kind::Announcement) };
        let record = peers.0[other].sign(header, announcement(other).encode());
        peers.0[other].store.push(record);
    }
    peers.announce(0);
    peers.read(0, Duration::ZERO);
    let diverged = Refusal::Diverged { mine: state(), peers: 3, other: Digest([6; 32]) };
    assert_eq!(peers.step(0, Duration::ZERO), Err(diverged));
}

#[test]
fn a_peer_that_dies_before_its_check_holds_nobody_up() {
    let mut peers = Peers::start(3, 0);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..3).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    (0..2).for_each(|peer| peers.apply(peer, Duration::ZERO, state()));
    peers.exchange();
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }));
    let done = Step::Finish { unconfirmed: BTreeSet::from([peers.id(2)]), differing: BTreeSet::new() };
    assert_eq!(peers.step(0, WAIT), Ok(done));
    assert!(peers.0[0].round.presence().is_suspect(&peers.id(2)));
}
