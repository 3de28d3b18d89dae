//! What the peers agree on, and that neither lies nor crashes change it.

use super::*;

#[test]
fn honest_peers_agree_on_every_contribution_and_finish() {
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

/// Peers that counted different votes continued with different sets.
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
    let Ok(Step::Fetch { wanted, .. }) = peers.step(0, WAIT) else { panic!("the contribution is agreed on") };
    assert_eq!(wanted.keys().collect::<Vec<_>>(), [&peers.id(3)]);
}

/// Every way to be accused: `lie` turns the last peer's honest announcement into what it publishes.
#[test]
fn lies_are_charged_by_every_peer_and_never_aggregated() {
    type Lie = fn(&Peer, Header, Vec<u8>) -> Vec<Vec<u8>>;
    let cases: [(&str, Misbehaviour, Lie); 7] = [
        ("rubbish", Misbehaviour::Unsigned, |_, _, _| vec![vec![0; 500]]),
        ("another peer's record", Misbehaviour::Unsigned, |_, header, payload| {
            vec![Record::sign(&Identity::derived(3, 77), header, payload).encode()]
        }),
        ("a false signature", Misbehaviour::Unsigned, |peer, header, payload| {
            let mut bytes = peer.sign(header, payload);
            // Within the signature: everything else is as the peer wrote it.
            bytes[180] ^= 1;
            vec![bytes]
        }),
        ("another job", Misbehaviour::WrongJob, |peer, header, payload| {
            vec![peer.sign(Header { run: Digest([2; 32]), ..header }, payload)]
        }),
        ("another state", Misbehaviour::WrongState, |peer, header, payload| {
            vec![peer.sign(Header { state: Digest([2; 32]), ..header }, payload)]
        }),
        ("an empty payload", Misbehaviour::Payload, |peer, header, _| vec![peer.sign(header, vec![])]),
        ("two announcements", Misbehaviour::Equivocation, |peer, header, payload| {
            let other = Announcement { samples: 11, ..announcement(3) }.encode();
            vec![peer.sign(header, payload), peer.sign(header, other)]
        }),
    ];
    for (what, misbehaviour, lie) in cases {
        let mut peers = Peers::start(4, 1);
        (0..3).for_each(|peer| peers.announce(peer));
        let liar = peers.id(3);
        peers.0[3].store = lie(&peers.0[3], peers.0[3].header(Kind::Announcement), announcement(3).encode());
        peers.exchange();
        for peer in 0..3 {
            assert_eq!(peers.0[peer].round.accusations(), &BTreeMap::from([(liar, misbehaviour)]), "{what}");
            assert!(peers.vote(peer, Duration::ZERO).held.iter().all(|(held, _)| *held != liar), "{what}");
        }
        peers.0[3].store.clear();
        peers.exchange();
        for peer in 0..3 {
            // A peer that announced is waited for until the deadline.
            let agreement = peers.agreement(peer, WAIT);
            assert_eq!(agreement.absent, BTreeMap::from([(liar, Absence::Accused(misbehaviour))]), "{what}");
            assert_eq!(agreement.peers.len(), 3, "{what}");
        }
    }
}

#[test]
fn a_replayed_record_of_an_earlier_round_is_not_part_of_this_one() {
    let mut peers = Peers::start(2, 0);
    let header = Header { round: 3, ..peers.0[1].header(Kind::Announcement) };
    let old = peers.0[1].sign(header, announcement(1).encode());
    peers.0[1].store.push(old);
    peers.announce(0);
    peers.exchange();
    assert_eq!(peers.step(0, Duration::ZERO), Ok(Step::Wait { until: WAIT_MAX }), "it counts as not announced");
    assert!(peers.0[0].round.accusations().is_empty(), "reading it again proves nothing");
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
    assert_eq!(peers.step(0, Duration::ZERO), Err(RoundError::Accused { accused: 2, faults: 1 }));
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

/// A liar served one peer other values than the rest, and that peer aggregated values that no peer had verified.
#[test]
fn agreed_values_are_fetched_from_any_holder_even_those_of_a_charged_peer() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    let liar = peers.id(3);
    peers.0[0].round.accuse(Duration::ZERO, liar, Misbehaviour::Hash);
    (0..4).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    let Ok(Step::Fetch { wanted, until }) = peers.step(0, Duration::ZERO) else {
        panic!("the contribution is not held here")
    };
    assert_eq!(wanted.keys().collect::<Vec<_>>(), [&liar]);
    assert_eq!(wanted[&liar].holders, [peers.id(1), peers.id(2), liar], "the owner last, who did not provide it");
    assert_eq!(until, WAIT_MAX, "without them the round cannot be finished");
    peers.hold(0, 3, Duration::ZERO);
    let agreements: Vec<_> = (0..4).map(|peer| peers.agreement(peer, Duration::ZERO)).collect();
    assert!(agreements.iter().all(|agreement| agreement.peers.len() == 4 && agreement.peers == agreements[0].peers));
    assert_eq!(
        peers.0[0].round.step(WAIT_MAX * 3),
        Ok(Step::Aggregate(agreements[0].clone())),
        "an agreement is final"
    );
}

/// A restarted peer counted a vote that the others did not have when they decided, and continued with another set.
#[test]
fn a_vote_after_the_decision_does_not_count() {
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    // The second peer never gets the values of the first one, which dies before it votes.
    (0..4).for_each(|other| peers.hold(2, other, Duration::ZERO));
    (0..4).for_each(|other| peers.hold(3, other, Duration::ZERO));
    (1..4).for_each(|other| peers.hold(1, other, Duration::ZERO));
    for peer in 1..4 {
        match peers.step(peer, WAIT) {
            Ok(Step::Vote(vote)) => peers.publish(peer, Kind::Vote, vote.encode()),
            other => panic!("{other:?}"),
        }
    }
    peers.exchange();
    let first = peers.id(0);
    for peer in 1..4 {
        let agreement = match peers.step(peer, WAIT * 2) {
            Ok(Step::Aggregate(agreement)) => agreement,
            other => panic!("{other:?}"),
        };
        assert!(!agreement.peers.contains_key(&first));
        peers.publish(peer, Kind::Check, vec![9; 32]);
        peers.0[peer].round.applied(WAIT * 2, Digest([9; 32]));
    }
    // The first peer comes back, and reads all of this.
    peers.read(0, WAIT * 3);
    (1..4).for_each(|other| peers.hold(0, other, WAIT * 3));
    assert!(matches!(peers.step(0, WAIT * 3), Ok(Step::Vote(_))));
    assert!(peers.0[0].round.is_decided(), "so its vote does not count");
    assert!(!peers.agreement(0, WAIT * 3).peers.contains_key(&first));
}

/// They leave in the same way, whether they are done or were stopped.
#[test]
fn peers_that_left_after_the_previous_round_are_named() {
    let mut peers = Peers::start(4, 1);
    peers.finish_without_the_others(3, WAIT);
    let mut peers = peers.next_round(WAIT);
    peers.announce(0);
    let ended = Ended { peers: BTreeSet::from([peers.id(1), peers.id(2)]), round: 4 };
    assert_eq!(peers.0[0].round.ended(), Some(ended.clone()), "but not the one that was never there");
    let refused = peers.step(0, WAIT + WAIT_MAX).expect_err("no majority");
    assert_eq!(
        refused,
        RoundError::Minority { heard: 1, roster: 4, majority: 3, waited: WAIT_MAX, ended: Some(ended.clone()) }
    );
    let names = ended.peers.iter().map(|peer| format!("{peer:?}")).collect::<Vec<_>>().join(", ");
    let expected = format!(
        "1 of 4 peers took part within 100 s, 3 are needed: restart the others, then this one; peers {names} published nothing \
         after round 4: they were stopped, or their `train.rounds` is 4, which has to be the same on all hosts"
    );
    assert_eq!(refused.to_string(), expected);
}

/// Two halves of a split network continued separately, each with a majority of the votes that it had.
#[test]
fn a_part_without_a_majority_of_the_roster_applies_nothing() {
    let mut peers = Peers::start(4, 1);
    (0..2).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..2).for_each(|peer| (0..2).for_each(|other| peers.hold(peer, other, Duration::ZERO)));
    assert_eq!(peers.step(0, WAIT), Ok(Step::Wait { until: WAIT_MAX }), "no vote is cast");
    let refused = RoundError::Minority { heard: 2, roster: 4, majority: 3, waited: WAIT_MAX, ended: None };
    assert_eq!(peers.step(0, WAIT_MAX), Err(refused));

    // The same if the others are lost after they announced.
    let mut peers = Peers::start(4, 1);
    (0..4).for_each(|peer| peers.announce(peer));
    peers.exchange();
    (0..2).for_each(|peer| drop(peers.vote(peer, Duration::ZERO)));
    peers.exchange();
    assert_eq!(peers.step(0, WAIT), Ok(Step::Wait { until: WAIT_MAX }));
    assert!(matches!(peers.step(0, WAIT_MAX), Err(RoundError::Minority { heard: 2, .. })));
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
        // Enough others for one to be honest have another state than the first peer.
        let diverged = RoundError::Diverged { mine: Digest([8; 32]), peers: 5 - liars, other: Digest([9; 32]) };
        assert_eq!(peers.step(0, Duration::ZERO), Err(diverged));
    }
}

/// A peer whose state differs before the round takes no part in it, and learns that its own state is the wrong one.
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
    let diverged = RoundError::Diverged { mine: state(), peers: 3, other: Digest([6; 32]) };
    assert_eq!(peers.step(0, Duration::ZERO), Err(diverged));
}
