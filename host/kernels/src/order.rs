//! Coordinate-wise order statistics: median and trimmed mean (Yin et al., ICML 2018).
//!
//! A block of coordinates is loaded row by row and sorted across the rows by a sorting network. Its comparators work on
//! whole blocks: branch-free minima and maxima, which every vector unit has.

use crate::error::{Error, check_rows};
use crate::rule::{Aggregate, RuleKind};

/// [`median`]: a majority of the contributions must be honest.
pub static MEDIAN: RuleKind = RuleKind {
    name: "median",
    function: "aggregate-median",
    takes_weights: false,
    parameters: &[],
    rows_min: |rule| majority_of_honest(rule.faults() as usize),
    aggregate: Aggregate::Coordinates(|_, rows, out| median(rows, out)),
};

/// [`trimmed_mean`]: a majority of the contributions must be honest.
pub static TRIMMED_MEAN: RuleKind = RuleKind {
    name: "trimmed-mean",
    function: "aggregate-trimmed-mean",
    takes_weights: false,
    parameters: &[],
    rows_min: |rule| majority_of_honest(rule.faults() as usize),
    aggregate: Aggregate::Coordinates(|rule, rows, out| trimmed_mean(rows, rule.faults() as usize, out)),
};

fn majority_of_honest(faults: usize) -> usize {
    faults.saturating_mul(2).saturating_add(1)
}

/// Coordinates sorted together; 64 rows of them still fit the first-level cache of common processors.
const BLOCK: usize = 64;
/// Coordinates that one comparator holds in registers.
const LANES: usize = 8;

/// Coordinate-wise median: `out[k]` is the middle value of column `k`, or the mean of the two middle ones.
///
/// Tolerates `f` arbitrary rows out of `n` if `2f < n`.
///
/// # Errors
/// No row, rows of different lengths, or a value that is not finite.
pub fn median(rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
    check_rows(rows, 1, out)?;
    let (low, high) = ((rows.len() - 1) / 2, rows.len() / 2);
    sorted_blocks(rows, low..high + 1, out, |sorted, out| {
        for (lane, value) in out.iter_mut().enumerate() {
            // Halving is exact, so two large values of one sign do not overflow as their sum would.
            *value = if low == high { sorted[low][lane] } else { 0.5 * sorted[low][lane] + 0.5 * sorted[high][lane] };
        }
    })
}

/// Coordinate-wise trimmed mean: drops the `faults` smallest and the `faults` largest values of each column and
/// averages the rest, summed from the smallest up.
///
/// # Errors
/// Fewer than `2 * faults + 1` rows, rows of different lengths, or a value that is not finite.
pub fn trimmed_mean(rows: &[&[f32]], faults: usize, out: &mut [f32]) -> Result<(), Error> {
    check_rows(rows, majority_of_honest(faults), out)?;
    let kept = faults..rows.len() - faults;
    let count = kept.len() as f32;
    sorted_blocks(rows, kept.clone(), out, |sorted, out| {
        let mut sum = sorted[kept.start];
        for row in &sorted[kept.start + 1..kept.end] {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += value;
            }
        }
        for (value, sum) in out.iter_mut().zip(&sum) {
            *value = sum / count;
        }
    })
}

type Block = [f32; BLOCK];

/// Sorts every column and lets `finish` write a block of the output from the sorted ranks `wanted`.
fn sorted_blocks(
    rows: &[&[f32]],
    wanted: std::ops::Range<usize>,
    out: &mut [f32],
    finish: impl Fn(&[Block], &mut [f32]),
) -> Result<(), Error> {
    let network = Network::new(rows.len(), wanted);
    let mut sorted: Vec<Block> = vec![[0.0; BLOCK]; rows.len()];
    for (index, out) in out.chunks_mut(BLOCK).enumerate() {
        for (row, (block, values)) in sorted.iter_mut().zip(rows).enumerate() {
            let values = &values[index * BLOCK..][..out.len()];
            block[..values.len()].copy_from_slice(values);
            if !block.iter().fold(true, |finite, value| finite & value.is_finite()) {
                return Err(Error::NonFinite { row });
            }
        }
        network.sort(&mut sorted);
        finish(&sorted, out);
    }
    Ok(())
}

/// Batcher's odd-even merge sort for any number of wires (Knuth, volume 3, 5.3.4), without the comparators that no
/// wanted rank depends on.
struct Network {
    comparators: Vec<(usize, usize)>,
}

impl Network {
    fn new(wires: usize, wanted: std::ops::Range<usize>) -> Network {
        let mut comparators = Vec::new();
        // The network of the next power of two. Comparators of its upper wires, which would hold +inf, do nothing.
        let size = wires.next_power_of_two();
        let mut run = 1;
        while run < size {
            let mut step = run;
            while step > 0 {
                for start in (step % run..size - step).step_by(2 * step) {
                    for low in start..(start + step).min(size - step) {
                        if low / (2 * run) == (low + step) / (2 * run) && low + step < wires {
                            comparators.push((low, low + step));
                        }
                    }
                }
                step /= 2;
            }
            run *= 2;
        }
        let mut needed: Vec<bool> = (0..wires).map(|wire| wanted.contains(&wire)).collect();
        let mut kept: Vec<_> = comparators
            .into_iter()
            .rev()
            .filter(|&(low, high)| {
                let keep = needed[low] || needed[high];
                if keep {
                    (needed[low], needed[high]) = (true, true);
                }
                keep
            })
            .collect();
        kept.reverse();
        Network { comparators: kept }
    }

    fn sort(&self, wires: &mut [Block]) {
        for &(low, high) in &self.comparators {
            let (head, tail) = wires.split_at_mut(high);
            for (a, b) in head[low].as_chunks_mut::<LANES>().0.iter_mut().zip(tail[0].as_chunks_mut::<LANES>().0) {
                (*a, *b) = compare(*a, *b);
            }
        }
    }
}

/// The smaller and the larger value of each lane.
///
/// It takes and returns whole arrays instead of storing each lane, so that it compiles to a minimum and a maximum
/// without a branch. `f32::min` and `f32::max` do not fit: they do not specify which of two zeros they return.
#[inline(always)]
fn compare(a: [f32; LANES], b: [f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let smaller = std::array::from_fn(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] });
    let larger = std::array::from_fn(|lane| if b[lane] > a[lane] { b[lane] } else { a[lane] });
    (smaller, larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, in `f64`, column by column.
    fn reference(rows: &[&[f32]], wanted: std::ops::Range<usize>) -> Vec<f64> {
        let column = |k: usize| {
            let mut column: Vec<f64> = rows.iter().map(|row| f64::from(row[k])).collect();
            column.sort_by(f64::total_cmp);
            column[wanted.clone()].iter().sum::<f64>() / wanted.len() as f64
        };
        (0..rows[0].len()).map(column).collect()
    }

    fn close(actual: &[f32], expected: &[f64]) -> bool {
        actual.iter().zip(expected).all(|(a, e)| (f64::from(*a) - e).abs() <= 1e-4 * e.abs().max(1.0))
    }

    fn matrix(rows: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
        rows.prop_flat_map(|n| prop::collection::vec(prop::collection::vec(-1e2f32..1e2, 70), n))
    }

    proptest! {
        #[test]
        fn both_rules_follow_their_definition(values in matrix(1..34), faults in 0usize..17) {
            let rows: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let mut out = vec![0.0; 70];
            median(&rows, &mut out).expect("valid rows");
            prop_assert!(close(&out, &reference(&rows, (rows.len() - 1) / 2..rows.len() / 2 + 1)));
            match trimmed_mean(&rows, faults, &mut out) {
                Ok(()) => prop_assert!(close(&out, &reference(&rows, faults..rows.len() - faults))),
                Err(error) => prop_assert_eq!(error, Error::TooFew { needed: 2 * faults + 1, present: rows.len() }),
            }
        }

        /// With at most `faults` liars every coordinate stays within the range of the honest rows.
        #[test]
        fn liars_cannot_leave_the_honest_range(
            honest in matrix(3..9), faults in 1usize..3, lie in prop::num::f32::NORMAL,
        ) {
            prop_assume!(honest.len() > faults);
            let liar = vec![lie; 70];
            let rows: Vec<&[f32]> = honest.iter().map(Vec::as_slice).chain((0..faults).map(|_| &liar[..])).collect();
            let mut middle = vec![0.0; 70];
            let mut trimmed = vec![0.0; 70];
            median(&rows, &mut middle).expect("valid rows");
            trimmed_mean(&rows, faults, &mut trimmed).expect("enough rows");
            for k in 0..70 {
                let column = || honest.iter().map(|row| row[k]);
                let low = column().fold(f32::MAX, f32::min);
                let high = column().fold(f32::MIN, f32::max);
                let slack = 1e-4 * (high - low).max(1.0);
                prop_assert!(middle[k] >= low && middle[k] <= high);
                prop_assert!(trimmed[k] >= low - slack && trimmed[k] <= high + slack);
            }
        }

        #[test]
        fn the_order_of_rows_changes_no_bit(
            (values, shuffled) in matrix(1..12).prop_flat_map(|m| (Just(m.clone()), Just(m).prop_shuffle())),
        ) {
            let run = |values: &[Vec<f32>]| {
                let rows: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                let mut middle = vec![0.0; 70];
                let mut trimmed = vec![0.0; 70];
                median(&rows, &mut middle).expect("valid rows");
                trimmed_mean(&rows, (rows.len() - 1) / 2, &mut trimmed).expect("enough rows");
                (middle, trimmed)
            };
            prop_assert_eq!(run(&values), run(&shuffled));
        }
    }

    #[test]
    fn every_network_sorts_every_zero_one_input() {
        for wires in 1..=10usize {
            let network = Network::new(wires, 0..wires);
            for pattern in 0u32..1 << wires {
                let mut blocks: Vec<Block> = (0..wires).map(|w| [(pattern >> w & 1) as f32; BLOCK]).collect();
                network.sort(&mut blocks);
                assert!(blocks.is_sorted_by(|a, b| a[0] <= b[0]), "{wires} wires, pattern {pattern:b}");
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        let good = [1.0f32; 70];
        for at in [0, 69] {
            let mut bad = good;
            bad[at] = f32::NAN;
            let mut out = [0.0; 70];
            assert_eq!(median(&[&good, &bad, &good], &mut out), Err(Error::NonFinite { row: 1 }));
            assert_eq!(trimmed_mean(&[&good, &good, &bad], 1, &mut out), Err(Error::NonFinite { row: 2 }));
        }
    }

    #[test]
    fn the_median_of_two_huge_values_is_finite() {
        let mut out = [0.0];
        median(&[&[f32::MAX], &[f32::MAX]], &mut out).expect("finite rows");
        assert_eq!(out, [f32::MAX]);
    }
}
