//! A written command is read back bit for bit. Arbitrary arguments are read or refused, and never panic.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::prelude::*;
use skein_kernels::optimizer::{OPTIMIZERS, Optimizer, Step};
use skein_kernels::rule::Rule;
use skein_kernels::rules::RULES;
use skein_kernels::update::Change;
use skein_redis_command::command::{
    Accumulate, Aggregate, Apply, Average, Get, GetRange, Meta, Norm, RestoreSum, Set, SetRange, Stat, Version,
};
use skein_redis_command::{Command, DIMENSIONS_MAX, KEYS_MAX, SyntaxError, read, write};

type Bytes = Vec<u8>;

fn words<'a, C: Command<&'a [u8]>>(command: C) -> Vec<Bytes> {
    let words = write(command);
    assert_eq!(words[0], C::NAME.to_bytes());
    words.into_iter().map(Cow::into_owned).collect()
}

fn understood<C: Command<usize>>(words: &[Bytes]) -> Result<C, SyntaxError> {
    read(words.len(), |place| &words[place])
}

/// Writes `$sent`, reads it, and compares it with `$named`, which replaces places by their words. With one argument
/// more or less, the command differs or is refused.
macro_rules! check {
    ($sent:expr, |$read:ident: $command:ident, $words:ident| $named:expr) => {{
        let mut changed = words($sent.clone());
        let $words = changed.clone();
        let $read: $command<usize> = understood(&$words).expect("a written command can be read");
        let first = $read.clone();
        prop_assert_eq!($named, $sent);
        changed.push(b"?".to_vec());
        prop_assert_ne!(understood::<$command<usize>>(&changed), Ok(first.clone()), "with one argument more");
        changed.truncate(changed.len() - 2);
        prop_assert_ne!(understood::<$command<usize>>(&changed), Ok(first), "with one argument less");
    }};
}

fn name() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..9)
}

fn names(max: usize) -> impl Strategy<Value = Vec<Bytes>> {
    vec(name(), 1..=max)
}

fn borrowed(names: &[Bytes]) -> Vec<&[u8]> {
    names.iter().map(Vec::as_slice).collect()
}

fn at<'w>(words: &'w [Bytes], places: &[usize]) -> Vec<&'w [u8]> {
    places.iter().map(|place| &words[*place][..]).collect()
}

/// Any number but NaN, which equals nothing.
fn number() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("a number", |value| !value.is_nan())
}

fn version() -> impl Strategy<Value = u64> {
    0..=i64::MAX.cast_unsigned()
}

/// Any rule, with any of its parameters set, and weights if it takes them.
fn rule() -> impl Strategy<Value = Rule> {
    (0..RULES.len(), any::<u32>(), vec(0u32..9, 8), vec(number(), 0..5)).prop_map(
        |(index, faults, parameters, weights)| {
            let kind = RULES[index];
            // A value of 0 means that the parameter is not set.
            let set = kind.parameters.iter().zip(&parameters).filter(|(_, value)| **value > 0);
            let rule = set.fold(Rule::new(kind, faults), |rule, (parameter, value)| {
                rule.with(parameter.name, &value.to_string()).expect("the value is valid")
            });
            if kind.takes_weights { rule.weighted(weights) } else { rule }
        },
    )
}

/// Any optimizer, with constants anywhere in their ranges.
fn optimizer() -> impl Strategy<Value = Optimizer> {
    (0..OPTIMIZERS.len(), vec(0.0f32..1.0, 8)).prop_map(|(index, values)| {
        let kind = OPTIMIZERS[index];
        let set = |optimizer: Optimizer, (constant, value): (&skein_kernels::optimizer::Constant, f32)| {
            optimizer.with(constant.name, value).expect("the value is valid")
        };
        kind.constants.iter().zip(values).fold(Optimizer::new(kind), set)
    })
}

fn change() -> impl Strategy<Value = Change> {
    let bound = || prop::option::of(0.0f32..=f32::MAX);
    let step = (1..=i64::MAX.cast_unsigned(), -1e30f32..1e30);
    (any::<usize>(), bound(), bound(), optimizer(), step).prop_map(
        |(trained, clip_norm, clip_value, optimizer, (number, learning_rate))| Change {
            trained,
            clip_norm,
            clip_value,
            optimizer,
            step: Step { number, learning_rate },
        },
    )
}

proptest! {
    #[test]
    fn tensors(
        (key, blob) in (name(), name()),
        version in version(),
        shape in vec(any::<u32>(), 0..=DIMENSIONS_MAX),
        (start, count) in any::<(usize, usize)>(),
        keys in names(KEYS_MAX),
    ) {
        let key = &key[..];
        let blob = &blob[..];
        check!(Set { key, version, blob, shape: shape.clone() }, |read: Set, words| {
            Set { key: &words[read.key][..], version: read.version, blob: &words[read.blob], shape: read.shape }
        });
        check!(SetRange { key, start, blob }, |read: SetRange, words| {
            SetRange { key: &words[read.key][..], start: read.start, blob: &words[read.blob] }
        });
        check!(GetRange { key, start, count }, |read: GetRange, words| {
            GetRange { key: &words[read.key][..], start: read.start, count: read.count }
        });
        check!(Get { key }, |read: Get, words| Get { key: &words[read.key][..] });
        check!(Meta { key }, |read: Meta, words| Meta { key: &words[read.key][..] });
        check!(Norm { key }, |read: Norm, words| Norm { key: &words[read.key][..] });
        check!(Stat { keys: borrowed(&keys) }, |read: Stat, words| Stat { keys: at(&words, &read.keys) });
    }

    #[test]
    fn sums(
        (key, other, blob) in (name(), name(), name()),
        round in version(),
        (index, count, samples) in any::<(u32, u32, u32)>(),
        loss in number(),
    ) {
        let sum = &key[..];
        let parameters = &other[..];
        let blob = &blob[..];
        check!(Accumulate { sum, parameters, round, index, count, samples, loss, blob }, |read: Accumulate, words| {
            let [sum, parameters, blob] = [read.sum, read.parameters, read.blob].map(|place| &words[place][..]);
            Accumulate { sum, parameters, blob, round: read.round, index: read.index, count: read.count,
                samples: read.samples, loss: read.loss }
        });
        check!(Average { destination: parameters, sum, round }, |read: Average, words| {
            Average { destination: &words[read.destination][..], sum: &words[read.sum], round: read.round }
        });
        check!(RestoreSum { sum, payload: blob }, |read: RestoreSum, words| {
            RestoreSum { sum: &words[read.sum][..], payload: &words[read.payload] }
        });
    }

    #[test]
    fn aggregates(destination in name(), version in version(), rule in rule(), keys in names(20)) {
        let sent = Aggregate { destination: &destination[..], version, rule, keys: borrowed(&keys) };
        check!(sent, |read: Aggregate, words| Aggregate {
            destination: &words[read.destination][..],
            version: read.version,
            rule: read.rule,
            keys: at(&words, &read.keys),
        });
    }

    #[test]
    fn updates(state in names(3), rows in names(20), round in version(), rule in rule(), change in change()) {
        let sent = Apply { state: borrowed(&state), rows: borrowed(&rows), round, rule, change };
        check!(sent, |read: Apply, words| Apply {
            state: at(&words, &read.state),
            rows: at(&words, &read.rows),
            round: read.round,
            rule: read.rule,
            change: read.change,
        });
    }

    /// Words as anyone may send them: keywords of the commands in any order, mixed with arbitrary bytes.
    #[test]
    fn arbitrary_words_do_not_panic(
        words in vec(prop_oneof![
            name(),
            prop::sample::select(
                &["1", "2", "0", "-1", "ROWS", "WEIGHTS", "TRAINED", "CLIPNORM", "none", "CLIPVALUE", "OPTIMIZER", "sgd",
                  "STEP", "mean", "weighted-mean", "NaN", "18446744073709551615", "mean(a=1)", "adam(beta1=2"][..],
            ).prop_map(|word| word.as_bytes().to_vec()),
        ], 0..30),
    ) {
        drop(understood::<Apply<usize>>(&words));
        drop(understood::<Aggregate<usize>>(&words));
        drop(understood::<Set<usize>>(&words));
        drop(understood::<Stat<usize>>(&words));
        drop(understood::<Accumulate<usize>>(&words));
    }
}

#[test]
fn a_command_without_arguments() {
    let words = words(Version);
    assert_eq!(words, [b"SKEIN.VERSION"]);
    assert_eq!(understood(&words), Ok(Version));
    let longer = [&words[..], &[b"1".to_vec()]].concat();
    assert_eq!(
        understood::<Version>(&longer).map_err(|error| error.to_string()),
        Err("the command takes 0 arguments, got 1".into())
    );
}

#[test]
fn messages_name_the_argument_that_does_not_fit() {
    let apply =
        "SKEIN.APPLY 1 p ROWS 1 g 6 mean 0 WEIGHTS 0 TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 0.1";
    let refused = |from: &str, to: &str, message: &str| {
        assert!(apply.contains(from), "{from}");
        let changed = apply.replacen(from, to, 1);
        let words: Vec<Bytes> = changed.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let error = understood::<Apply<usize>>(&words).expect_err(&changed);
        assert_eq!(error.to_string(), message, "{changed}");
    };
    refused(" STEP 1 0.1", "", "`STEP` is missing");
    refused("1 p", "0", "`numstate` must be between 1 and 1024, without a sign or leading zeros");
    refused("ROWS", "rose", "expected `ROWS`");
    refused("1 g", "30 g", "expected 30 of `row`, but only 17 arguments are left");
    refused("6 mean", "9223372036854775808 mean", "`round` must be less than 2^63, got 9223372036854775808");
    refused("6 mean", "six mean", "`round` must be a whole number in range");
    refused("mean 0", "mean -1", "`faults` must be a whole number in range");
    refused("WEIGHTS 0", "WEIGHTS 99", "expected 99 of `weight`, but only 11 arguments are left");
    refused("none CLIPVALUE", "-1 CLIPVALUE", "`bound of the norm` must be a number of at least 0, or `none`");
    refused("CLIPVALUE none", "CLIPVALUE NaN", "`bound of values` must be a number of at least 0, or `none`");
    refused("sgd", "sgd(momentum=1)", "`sgd` has no parameter `momentum`: it takes `weight_decay`");
    refused("STEP 1", "STEP 0", "`number of the step` must be 1 or more");
    refused("0.1", "inf", "`learning rate` must be finite");
    refused("0.1", "0.1 0.2", "the command takes 21 arguments, got 22");
}
