//! The conformance suite of stores. The tests of each kind of store include this file and define
//! `crate::on_every_store`, which calls a test with a fresh store whose state of round 0 is zeros.

use std::time::Duration;

use proptest::prelude::*;
use skein_kernels::mean::{MEAN, WEIGHTED_MEAN};
use skein_kernels::optimizer::{Constant, MOMENTUM, OPTIMIZERS, Optimizer, Step};
use skein_kernels::order::{MEDIAN, TRIMMED_MEAN};
use skein_kernels::rule::{Rule, RuleParameter};
use skein_kernels::rules::RULES;
use skein_kernels::update::{After, Before, Change};
use skein_store::{Accumulated, Aggregate, BatchSlot, Ports, State, StoreError, Update};
use skein_types::{PeerId, Statistics, Values};

use crate::on_every_store;

const ME: PeerId = PeerId([1; 32]);
const NO_WAIT: Duration = Duration::ZERO;

pub(crate) fn slot(index: u32, count: u32) -> BatchSlot {
    BatchSlot { index, count, samples: 1 + index, loss: index as f32 }
}

pub(crate) fn update(round: u64, value: f32, len: usize) -> Update {
    Update {
        round,
        aggregate: Aggregate::Values(vec![value; len].into()),
        change: Change {
            trained: len,
            clip_norm: None,
            clip_value: None,
            optimizer: Optimizer::new(&MOMENTUM).with("momentum", 0.5).expect("a decay"),
            step: Step { number: round, learning_rate: 1.0 },
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Invariants 1 and 3: neither order of arrival nor repetition changes a bit.
    #[test]
    fn batches_count_once_in_any_order(
        (gradients, order) in (1usize..20).prop_flat_map(|n| (
            prop::collection::vec(prop::collection::vec(-1e2f32..1e2, 7), n),
            // Every batch at least once, many of them twice.
            prop::collection::vec(0..n, 0..n).prop_map(move |again| (0..n).chain(again).collect::<Vec<_>>()).prop_shuffle(),
        )),
    ) {
        on_every_store(7, async |store| {
            let leaves = gradients.len() as u32;
            let mut counted = vec![false; gradients.len()];
            for &index in &order {
                let accumulated = store.sums.accumulate(1, slot(index as u32, leaves), gradients[index].clone()).await;
                let first = !std::mem::replace(&mut counted[index], true);
                let expected = if first { Accumulated::Counted } else { Accumulated::Duplicate };
                assert_eq!(accumulated.expect("a batch that fits"), expected);
            }
            let average = store.sums.average(1, ME).await.expect("all batches arrived");
            let rows: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
            let weights: Vec<f32> = (0..leaves).map(|index| (1 + index) as f32).collect();
            let mut expected = vec![0.0; 7];
            skein_kernels::mean::weighted_mean(&rows, &weights, &mut expected).expect("valid rows");
            assert_eq!(average.hash, Statistics::of(&expected).hash);
            assert_eq!(average.samples, (1..=u64::from(leaves)).sum::<u64>());
        });
    }
}

/// Tasks that finish at the same time, as workers do.
#[test]
fn concurrent_batches_yield_the_same_bits() {
    on_every_store(1000, async |store| {
        let mut hashes = Vec::new();
        for round in 1..=5 {
            let mut tasks = tokio::task::JoinSet::new();
            for index in (0..33).chain(0..33) {
                let store = store.clone();
                let gradient = (0..1000).map(|i| ((i * 7 + index * 13) % 101) as f32 * 0.37).collect();
                tasks.spawn(async move { store.sums.accumulate(round, slot(index, 33), gradient).await });
            }
            let results = tasks.join_all().await;
            let counted = results.into_iter().filter(|r| matches!(r, Ok(Accumulated::Counted))).count();
            assert_eq!(counted, 33);
            hashes.push(store.sums.average(round, ME).await.expect("all batches arrived").hash);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    });
}

/// Applies an update, checks the hashes that the store returned, and returns the state.
async fn apply(store: &Ports, update: Update) -> Result<State, StoreError> {
    let head = store.state.apply(update).await?;
    let state = store.state.state().await?;
    assert_eq!(state.digests(), head);
    assert_eq!(store.state.digests().await?, head);
    assert_eq!(store.state.parameters().await?, (state.round(), state.parameters().clone()));
    Ok(state)
}

#[test]
fn a_round_is_applied_once_and_in_order() {
    on_every_store(3, async |store| {
        let first = apply(&store, update(1, 1.0, 3)).await.expect("round 1 follows round 0");
        assert_eq!((first.round(), first.parameters()[0], first.slots()[0][0]), (1, -1.0, 1.0));
        let again = apply(&store, update(1, 500.0, 3)).await.expect("it was applied before");
        assert_eq!(again, first, "a second application changes nothing");
        assert!(matches!(
            store.state.apply(update(3, 1.0, 3)).await,
            Err(StoreError::OutOfOrder { round: 3, state: 1 })
        ));
        let second = apply(&store, update(2, 1.0, 3)).await.expect("round 2 follows round 1");
        assert_eq!((second.parameters()[0], second.slots()[0][0]), (-2.5, 1.5));
        assert!(matches!(
            store.state.apply(update(1, 1.0, 3)).await,
            Err(StoreError::OutOfOrder { round: 1, state: 2 })
        ));
        assert_eq!(store.state.state().await.expect("a state"), second);
        let late = store.sums.accumulate(2, slot(0, 1), vec![1.0; 3]).await.expect("dropped");
        assert_eq!(late, Accumulated::Duplicate, "a round that was applied takes no batch");
    });
}

/// Tasks apply a round at the same time, each with another aggregate: one of them wins, and the state is consistent.
#[test]
fn a_round_is_applied_once_by_the_first_task() {
    on_every_store(2000, async |store| {
        for round in 1..=5 {
            let mut tasks = tokio::task::JoinSet::new();
            for value in 1..=6 {
                let store = store.clone();
                tasks.spawn(async move { store.state.apply(update(round, value as f32, 2000)).await });
            }
            let heads: Vec<_> = tasks.join_all().await.into_iter().map(|head| head.expect("applied")).collect();
            let state = store.state.state().await.expect("a state");
            assert_eq!(state.round(), round);
            assert!(heads.iter().all(|head| *head == state.digests()), "{heads:?}");
            store.state.prune_before(round + 1).await.expect("pruned");
            assert_eq!(store.state.state().await.expect("the state was not pruned"), state);
        }
    });
}

/// An update that clips by norm, by value, or both.
fn clipped(round: u64, clip_norm: Option<f32>, clip_value: Option<f32>) -> Update {
    let update = update(round, 3.0, 4);
    Update { change: Change { clip_norm, clip_value, ..update.change }, ..update }
}

#[test]
fn gradients_are_clipped_by_norm_and_by_value() {
    on_every_store(4, async |store| {
        let state = apply(&store, clipped(1, Some(1.0), Some(0.25))).await.expect("an update");
        assert_eq!(state.parameters()[0], -0.25);
        let state = apply(&store, clipped(2, Some(1.0), None)).await.expect("an update");
        assert_eq!(state.slots()[0][0], 0.5 + 0.25 / 2.0);
    });
}

/// The optimizer updates the trained parameters; running statistics take the aggregate's values, and are never clipped.
#[test]
fn running_statistics_are_replaced_and_not_optimized() {
    on_every_store(5, async |store| {
        let plain = update(1, 0.0, 5);
        let change = Change { trained: 3, clip_norm: Some(1.0), clip_value: Some(0.7), ..plain.change };
        let aggregate = Aggregate::Values(vec![3.0, 4.0, 0.0, 100.0, -7.0].into());
        let state = apply(&store, Update { aggregate: aggregate.clone(), change, ..plain }).await.expect("an update");
        assert_eq!(**state.parameters(), [-0.6, -0.7, 0.0, 100.0, -7.0]);
        assert_eq!(*state.slots()[0], [0.6, 0.7, 0.0, 0.0, 0.0]);
        let refused = store.state.apply(Update { round: 2, aggregate, change: Change { trained: 6, ..change } }).await;
        assert!(matches!(refused, Err(StoreError::Length { expected: 5, actual: 6 })));
    });
}

/// Every rule and optimizer yields the bits of the kernels in this process, in a database or out of it.
#[test]
fn rules_and_optimizers_yield_the_same_bits_in_every_store() {
    // More than one window of the kernels.
    const LEN: usize = 9000;
    let rules = RULES.into_iter().flat_map(|kind| {
        let rule = Rule::new(kind, 1);
        let rule = if kind.takes_weights { rule.weighted(vec![1.0, 2.0, 0.1, 3.5, 7.0]) } else { rule };
        let with = |rule: Rule, parameter: &RuleParameter| rule.with(parameter.name, "2").expect("it fits");
        [rule.clone(), kind.parameters.iter().fold(rule, with)]
    });
    let rules: Vec<Rule> = rules.collect();
    let other = |optimizer: Optimizer, constant: &Constant| optimizer.with(constant.name, 0.1).expect("it fits");
    let peers: Vec<PeerId> = (0..5).map(|peer| PeerId([peer * 3; 32])).collect();
    let noise = |seed: usize| (0..LEN).map(|i| ((i * 31 + seed * 17) % 23) as f32 * 0.37 - 4.0).collect::<Vec<_>>();
    for kind in OPTIMIZERS {
        let optimizer = kind.constants.iter().fold(Optimizer::new(kind), other);
        on_every_store(LEN, async |store| {
            let slots = vec![vec![0.0; LEN].into(); optimizer.kind().slots];
            let mut expected = State::new(0, noise(99).into(), slots);
            store.state.set_state(expected.clone()).await.expect("a state");
            for (round, rule) in (1..).zip(&rules) {
                let rows: Vec<Vec<f32>> = (0..peers.len()).map(|peer| noise(peer + round as usize)).collect();
                for (peer, row) in peers.iter().zip(&rows) {
                    store.contributions.put_contribution(round, *peer, row.clone().into()).await.expect("kept");
                }
                let clip_norm = (round % 2 == 0).then_some(2.5);
                let step = Step { number: round, learning_rate: 0.1 / round as f32 };
                let change = Change { trained: LEN - 9, clip_norm, clip_value: Some(3.3), optimizer, step };
                let aggregate = Aggregate::Contributions { rule: rule.clone(), peers: peers.clone() };
                let state = apply(&store, Update { round, aggregate, change }).await.expect("an update");

                let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                let slots: Vec<&[f32]> = expected.slots().iter().map(|slot| &**slot).collect();
                let mut parameters = vec![0.0; LEN];
                let mut moved = vec![vec![0.0; LEN]; slots.len()];
                let before = Before { parameters: expected.parameters(), slots: &slots };
                let slots = moved.iter_mut().map(Vec::as_mut_slice).collect();
                change.apply(1, rule, &rows, before, After { parameters: &mut parameters, slots }).expect("valid rows");
                expected = State::new(round, parameters.into(), moved.into_iter().map(Values::from).collect());
                assert_eq!(state, expected, "{rule} {optimizer:?}");
            }
        });
    }
}

#[test]
fn invalid_contributions_are_refused_and_change_nothing() {
    on_every_store(2, async |store| {
        let apply = async |rule: Rule, peers: &[PeerId]| {
            let aggregate = Aggregate::Contributions { rule, peers: peers.to_vec() };
            let refused = store.state.apply(Update { aggregate, ..update(1, 0.0, 2) }).await;
            assert_eq!(store.state.digests().await.expect("a state").round, 0);
            refused
        };
        let other = PeerId([2; 32]);
        let nan = PeerId([3; 32]);
        let short = PeerId([4; 32]);
        for (peer, values) in
            [(ME, vec![1.0, 2.0]), (other, vec![0.0; 2]), (nan, vec![0.0, f32::NAN]), (short, vec![1.0])]
        {
            store.contributions.put_contribution(1, peer, values.into()).await.expect("kept");
        }
        use skein_kernels::Error;
        let refused = apply(Rule::new(&MEAN, 0), &[ME, PeerId([9; 32])]).await;
        assert!(
            matches!(refused, Err(StoreError::Missing { round: 1, peer }) if peer == PeerId([9; 32])),
            "{refused:?}"
        );
        let refused = apply(Rule::new(&MEAN, 0), &[ME, short]).await;
        assert!(matches!(refused, Err(StoreError::Length { expected: 2, actual: 1 })), "{refused:?}");
        for (rule, peers, expected) in [
            (Rule::new(&MEAN, 0), vec![ME, nan], Error::NonFinite { row: 1 }),
            (Rule::new(&TRIMMED_MEAN, 1), vec![ME, other], Error::TooFew { needed: 3, present: 2 }),
            (Rule::new(&MEDIAN, 2), vec![ME, other], Error::TooFew { needed: 5, present: 2 }),
            (Rule::new(&WEIGHTED_MEAN, 0).weighted(vec![0.0, 0.0]), vec![ME, other], Error::Weights),
        ] {
            let refused = apply(rule, &peers).await;
            assert!(
                matches!(&refused, Err(StoreError::Rule { round: 1, source }) if *source == expected),
                "{refused:?}"
            );
        }
    });
}

#[test]
fn invalid_lengths_and_batches_are_refused_and_change_nothing() {
    on_every_store(3, async |store| {
        let refused = store.sums.accumulate(1, slot(0, 2), vec![0.0; 4]).await;
        assert!(matches!(refused, Err(StoreError::Length { expected: 3, actual: 4 })));
        store.sums.accumulate(1, slot(0, 2), vec![0.0; 3]).await.expect("a batch that fits");
        for bad in [slot(1, 3), slot(2, 2)] {
            let refused = store.sums.accumulate(1, bad, vec![0.0; 3]).await;
            assert!(matches!(refused, Err(StoreError::Batch { round: 1, .. })), "{bad:?}");
        }
        assert!(matches!(store.sums.average(1, ME).await, Err(StoreError::Incomplete { round: 1 })));
        assert!(matches!(store.sums.average(2, ME).await, Err(StoreError::Incomplete { round: 2 })));
        assert!(matches!(
            store.state.apply(update(1, 0.0, 2)).await,
            Err(StoreError::Length { expected: 3, actual: 2 })
        ));
        assert_eq!(store.state.digests().await.expect("a state").round, 0);
    });
}

/// An honest peer was blamed for a sum that overflowed: each gradient was finite, but the average was never checked.
#[test]
fn an_average_reports_whether_its_values_are_finite() {
    on_every_store(3, async |store| {
        for (round, value, finite) in [(1, 1e30, true), (2, 3e38, false)] {
            store.sums.accumulate(round, slot(0, 2), vec![1.0; 3]).await.expect("counted");
            store.sums.accumulate(round, slot(1, 2), vec![0.0, value, 1.0]).await.expect("counted");
            let average = store.sums.average(round, ME).await.expect("both batches arrived");
            assert_eq!(average.finite, finite, "{value}");
        }
    });
}

#[test]
fn contributions_are_inspected_when_they_are_put() {
    on_every_store(3, async |store| {
        let other = PeerId([2; 32]);
        for (values, finite) in [(vec![1.0, 2.0], true), (vec![1.0, f32::NAN, 2.0], false)] {
            let statistics =
                store.contributions.put_contribution(1, other, Values::from(values.clone())).await.expect("kept");
            assert_eq!(statistics, Statistics::of(&values));
            assert_eq!((statistics.len, statistics.finite), (values.len(), finite));
        }
        assert_eq!(
            store.contributions.contribution(1, other).await.expect("readable").map(|values| values.len()),
            Some(3)
        );
        assert_eq!(store.contributions.contribution(1, ME).await.expect("readable"), None);
        store.state.prune_before(2).await.expect("pruned");
        assert_eq!(store.contributions.contribution(1, other).await.expect("readable"), None);
    });
}

#[test]
fn metadata_is_kept_until_its_round_is_pruned() {
    on_every_store(1, async |store| {
        let recall = async |round| store.state.round_metadata(round).await.expect("readable");
        for round in [1, 2] {
            store.state.put_round_metadata(round, vec![round as u8, 0, 255]).await.expect("kept");
        }
        assert_eq!((recall(1).await, recall(3).await), (Some(vec![1, 0, 255]), None));
        store.state.prune_before(2).await.expect("pruned");
        assert_eq!((recall(1).await, recall(2).await), (None, Some(vec![2, 0, 255])));
    });
}

#[test]
fn records_are_read_in_order_and_waited_for() {
    on_every_store(1, async |store| {
        let read = async |after, wait| store.records.records(after, wait).await.expect("readable");
        assert_eq!(read(0, NO_WAIT).await, []);
        for record in [b"a", b"b"] {
            store.records.publish(record.to_vec()).await.expect("published");
        }
        let all = read(0, NO_WAIT).await;
        assert_eq!(all.iter().map(|(_, record)| &record[..]).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(read(all[0].0, NO_WAIT).await, all[1..]);

        let reader = tokio::spawn({
            let store = store.clone();
            let last = all[1].0;
            async move { store.records.records(last, Duration::from_secs(60)).await }
        });
        store.records.publish(b"c".to_vec()).await.expect("published");
        let woken = reader.await.expect("the reader ends").expect("readable");
        assert_eq!(woken.iter().map(|(_, record)| &record[..]).collect::<Vec<_>>(), [b"c"]);
    });
}

/// Peers that are late read what was served to them until its round is pruned, and the state with what belongs to it.
#[test]
fn what_is_served_is_read_until_it_is_pruned() {
    on_every_store(3, async |store| {
        let served = async |name: &str| store.records.served(name).await.expect("readable");
        let items = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect();
        store.records.serve(Some(1), items(&["a", "b"])).await.expect("served");
        store.records.serve(Some(2), items(&["c"])).await.expect("served");
        store.records.serve(None, items(&["beat"])).await.expect("served");
        store.records.serve(None, Vec::new()).await.expect("nothing to serve");
        assert_eq!((served("a").await, served("b").await), (Some(b"a".to_vec()), Some(b"b".to_vec())));
        store.state.prune_before(2).await.expect("pruned");
        assert_eq!((served("a").await, served("b").await), (None, None));
        assert_eq!((served("c").await, served("beat").await), (Some(b"c".to_vec()), Some(b"beat".to_vec())));
        assert_eq!(served("nothing").await, None);

        let state_after = async |round| store.records.state_after(round).await.expect("readable");
        assert_eq!(state_after(0).await, None, "without its metadata it is of no use");
        store.state.put_round_metadata(0, b"of 0".to_vec()).await.expect("kept");
        let whole = store.state.state().await.expect("a state");
        assert_eq!(state_after(0).await, Some((whole, b"of 0".to_vec())));
        store.state.put_round_metadata(1, b"of 1".to_vec()).await.expect("kept");
        let applied = apply(&store, update(1, 1.0, 3)).await.expect("applied");
        assert_eq!(state_after(1).await, Some((applied, b"of 1".to_vec())));
    });
}
