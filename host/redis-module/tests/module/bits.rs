//! The module computes the same bits as the kernels, for every size and rule.

use skein_kernels::optimizer::{Constant, OPTIMIZERS, Optimizer, OptimizerKind, Step};
use skein_kernels::rule::{Rule, RuleParameter};
use skein_kernels::rules::RULES;
use skein_kernels::update::{After, Before, Change};
use skein_types::Statistics;

use crate::client::{Client, blob, noise, same_bits};
use crate::server::on_each;

/// Two lengths that are computed at once, and one for a worker that spans several of the kernels' windows.
const LENGTHS: [usize; 3] = [1, 1000, 70_001];
const ROWS: usize = 5;

/// Every rule, with and without its parameters set, and its weights as text.
fn rules() -> Vec<(Rule, &'static str)> {
    let mut rules = Vec::new();
    for kind in RULES {
        let rule = Rule::new(kind, 1);
        let with = |rule: Rule, parameter: &RuleParameter| rule.with(parameter.name, "2").expect("the value is valid");
        for rule in [rule.clone(), kind.parameters.iter().fold(rule, with)] {
            assert!(rule.rows_min() <= ROWS, "{rule}");
            rules.push(if kind.takes_weights {
                (rule.weighted(vec![1.0, 2.5, 0.0, 4.0, 0.1]), "1 2.5 0 4 0.1")
            } else {
                (rule, "")
            });
        }
    }
    rules
}

fn rows(client: &mut Client, len: usize) -> Vec<Vec<f32>> {
    let rows: Vec<Vec<f32>> = (0..ROWS).map(|row| noise(row as u64, len)).collect();
    rows.iter().enumerate().for_each(|(row, values)| client.set(&format!("row{row}"), 3, values));
    rows
}

#[test]
fn aggregates_have_the_bits_of_the_kernels() {
    on_each("", |server| {
        let mut client = server.client();
        for len in LENGTHS {
            let rows = rows(&mut client, len);
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            for (rule, weights) in rules() {
                let weights = if weights.is_empty() { String::new() } else { format!("WEIGHTS {weights}") };
                client.say(&format!("SKEIN.AGG out 7 {rule} 1 5 row0 row1 row2 row3 row4 {weights}")).ok();
                let mut expected = vec![0.0; len];
                rule.apply(&rows, &mut expected).unwrap();
                same_bits(&client.get("out"), &expected);
                assert_eq!(client.say("SKEIN.META out").array()[0].integer(), 7);
            }
        }
    });
}

/// Every optimizer, with default constants and with others.
fn optimizers() -> Vec<Optimizer> {
    let other =
        |optimizer: Optimizer, constant: &Constant| optimizer.with(constant.name, 0.01).expect("the value is valid");
    let both =
        |kind: &'static OptimizerKind| [Optimizer::new(kind), kind.constants.iter().fold(Optimizer::new(kind), other)];
    OPTIMIZERS.into_iter().flat_map(both).collect()
}

/// Three rounds of one optimizer with one rule, in the server and by the kernels.
fn check_apply(client: &mut Client, len: usize, optimizer: Optimizer, (rule, weights): &(Rule, &str)) {
    let rows = rows(client, len);
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let slots = optimizer.kind().slots;
    let mut state: Vec<Vec<f32>> =
        (0..=slots).map(|slot| noise(100 + slot as u64, len).iter().map(|v| v.abs()).collect()).collect();
    let names: Vec<String> = (0..=slots).map(|slot| format!("state{slot}")).collect();
    names.iter().zip(&state).for_each(|(name, values)| client.set(name, 4, values));
    for round in 5..8u64 {
        let clip_norm = (round == 6).then_some(3.5);
        let clip_value = (round == 7).then_some(0.25);
        let step = Step { number: round - 4, learning_rate: 0.05 };
        let change = Change { trained: len - len / 3, clip_norm, clip_value, optimizer, step };
        let bound = |bound: Option<f32>| bound.map_or("none".to_owned(), |bound| bound.to_string());
        let count = weights.split_whitespace().count();
        let answer = client.say(&format!(
            "SKEIN.APPLY {} {} ROWS 5 row0 row1 row2 row3 row4 {round} {rule} 1 WEIGHTS {count} {weights} TRAINED {} CLIPNORM {} CLIPVALUE {} OPTIMIZER {optimizer} STEP {} 0.05",
            slots + 1, names.join(" "), change.trained, bound(clip_norm), bound(clip_value), step.number,
        ));
        assert_eq!(answer.integer(), round as i64);
        let mut after = vec![vec![0.0; len]; slots + 1];
        let (parameters, written) = after.split_first_mut().unwrap();
        let before: Vec<&[f32]> = state.iter().map(Vec::as_slice).collect();
        let written = After { parameters, slots: written.iter_mut().map(Vec::as_mut_slice).collect() };
        change.apply(1, rule, &rows, Before { parameters: before[0], slots: &before[1..] }, written).unwrap();
        state = after;
        for (name, values) in names.iter().zip(&state) {
            same_bits(&client.get(name), values);
            assert_eq!(client.say(&format!("SKEIN.META {name}")).array()[0].integer(), round as i64);
        }
    }
}

#[test]
fn updates_have_the_bits_of_the_kernels() {
    on_each("", |server| {
        let mut client = server.client();
        for len in LENGTHS {
            for optimizer in optimizers() {
                rules().iter().for_each(|rule| check_apply(&mut client, len, optimizer, rule));
            }
        }
    });
}

#[test]
fn values_are_returned_as_they_were_stored() {
    on_each("", |server| {
        let mut client = server.client();
        for len in [0, 1, 100_000] {
            let values = noise(len as u64, len);
            client.set("a", 9, &values);
            same_bits(&client.get("a"), &values);
            let stat = client.say("SKEIN.STAT a nothing");
            let expected = Statistics::of(&values);
            let found = stat.array()[0].array().to_vec();
            assert_eq!((found[0].integer(), found[1].integer(), found[3].integer()), (9, len as i64, 1));
            assert_eq!(found[2].bulk(), expected.hash.0);
            assert_eq!(stat.array()[1], crate::client::Answer::Nil);
            let norm: f64 = client.say("SKEIN.NORM a").text().parse().unwrap();
            assert_eq!(norm.to_bits(), skein_kernels::norm::l2_norm(&values).to_bits());
        }
        client.set("a", 1, &[1.0, f32::NAN]);
        assert_eq!(client.say("SKEIN.STAT a").array()[0].array()[3].integer(), 0);
    });
}

#[test]
fn ranges_are_read_and_replaced() {
    on_each("", |server| {
        let mut client = server.client();
        for len in [10, 100_000] {
            let mut values = noise(1, len);
            client.call(&[b"SKEIN.SET", b"a", b"4", &blob(&values), b"2", (len / 2).to_string().as_bytes()]).ok();
            let half = len / 2;
            client.call(&[b"SKEIN.SETRANGE", b"a", half.to_string().as_bytes(), &blob(&values[..3])]).ok();
            values.copy_within(..3, half);
            same_bits(&client.get("a"), &values);
            same_bits(&client.say(&format!("SKEIN.GETRANGE a {half} 3")).values(), &values[half..half + 3]);
            same_bits(&client.say(&format!("SKEIN.GETRANGE a 1 {}", len - 1)).values(), &values[1..]);
            let meta = client.say("SKEIN.META a");
            let shape: Vec<i64> = meta.array()[2].array().iter().map(|d| d.integer()).collect();
            assert_eq!((meta.array()[0].integer(), shape), (4, vec![2, half as i64]));
            client.say(&format!("SKEIN.GETRANGE a {half} {}", half + 1)).fails(&format!("RANGE {len}"));
            client.say(&format!("SKEIN.GETRANGE a {} 1", u64::MAX)).fails(&format!("RANGE {len}"));
            client.call(&[b"SKEIN.SETRANGE", b"a", (len - 1).to_string().as_bytes(), &blob(&[1.0; 2])]).fails("RANGE");
        }
    });
}
