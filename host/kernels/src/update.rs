//! One round's change of the state: aggregate, clip and step while a window of the state is in the cache.
//!
//! The state is never changed in place: concurrent readers and snapshots see the previous one.

use std::ops::Range;

use crate::error::{Error, check_rows};
use crate::norm::{all_finite, clip_by_norm, clip_by_value};
use crate::optimizer::{Optimizer, Step};
use crate::parallel::{in_parallel, part_len};
use crate::rule::{Aggregate, Rule};

/// Values that are processed together; a handful of such windows fit the second-level cache.
const WINDOW: usize = 1 << 13;

/// How a gradient changes the state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Number of leading values that the optimizer updates. The values behind them are running statistics, whose new
    /// values the aggregate holds.
    pub trained: usize,
    /// Bound on the norm of the gradient.
    pub clip_norm: Option<f32>,
    /// Bound on each value of the gradient, applied after the bound on the norm.
    pub clip_value: Option<f32>,
    /// The optimizer with its constants.
    pub optimizer: Optimizer,
    /// Number and learning rate of the step.
    pub step: Step,
}

/// Parameters and optimizer state before a [`Change`].
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// All parameters as one vector.
    pub parameters: &'a [f32],
    /// Vectors of optimizer state, each as long as the parameters.
    pub slots: &'a [&'a [f32]],
}

/// Where a [`Change`] writes the new state; the previous content does not matter.
#[derive(Debug)]
pub struct After<'a> {
    /// As long as the parameters before.
    pub parameters: &'a mut [f32],
    /// As many and as long as the slots before.
    pub slots: Vec<&'a mut [f32]>,
}

/// Where the gradient of a part of the state comes from.
enum Gradient<'a> {
    /// Rows, aggregated window by window.
    Rows { rule: &'a Rule, rows: Vec<&'a [f32]> },
    /// The aggregate, already in the buffer of the new parameters.
    Written,
}

impl<'a> Gradient<'a> {
    /// The gradient of a part of the state.
    fn part(&self, range: &Range<usize>) -> Gradient<'a> {
        match self {
            Gradient::Rows { rule, rows } => Gradient::Rows { rule, rows: windows(rows, range) },
            Gradient::Written => Gradient::Written,
        }
    }

    /// Writes a window of the gradient to `into`, before the parameters of that window are written.
    fn read(&self, window: &Range<usize>, parameters: &[f32], into: &mut [f32]) -> Result<(), Error> {
        match self {
            Gradient::Rows { rule, rows } => rule.apply(&windows(rows, window), into),
            Gradient::Written => {
                into.copy_from_slice(&parameters[window.clone()]);
                // Finite rows may have a sum that is not.
                if all_finite(into) { Ok(()) } else { Err(Error::NonFinite { row: 0 }) }
            }
        }
    }
}

impl Change {
    /// Aggregates `rows` by `rule` and writes the state that follows `before`, on so many threads. Every value is
    /// computed by one of them, so their number changes no bit.
    ///
    /// # Errors
    /// An error of the rule, or rows that are not as long as the parameters.
    ///
    /// # Panics
    /// If the lengths of `before`, `after` and [`Change::trained`] do not match: the owner of the state ensures that
    /// they do.
    pub fn apply(
        &self,
        threads: usize,
        rule: &Rule,
        rows: &[&[f32]],
        before: Before<'_>,
        after: After<'_>,
    ) -> Result<(), Error> {
        assert_eq!(before.parameters.len(), after.parameters.len(), "length of the parameters");
        assert!(self.trained <= before.parameters.len(), "values to train");
        check_rows(rows, 1, after.parameters)?;
        if self.clip_norm.is_none() && matches!(rule.kind().aggregate, Aggregate::Coordinates(_)) {
            return self.in_parts(threads, &Gradient::Rows { rule, rows: rows.to_vec() }, before, after);
        }
        // The norm and a rule that compares whole vectors need all values before the first one is updated. The buffer
        // of the new parameters can hold the aggregate: each of its windows is overwritten only after the gradient
        // there was read.
        rule.apply_on(threads, rows, after.parameters)?;
        if let Some(norm_max) = self.clip_norm {
            clip_by_norm(&mut after.parameters[..self.trained], norm_max);
        }
        self.in_parts(threads, &Gradient::Written, before, after)
    }

    fn in_parts(
        &self,
        threads: usize,
        gradient: &Gradient<'_>,
        before: Before<'_>,
        after: After<'_>,
    ) -> Result<(), Error> {
        let len = before.parameters.len();
        let part = part_len(len, threads);
        let mut slots: Vec<_> = after.slots.into_iter().map(|slot| slot.chunks_mut(part)).collect();
        let parts = after.parameters.chunks_mut(part).enumerate().map(|(index, parameters)| {
            let range = index * part..index * part + parameters.len();
            let change = Change { trained: self.trained.clamp(range.start, range.end) - range.start, ..*self };
            let gradient = gradient.part(&range);
            let before_slots = windows(before.slots, &range);
            let before_parameters = &before.parameters[range];
            let slots = slots.iter_mut().filter_map(Iterator::next).collect();
            let mut after = After { parameters, slots };
            move || {
                let before = Before { parameters: before_parameters, slots: &before_slots };
                change.by_window(&gradient, before, &mut after)
            }
        });
        in_parallel(parts)
    }

    fn by_window(&self, source: &Gradient<'_>, before: Before<'_>, after: &mut After<'_>) -> Result<(), Error> {
        let len = before.parameters.len();
        let mut gradient = vec![0.0; WINDOW.min(len)];
        for start in (0..len).step_by(WINDOW) {
            let window = start..len.min(start + WINDOW);
            // Other threads, such as a server's that has to answer, wait for the processor no longer than one window
            // takes.
            std::thread::yield_now();
            let gradient = &mut gradient[..window.len()];
            source.read(&window, after.parameters, gradient)?;
            let parameters = &mut after.parameters[window.clone()];
            parameters.copy_from_slice(&before.parameters[window.clone()]);
            let trained = self.trained.clamp(window.start, window.end) - window.start;
            if let Some(value_max) = self.clip_value {
                clip_by_value(&mut gradient[..trained], value_max);
            }
            let mut moved: Vec<&mut [f32]> = Vec::with_capacity(after.slots.len());
            for (slot, before) in after.slots.iter_mut().zip(before.slots) {
                let slot = &mut slot[window.clone()];
                slot.copy_from_slice(&before[window.clone()]);
                moved.push(&mut slot[..trained]);
            }
            self.optimizer.step(self.step, &gradient[..trained], &mut parameters[..trained], &mut moved);
            parameters[trained..].copy_from_slice(&gradient[trained..]);
        }
        Ok(())
    }
}

/// The same part of each vector.
fn windows<'a>(vectors: &[&'a [f32]], range: &Range<usize>) -> Vec<&'a [f32]> {
    vectors.iter().map(|values| &values[range.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mean::{MEAN, WEIGHTED_MEAN};
    use crate::multi_krum::MULTI_KRUM;
    use crate::optimizer::SGD;
    use crate::order::{MEDIAN, TRIMMED_MEAN};
    use crate::rule::RuleParameter;
    use crate::rules::RULES;
    use proptest::prelude::*;

    /// Computing window by window produces the same bits as one operation after the other.
    #[track_caller]
    fn check(change: Change, rule: &Rule, rows: &[&[f32]]) {
        let len = rows[0].len();
        let noise = |seed: usize| (0..len).map(move |i| ((i * 31 + seed * 17) % 23) as f32 * 0.25 - 2.0);
        let parameters: Vec<f32> = noise(1).collect();
        let slots: Vec<Vec<f32>> =
            (0..change.optimizer.kind().slots).map(|slot| noise(2 + slot).map(f32::abs).collect()).collect();

        let mut expected = parameters.clone();
        let mut expected_slots = slots.clone();
        let mut gradient = vec![0.0; len];
        rule.apply(rows, &mut gradient).expect("valid rows");
        let trained = change.trained;
        change.clip_norm.map(|norm_max| clip_by_norm(&mut gradient[..trained], norm_max));
        change.clip_value.into_iter().for_each(|value_max| clip_by_value(&mut gradient[..trained], value_max));
        let mut moved: Vec<&mut [f32]> = expected_slots.iter_mut().map(|slot| &mut slot[..trained]).collect();
        change.optimizer.step(change.step, &gradient[..trained], &mut expected[..trained], &mut moved);
        expected[trained..].copy_from_slice(&gradient[trained..]);

        let mut after = vec![0.0; len];
        let mut after_slots = vec![vec![0.0; len]; slots.len()];
        let slots: Vec<&[f32]> = slots.iter().map(Vec::as_slice).collect();
        for threads in [1, 2, 3] {
            after.fill(f32::NAN);
            after_slots.iter_mut().for_each(|slot| slot.fill(f32::NAN));
            let slots_after = after_slots.iter_mut().map(Vec::as_mut_slice).collect();
            let written = After { parameters: &mut after, slots: slots_after };
            let before = Before { parameters: &parameters, slots: &slots };
            change.apply(threads, rule, rows, before, written).expect("valid rows");
            assert_eq!((&after, &after_slots), (&expected, &expected_slots), "{threads} threads");
        }
    }

    /// Long enough for several threads.
    #[test]
    fn threads_change_no_bit() {
        let optimizer = "momentum(weight_decay=0.1)".parse().expect("an optimizer");
        let step = Step { number: 1, learning_rate: 0.5 };
        let rows: Vec<Vec<f32>> =
            (0..3).map(|row| (0..300_000).map(|i| ((i + row * 7) % 13) as f32 - 6.0).collect()).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        for (trained, clip_norm) in [(300_000, None), (140_000, Some(2.0)), (10, None)] {
            let change = Change { trained, clip_norm, clip_value: Some(3.0), optimizer, step };
            check(change, &Rule::new(&MEAN, 0), &rows);
            check(change, &Rule::new(&TRIMMED_MEAN, 1), &rows);
            check(change, &Rule::new(&MULTI_KRUM, 0), &rows);
        }
        let mut damaged = rows[1].to_vec();
        damaged[299_999] = f32::NAN;
        let mut out = vec![0.0; 300_000];
        let refused = Rule::new(&MEAN, 0).apply_on(3, &[rows[0], &damaged], &mut out);
        assert_eq!(refused, Err(Error::NonFinite { row: 1 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn windows_change_no_bit(
            trained in 0usize..=2 * WINDOW + 5,
            clip_norm in prop::option::of(0.1f32..10.0),
            clip_value in prop::option::of(0.01f32..1.0),
            faults in 0u32..2,
            adam: bool,
        ) {
            let rows: Vec<Vec<f32>> =
                (0..5).map(|row| (0..2 * WINDOW + 5).map(|i| ((i + row * 7) % 13) as f32 - 6.0).collect()).collect();
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let optimizer = if adam { "adam(weight_decay=0.1)" } else { "nesterov(weight_decay=0.1)" };
            let optimizer = optimizer.parse().expect("an optimizer");
            let change = Change { trained, clip_norm, clip_value, optimizer, step: Step { number: 3, learning_rate: 0.1 } };
            for kind in RULES {
                let rule = Rule::new(kind, faults);
                let rule = if kind.takes_weights { rule.weighted(vec![1.0, 2.0, 3.0, 0.5, 0.25]) } else { rule };
                check(change, &rule, &rows);
                let set = |rule: Rule, parameter: &RuleParameter| rule.with(parameter.name, "2").expect("it fits");
                check(change, &kind.parameters.iter().fold(rule, set), &rows);
            }
        }
    }

    /// The sum of finite rows may be infinite, and NaN once it is clipped by its norm.
    #[test]
    fn an_aggregate_that_is_not_finite_is_never_clipped_into_the_state() {
        let change = Change {
            trained: 2,
            clip_norm: Some(1.0),
            clip_value: None,
            optimizer: Optimizer::new(&SGD),
            step: Step { number: 1, learning_rate: 1.0 },
        };
        let mut parameters = [0.0; 2];
        let row = [3e38f32, 1.0];
        let before = Before { parameters: &[0.0; 2], slots: &[] };
        let after = After { parameters: &mut parameters, slots: vec![] };
        assert_eq!(
            change.apply(1, &Rule::new(&MEAN, 0), &[&row, &row], before, after),
            Err(Error::NonFinite { row: 0 })
        );
    }

    #[test]
    fn errors_of_the_rule_are_returned() {
        let change = Change {
            trained: 2,
            clip_norm: None,
            clip_value: None,
            optimizer: Optimizer::new(&SGD),
            step: Step { number: 1, learning_rate: 1.0 },
        };
        let mut out = [0.0; 2];
        let good = [1.0f32, 2.0];
        let mut apply = |rule: Rule, rows: &[&[f32]]| {
            let before = Before { parameters: &[0.0; 2], slots: &[] };
            change.apply(1, &rule, rows, before, After { parameters: &mut out, slots: vec![] })
        };
        assert_eq!(apply(Rule::new(&MEAN, 0), &[]), Err(Error::TooFew { needed: 1, present: 0 }));
        assert_eq!(apply(Rule::new(&MEAN, 0), &[&good, &[1.0]]), Err(Error::Length { row: 1, expected: 2, actual: 1 }));
        assert_eq!(apply(Rule::new(&MEAN, 0), &[&good, &[0.0, f32::NAN]]), Err(Error::NonFinite { row: 1 }));
        assert_eq!(apply(Rule::new(&MEDIAN, 1), &[&good, &good]), Err(Error::TooFew { needed: 3, present: 2 }));
        assert_eq!(apply(Rule::new(&TRIMMED_MEAN, 1), &[&good]), Err(Error::TooFew { needed: 3, present: 1 }));
        assert_eq!(apply(Rule::new(&WEIGHTED_MEAN, 0).weighted(vec![1.0]), &[&good, &good]), Err(Error::Weights));
    }
}
