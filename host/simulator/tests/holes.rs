//! Attacks and accidents that once stopped honest peers, made them diverge or moved what they computed, each by its name.

use skein_simulator::{
    ALL, Announces, Answers, Attack, Counts, Fault, Floods, Lies, Model, Outcome, Proposes, Schedule, Serves, Votes,
    Weather, simulate, simulate_attack,
};

/// Every second reader.
const HALF: u128 = 0x5555_5555_5555_5555_5555_5555_5555_5555;
/// The first reader of every four.
const ONE: u128 = 0x1111_1111_1111_1111_1111_1111_1111_1111;

const FOUR: Model = Model { members: 4, byzantine: 1, crashed: 0 };
const FIVE: Model = Model { members: 5, byzantine: 1, crashed: 0 };
const SEVEN: Model = Model { members: 7, byzantine: 2, crashed: 0 };
/// Two logs may be lost at once.
const CRASHING: Model = Model { members: 5, byzantine: 0, crashed: 2 };
const MIXED: Model = Model { members: 7, byzantine: 1, crashed: 1 };

/// Runs the attack on models with liars, each with ten seeds, and returns what happened in all of them.
fn survives(lies: Lies, faults: &[(u64, Fault)]) -> Counts {
    let mut total = Counts::default();
    for model in [FOUR, FIVE, SEVEN, MIXED] {
        for seed in 1..=10 {
            let schedule = Schedule { seed, model, rounds: 10, weather: Weather::Foul, mutant: None };
            let attack = Attack { lies, faults: faults.to_vec() };
            let outcome = simulate_attack(schedule, &attack);
            assert_eq!(outcome.violation, None, "{model:?}, seed {seed}");
            total.add(&outcome.counts);
        }
    }
    assert!(total.rounds >= 400, "{} rounds are decided", total.rounds);
    // A node that is woken again and again to do nothing keeps a processor busy.
    assert!(total.events < 4_000_000, "{} events", total.events);
    total
}

#[test]
fn one_wrong_check_stops_nobody() {
    for wrong_checks in [ALL, HALF] {
        let counts = survives(Lies { wrong_checks, ..Lies::NONE }, &[]);
        assert_eq!(counts.healings, 0, "nobody doubts its state");
    }
}

#[test]
fn values_that_failed_verification_are_not_aggregated() {
    survives(Lies { serves: Serves::Wrongly(ONE), ..Lies::NONE }, &[]);
    survives(Lies { serves: Serves::Wrongly(ALL), ..Lies::NONE }, &[]);
}

/// A liar's flood of early records had those of honest peers dropped, which were then taken for liars.
#[test]
fn dropped_early_records_are_read_again_and_accuse_nobody() {
    let faults = [(2, Fault::Slow), (5, Fault::Slow), (7, Fault::PowerCut)];
    survives(Lies { floods: Floods::Early, ..Lies::NONE }, &faults);
}

/// What differs by reader is proved where it does harm: then members show each other what they count.
#[test]
fn votes_that_differ_by_reader_decide_one_thing() {
    for votes in [Votes::Twice(HALF), Votes::Own(HALF)] {
        survives(Lies { votes, ..Lies::NONE }, &[]);
    }
    for proposes in [Proposes::Twice(HALF), Proposes::Twice(ONE)] {
        assert!(survives(Lies { proposes, ..Lies::NONE }, &[]).proofs > 0);
    }
    assert!(survives(Lies { announces: Announces::Twice(HALF), ..Lies::NONE }, &[]).proofs > 0);
    survives(Lies { votes: Votes::To(ONE), ..Lies::NONE }, &[]);
}

/// No side of a cut without a quorum applies anything; both go on when they hear each other again.
#[test]
fn a_partition_drifts_nowhere() {
    let faults = [(2, Fault::Partition), (4, Fault::Partition), (6, Fault::OneWay), (8, Fault::Partition)];
    survives(Lies::NONE, &faults);
    survives(Lies { votes: Votes::Twice(HALF), proposes: Proposes::Twice(HALF), ..Lies::NONE }, &faults);
}

#[test]
fn withholding_from_a_chosen_peer_stops_it_not() {
    for readers in [ONE, HALF] {
        survives(Lies { announces: Announces::To(readers), ..Lies::NONE }, &[]);
        survives(Lies { serves: Serves::Not(readers), ..Lies::NONE }, &[]);
    }
}

#[test]
fn a_dribbled_tensor_holds_up_nothing_else() {
    let counts = survives(Lies { serves: Serves::Dribbling(ALL), ..Lies::NONE }, &[]);
    let fair = survives(Lies::NONE, &[]);
    // The first wait is as long as its bound, and later ones as long as the others take.
    assert!(counts.elapsed_ms < fair.elapsed_ms * 4, "{} ms against {} ms", counts.elapsed_ms, fair.elapsed_ms);
}

#[test]
fn a_stream_of_old_records_is_not_drained_for_ever() {
    survives(Lies { floods: Floods::Old, ..Lies::NONE }, &[]);
}

#[test]
fn no_crash_makes_a_peer_sign_twice() {
    let crashes = [Fault::Crash, Fault::PowerCut, Fault::TornWrite, Fault::LoseStore, Fault::TornWrite];
    let faults: Vec<(u64, Fault)> = (1..).zip(crashes.into_iter().chain(crashes)).collect();
    assert_eq!(survives(Lies::NONE, &faults[..9]).proofs, 0);
}

/// Claims out of turn and out of bounds neither stop the run nor lower its learning rate.
#[test]
fn evaluations_out_of_turn_steer_nothing() {
    let boasting = survives(Lies { announces: Announces::Boasting, ..Lies::NONE }, &[]);
    assert_eq!(boasting.rounds, 400, "no run stops early");
    assert_eq!(boasting.lowered, 0, "nor does it learn more slowly");
}

#[test]
fn floods_of_large_records_fill_no_memory() {
    for floods in [Floods::Oversize(60), Floods::Early, Floods::Elsewhere, Floods::Inquiries] {
        let counts = survives(Lies { floods, ..Lies::NONE }, &[]);
        assert!(counts.kept_max < 4 << 20, "{floods:?}: {} bytes", counts.kept_max);
    }
}

#[test]
fn a_peer_that_slept_accuses_nobody_and_catches_up() {
    let faults = [(2, Fault::Crash), (3, Fault::OneWay), (5, Fault::Crash), (7, Fault::PowerCut)];
    assert!(survives(Lies::NONE, &faults).healings > 0);
}

/// Everything that ended a process is a pause: after the faults all go on.
#[test]
fn no_outcome_of_the_protocol_is_an_end() {
    let faults = [(2, Fault::Partition), (3, Fault::PowerCutForAll), (6, Fault::Lossy), (8, Fault::PowerCutForAll)];
    survives(Lies { serves: Serves::Not(HALF), ..Lies::NONE }, &faults);
}

#[test]
fn a_round_that_is_replayed_has_the_same_result() {
    let faults = [(2, Fault::PowerCutForAll), (4, Fault::LoseStore), (5, Fault::Crash), (7, Fault::PowerCutForAll)];
    for lies in [Lies::NONE, Lies { votes: Votes::To(ONE), ..Lies::NONE }] {
        survives(lies, &faults);
    }
}

#[test]
fn forged_certificates_and_decisions_convince_nobody() {
    let faults = [(2, Fault::Crash), (4, Fault::PowerCut), (6, Fault::OneWay)];
    survives(Lies { proposes: Proposes::Forging, forges: true, wrong_checks: ALL, ..Lies::NONE }, &faults);
}

/// A silent peer made each wait longer than the last, up to the bound in every round.
#[test]
fn a_silent_or_late_peer_costs_less_than_a_wait_in_every_round() {
    for announces in [Announces::Silently, Announces::Late(995_000)] {
        let counts =
            survives(Lies { announces, proposes: Proposes::Silently, votes: Votes::Silently, ..Lies::NONE }, &[]);
        let rounds = counts.rounds;
        assert!(counts.elapsed_ms < rounds * 2500, "{announces:?}: {} ms for {rounds} rounds", counts.elapsed_ms);
    }
}

/// A proposer that leaves members out changes nothing else, and one that proposes nothing costs a view once.
#[test]
fn a_silent_proposer_is_the_last_to_propose_afterwards() {
    survives(Lies { proposes: Proposes::Omitting, ..Lies::NONE }, &[]);
    let counts = survives(Lies { proposes: Proposes::Silently, ..Lies::NONE }, &[]);
    let liars = 10 * (1 + 1 + 2 + 1);
    assert!(counts.later_views <= liars, "{} views of {liars} liars passed", counts.later_views);
    assert!(counts.later_views > liars / 2, "it was their turn: {}", counts.later_views);
}

/// A member that lost its disk signs nothing twice, whatever liars tell it of its past.
#[test]
fn a_lost_log_is_not_made_up_by_liars() {
    let faults = [(2, Fault::LoseDisk), (4, Fault::Slow), (9, Fault::LoseDisk)];
    for answers in [Answers::Silently, Answers::Denying, Answers::Recovering, Answers::Forging] {
        let counts = survives(Lies { answers, ..Lies::NONE }, &faults);
        assert!(counts.recoveries > 5, "{answers:?}: {} logs were lost", counts.recoveries);
        assert_eq!(counts.proofs, 0, "{answers:?}");
    }
}

#[test]
fn a_schedule_replays_exactly_and_another_seed_differs() {
    let run = |seed| simulate(Schedule { seed, model: MIXED, rounds: 10, weather: Weather::Foul, mutant: None });
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).counts, run(4).counts);
}

/// Random schedules, so that a plain test run meets all faults and lies together too.
#[test]
fn random_schedules_break_no_invariant() {
    let mut total = Counts::default();
    for seed in 1..=100 {
        for model in [FOUR, MIXED, CRASHING, Model { members: 4, byzantine: 0, crashed: 1 }] {
            let schedule = Schedule { seed, model, rounds: 20, weather: Weather::Foul, mutant: None };
            let Outcome { counts, violation, .. } = simulate(schedule);
            assert_eq!(violation, None, "{model:?}, seed {seed}");
            total.add(&counts);
        }
    }
    let Counts { faults, later_views, proofs, healings, recoveries, .. } = total;
    for (what, count) in [
        ("faults", faults),
        ("later views", later_views),
        ("proofs", proofs),
        ("healings", healings),
        ("recoveries", recoveries),
    ] {
        assert!(count > 20, "{what}: {count}");
    }
}
