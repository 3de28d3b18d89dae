//! Who is waited for and how long: silent peers, late ones, and those that are ahead or behind.

use super::*;

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
    // If the others take longer than a second, the suspect may too.
    (0..3).for_each(|other| peers.hold(1, other, later + SUSPECT_WAIT * 3));
    assert_eq!(peers.step(1, later), Ok(Step::Wait { until: later + SUSPECT_WAIT * 3 }));
    // Once heard, it is waited for like any other.
    peers.announce(3);
    peers.read(0, later);
    let Ok(Step::Fetch { wanted, until }) = peers.step(0, later) else { panic!("it announced") };
    assert_eq!((wanted.len(), until), (1, later + WAIT));
}

#[test]
fn the_delay_of_a_late_peer_is_learned_when_it_arrives() {
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
fn silent_peers_are_not_waited_for_once_a_majority_has_voted() {
    let mut peers = Peers::start(4, 1);
    (0..3).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (1..3).for_each(|peer| drop(peers.vote(peer, WAIT)));
    (0..3).for_each(|other| peers.hold(0, other, Duration::ZERO));
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT }));
    peers.exchange();
    assert!(matches!(peers.step(0, Duration::ZERO), Ok(Step::Vote(_))));

    // A peer that they have heard is only late here.
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

/// After all peers were killed at once, two that had not voted left out a third that was about to restart.
#[test]
fn a_contribution_that_others_voted_for_is_waited_for_although_its_store_lost_it() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (2..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    let owner = peers.id(3);
    for peer in 0..2 {
        (0..3).for_each(|other| peers.hold(peer, other, Duration::ZERO));
        peers.0[peer].round.miss(Duration::ZERO, owner);
        peers.read(peer, Duration::ZERO);
        let Ok(Step::Fetch { wanted, until }) = peers.step(peer, Duration::ZERO) else {
            panic!("the contribution is wanted")
        };
        assert_eq!((wanted.keys().next(), until), (Some(&owner), WAIT));
    }
}

/// By repeating one record, a peer could fill another's memory, or have the records of others dropped.
#[test]
fn a_peer_that_is_a_round_ahead_is_kept_for_later_once() {
    let mut peers = Peers::start(2, 0);
    let header = Header { round: 5, ..peers.0[1].header(Kind::Announcement) };
    let early = peers.0[1].sign(header, announcement(1).encode());
    let owner = peers.id(1);
    let mut receive = |record: &[u8]| peers.0[0].round.receive(Duration::ZERO, owner, record);
    assert_eq!([receive(&early), receive(&early)], [Received::Early, Received::Ignored]);
    for (round, expected) in [(6, Received::Early), (7, Received::Ignored), (u64::MAX, Received::Ignored)] {
        let record = peers.0[1].sign(Header { round, ..header }, announcement(1).encode());
        assert_eq!(peers.0[0].round.receive(Duration::ZERO, owner, &record), expected, "round {round}");
    }
    assert!(peers.0[0].round.accusations().is_empty());
}

/// A peer that once claimed to be far ahead was waited for in every round, however long it had been gone.
#[test]
fn a_peer_that_claims_to_be_far_ahead_is_still_a_suspect() {
    let mut peers = Peers::start(4, 1);
    let far = Header { round: u64::MAX, ..peers.0[3].header(Kind::Check) };
    let record = peers.0[3].sign(far, vec![1; 32]);
    let owner = peers.id(3);
    for peer in 0..3 {
        peers.0[peer].round.receive(Duration::ZERO, owner, &record);
    }
    peers.finish_without_the_others(3, WAIT);
    assert!(peers.0[0].round.presence().is_suspect(&owner));
}

/// After a restart, or if a record was not read, an honest peer counted as a liar for good.
#[test]
fn a_gap_before_a_record_is_not_charged() {
    let mut peers = Peers::start(2, 0);
    peers.announce(1);
    let unknown = Header { previous: Digest([9; 32]), ..peers.0[1].header(Kind::Vote) };
    let vote = peers.0[1].sign(unknown, Vote::default().encode());
    let owner = peers.id(1);
    assert_eq!(peers.0[0].round.receive(Duration::ZERO, owner, &vote), Received::Taken);
    assert!(peers.0[0].round.accusations().is_empty());
}

/// When others are seen to be ahead.
const LATER: Duration = Duration::from_millis(10);

/// A peer that was stopped for some rounds accused all the others, and died with a message that blamed them.
#[test]
fn a_peer_that_is_behind_reports_it_and_charges_no_peer() {
    let ahead = |peers: &mut Peers, index: usize, round: u64| {
        let header = Header { round, state: Digest([5; 32]), ..peers.0[index].header(Kind::Check) };
        let record = peers.0[index].sign(header, vec![5; 32]);
        let owner = peers.id(index);
        assert_ne!(peers.0[0].round.receive(LATER, owner, &record), Received::Taken);
        assert!(peers.0[0].round.accusations().is_empty());
    };
    let mut peers = Peers::start(4, 1);
    peers.announce(0);
    ahead(&mut peers, 1, 90);
    assert_eq!(peers.step(0, WAIT), Ok(Step::Wait { until: WAIT_MAX }), "one peer may lie");
    ahead(&mut peers, 2, 9);
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT_MAX }), "others may be about to restart");
    let behind = RoundError::Behind { state: 3, needed: 8 };
    assert!(behind.to_string().contains("round 3") && behind.to_string().contains("round 8"), "{behind}");
    assert_eq!(peers.step(0, WAIT / 2), Err(behind));

    // The same if it read the others' records of its round, and they no longer have the values.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (1..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.read(0, Duration::ZERO);
    let missed = |peers: &mut Peers, asked: Duration| {
        for missed in 1..4 {
            assert!(matches!(peers.step(0, asked), Ok(Step::Fetch { .. })), "they may still have them");
            let owner = peers.id(missed);
            peers.0[0].round.miss(asked, owner);
        }
    };
    // What they did not have while they were in this round says nothing about what they have in the next.
    missed(&mut peers, Duration::ZERO);
    (1..4).for_each(|peer| ahead(&mut peers, peer, 5));
    missed(&mut peers, LATER);
    assert_eq!(peers.step(0, LATER), Err(RoundError::Behind { state: 3, needed: 4 }));

    // An owner that lost its own contribution while others are ahead: those who voted for it are asked before it is gone.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (1..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.read(0, Duration::ZERO);
    (1..3).for_each(|peer| ahead(&mut peers, peer, 5));
    let owner = peers.id(3);
    (0..3).for_each(|other| peers.hold(0, other, LATER));
    peers.0[0].round.miss(LATER, owner);
    assert!(matches!(peers.step(0, WAIT), Ok(Step::Vote(_))), "without it");
    let Ok(Step::Fetch { wanted, .. }) = peers.step(0, WAIT) else { panic!("the voters are asked") };
    assert!(wanted[&owner].holders.contains(&peers.id(1)));

    // A peer that has all it needs still agrees.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    (1..4).for_each(|peer| ahead(&mut peers, peer, 6));
    assert_eq!(peers.agreement(0, Duration::ZERO).peers.len(), 4);
}

#[test]
fn a_peer_that_dies_before_its_check_does_not_block_the_others() {
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
