//! Multi-Krum: the mean of the contributions closest to their neighbours (Blanchard et al., NeurIPS 2017).
//!
//! The score of a row is the sum of the squared Euclidean distances to its `neighbours` nearest rows. The `selected`
//! rows with the lowest scores are averaged. Both have the paper's defaults, n − f − 2 and n − f. Of rows with equal
//! scores the first ranks lower.
//!
//! An honest row has n − f − 1 honest others. With more neighbours its score would include Byzantine rows, and with
//! more than n − f selected rows a Byzantine one would be averaged, so both parameters require enough rows. All values
//! of a row count, running statistics included; the paper's bound is for gradients alone.
//!
//! Distances are summed in `f64`, in lanes by coordinate, so neither windows nor threads change a bit.

use crate::error::{Error, check_rows};
use crate::mean::MEAN;
use crate::norm::all_finite;
use crate::parallel::in_parallel;
use crate::rule::{Aggregate, Rule, RuleKind, RuleParameter};

/// [`multi_krum`]: to tolerate `f` Byzantine peers, it needs at least `2f + 3` contributions.
pub static MULTI_KRUM: RuleKind = RuleKind {
    name: "multi-krum",
    function: "aggregate-multi-krum",
    takes_weights: false,
    parameters: &[
        RuleParameter { name: "neighbours", default: |rows, faults| rows - faults - 2 },
        RuleParameter { name: "selected", default: |rows, faults| rows - faults },
    ],
    rows_min,
    aggregate: Aggregate::Vectors(multi_krum),
};

/// Indices of the parameters in [`MULTI_KRUM`].
const NEIGHBOURS: usize = 0;
const SELECTED: usize = 1;

/// Independent partial sums of one distance, so that the loop vectorises with a fixed order.
const LANES: usize = 4;
/// Values of every row that are processed together: those of a dozen rows fit the second-level cache.
const WINDOW: usize = 1 << 12;
/// Fewest differences per thread: for fewer, a thread costs more than it saves.
const DIFFERENCES_MIN: usize = 1 << 18;
/// Pairs of a window that are compared before the thread yields.
const PAIRS_MAX: usize = DIFFERENCES_MIN / WINDOW;

/// n ≥ 2f + 3, as the paper requires; more if a set parameter needs more honest rows.
fn rows_min(rule: &Rule) -> usize {
    let faults = rule.faults() as usize;
    let neighbours = rule.set_parameter(NEIGHBOURS).map_or(0, |neighbours| neighbours.saturating_add(faults + 1));
    let selected = rule.set_parameter(SELECTED).map_or(0, |selected| selected.saturating_add(faults));
    faults.saturating_mul(2).saturating_add(3).max(neighbours).max(selected)
}

/// Multi-Krum on so many threads, with the parameters of `rule`, which is of the kind [`MULTI_KRUM`].
///
/// Computes (n − 1) · n / 2 differences per coordinate.
///
/// # Errors
/// Fewer rows than `2 * faults + 3` or than the parameters need, rows of different lengths, or a value that is not
/// finite.
pub fn multi_krum(rule: &Rule, threads: usize, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
    check_rows(rows, rows_min(rule), out)?;
    let mut distances = Distances::new(rows.len());
    distances.add_on(threads, rows)?;
    // A row that is not finite has no finite distance to any other, so the distances reveal it without another pass.
    if distances.are_not_finite()
        && let Some(row) = rows.iter().position(|row| !all_finite(row))
    {
        return Err(Error::NonFinite { row });
    }
    let selected: Vec<&[f32]> = distances.selected(rule).into_iter().map(|row| rows[row]).collect();
    Rule::new(&MEAN, 0).apply_on(threads, &selected, out)
}

/// Squared distances between all rows, summed as their values arrive.
#[derive(Debug)]
pub struct Distances {
    rows: usize,
    /// Distances of the pairs (0, 1), (0, 2), … (0, n − 1), (1, 2), and so on. Each is the sum of its lanes.
    pairs: Vec<[f64; LANES]>,
    /// The lane of the next value.
    lane: usize,
}

impl Distances {
    /// Distances between `rows` rows, before any value has arrived.
    pub fn new(rows: usize) -> Distances {
        Distances { rows, pairs: vec![[0.0; LANES]; rows * rows.saturating_sub(1) / 2], lane: 0 }
    }

    /// Adds the next values of all rows, any number of them. How the values are divided over calls changes no bit.
    ///
    /// # Errors
    /// A value that is not finite.
    pub fn add(&mut self, rows: &[&[f32]]) -> Result<(), Error> {
        match rows.iter().position(|row| !all_finite(row)) {
            Some(row) => Err(Error::NonFinite { row }),
            None => self.add_on(1, rows),
        }
    }

    /// As [`Distances::add`] without the check of the values, on so many threads; each computes the distances of some
    /// pairs.
    fn add_on(&mut self, threads: usize, rows: &[&[f32]]) -> Result<(), Error> {
        assert_eq!(rows.len(), self.rows, "rows that are compared");
        let len = rows.first().map_or(0, |row| row.len());
        let lane = self.lane;
        self.lane = (lane + len) % LANES;
        let part = self.pairs.len().div_ceil(threads.max(1)).max(DIFFERENCES_MIN.div_ceil(len.max(1)));
        let parts = self.pairs.chunks_mut(part).enumerate().map(|(index, sums)| {
            move || {
                let mut start = 0;
                while start < len {
                    // If the values before ended within the lanes, the first window fills the rest of them.
                    let first = if start == 0 { lane } else { 0 };
                    let width = if first > 0 { LANES - first } else { WINDOW };
                    let window = start..len.min(start + width);
                    for (number, (sum, (a, b))) in sums.iter_mut().zip(pairs(rows.len(), index * part)).enumerate() {
                        if number % PAIRS_MAX == 0 {
                            std::thread::yield_now();
                        }
                        add_squares(sum, first, &rows[a][window.clone()], &rows[b][window.clone()]);
                    }
                    start = window.end;
                }
                Ok(())
            }
        });
        in_parallel(parts)
    }

    fn are_not_finite(&self) -> bool {
        self.pairs.iter().flatten().any(|sum| !sum.is_finite())
    }

    /// The rows that `rule` selects, in ascending order. It needs at least [`Rule::rows_min`] rows.
    pub fn selected(&self, rule: &Rule) -> Vec<usize> {
        let neighbours = rule.parameter(NEIGHBOURS, self.rows);
        let count = rule.parameter(SELECTED, self.rows);
        let scores: Vec<f64> = (0..self.rows).map(|row| self.score(row, neighbours)).collect();
        let mut rows: Vec<usize> = (0..self.rows).collect();
        // A stable sort: of equal scores the first row is first.
        rows.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        rows.truncate(count);
        rows.sort_unstable();
        rows
    }

    /// Sum of the distances to the nearest rows, nearest first.
    fn score(&self, row: usize, neighbours: usize) -> f64 {
        let others = (0..self.rows).filter(|other| *other != row);
        let mut distances: Vec<f64> = others.map(|other| self.between(row.min(other), row.max(other))).collect();
        distances.sort_by(f64::total_cmp);
        distances[..neighbours].iter().fold(0.0, |sum, distance| sum + distance)
    }

    /// The squared distance between rows `a < b`.
    fn between(&self, a: usize, b: usize) -> f64 {
        let before = a * (2 * self.rows - a - 1) / 2;
        let [first, second, third, fourth] = self.pairs[before + b - a - 1];
        (first + second) + (third + fourth)
    }
}

/// All pairs `a < b` of so many rows in order, starting at pair number `start`.
fn pairs(rows: usize, start: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut a = 0;
    let mut b = start + 1;
    while a < rows && b >= rows {
        a += 1;
        b = b - rows + a + 1;
    }
    std::iter::successors(Some((a, b)), move |(a, b)| Some(if b + 1 < rows { (*a, b + 1) } else { (a + 1, a + 2) }))
}

/// Adds the squares of the differences to the lanes, starting at lane `first`.
fn add_squares(lanes: &mut [f64; LANES], first: usize, a: &[f32], b: &[f32]) {
    let square = |a: f32, b: f32| {
        let difference = f64::from(a) - f64::from(b);
        difference * difference
    };
    if first > 0 {
        for (lane, (a, b)) in lanes[first..].iter_mut().zip(a.iter().zip(b)) {
            *lane += square(*a, *b);
        }
        return;
    }
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += square(*a, *b);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += square(*a, *b);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(faults: u32, parameters: &[(&str, usize)]) -> Rule {
        let with = |rule: Rule, (name, value): &(&str, usize)| rule.with(name, &value.to_string()).expect("it fits");
        parameters.iter().fold(Rule::new(&MULTI_KRUM, faults), with)
    }

    /// The paper's formula, one distance at a time.
    fn reference(rows: &[&[f32]], neighbours: usize, selected: usize) -> Vec<usize> {
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let score = |row: usize| {
            let others = (0..rows.len()).filter(|other| *other != row);
            let mut distances: Vec<f64> = others.map(|other| distance(rows[row], rows[other])).collect();
            distances.sort_by(f64::total_cmp);
            distances[..neighbours].iter().sum::<f64>()
        };
        let mut order: Vec<(f64, usize)> = (0..rows.len()).map(|row| (score(row), row)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut chosen: Vec<usize> = order[..selected].iter().map(|(_, row)| *row).collect();
        chosen.sort_unstable();
        chosen
    }

    proptest! {
        #[test]
        fn the_rows_that_the_paper_selects_are_averaged(
            // Whole numbers have exact squares, so the order of a sum never decides between two scores.
            values in (5usize..12).prop_flat_map(|rows| prop::collection::vec(prop::collection::vec(-50i8..50, 7), rows)),
            faults in 0u32..2,
        ) {
            let values: Vec<Vec<f32>> = values.iter().map(|row| row.iter().map(|value| f32::from(*value)).collect()).collect();
            let rows: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let n = rows.len();
            let f = faults as usize;
            for (parameters, neighbours, selected) in [
                (vec![], n - f - 2, n - f),
                (vec![("selected", 1)], n - f - 2, 1),
                (vec![("neighbours", n - f - 1), ("selected", n - f)], n - f - 1, n - f),
            ] {
                let mut actual = [0.0; 7];
                let mut expected = [0.0; 7];
                rule(faults, &parameters).apply(&rows, &mut actual).expect("enough rows");
                let chosen: Vec<&[f32]> = reference(&rows, neighbours, selected).into_iter().map(|row| rows[row]).collect();
                crate::mean::mean(&chosen, &mut expected).expect("rows");
                prop_assert_eq!(actual, expected);
            }
        }

        #[test]
        fn windows_and_threads_change_no_bit(ends in prop::collection::vec(0usize..120_000, 0..6), threads in 1usize..9) {
            const LEN: usize = 120_000;
            let noise = |row: usize| (0..LEN).map(move |i| ((i * 31 + row * 17) % 1009) as f32 * 0.37 - row as f32);
            let values: Vec<Vec<f32>> = (0..6).map(|row| noise(row).collect()).collect();
            let rows: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let mut whole = Distances::new(6);
            let mut parts = Distances::new(6);
            let mut many = Distances::new(6);
            whole.add(&rows).expect("finite");
            many.add_on(threads, &rows).expect("finite");
            let mut ends = [&ends[..], &[LEN]].concat();
            ends.sort_unstable();
            let mut start = 0;
            for end in ends {
                parts.add(&rows.iter().map(|row| &row[start..end]).collect::<Vec<_>>()).expect("finite");
                start = end;
            }
            prop_assert_eq!(&whole.pairs, &parts.pairs);
            prop_assert_eq!(&whole.pairs, &many.pairs);
        }

        #[test]
        fn liars_never_move_it_out_of_the_honest_range(
            honest in prop::collection::vec(prop::collection::vec(-1.0f32..1.0, 9), 7),
            lies in prop::collection::vec(prop::collection::vec(prop_oneof![-1e30f32..-1e3, 1e3f32..1e30], 9), 2),
            places in prop::collection::btree_set(0usize..9, 2),
        ) {
            let mut honest = honest.iter();
            let mut lies = lies.iter();
            let rows = (0..9).map(|row| if places.contains(&row) { lies.next() } else { honest.next() });
            let rows: Vec<&[f32]> = rows.map(|row| row.expect("nine rows").as_slice()).collect();
            let mut out = [0.0; 9];
            rule(2, &[]).apply(&rows, &mut out).expect("enough rows");
            prop_assert!(out.iter().all(|value| value.abs() <= 1.0), "{out:?}");
        }
    }

    #[test]
    fn pairs_start_at_any_number() {
        for rows in 2..9 {
            let all: Vec<_> = (0..rows).flat_map(|a| (a + 1..rows).map(move |b| (a, b))).collect();
            for start in 0..all.len() {
                let rest: Vec<_> = pairs(rows, start).take(all.len() - start).collect();
                assert_eq!(rest, all[start..]);
            }
        }
    }

    /// If `selected` were all rows of a usual round, a round in which one is late would average the liar's row.
    #[test]
    fn parameters_never_leave_room_for_a_liar() {
        let mut out = [0.0];
        let liar: &[f32] = &[1e30];
        let mut rows = vec![&[0.0][..], &[1.0], &[2.0], &[3.0], liar];
        let late = rule(1, &[("selected", 5)]).apply(&rows, &mut out);
        assert_eq!(late, Err(Error::TooFew { needed: 6, present: 5 }));
        rows.push(&[4.0]);
        rule(1, &[("selected", 5)]).apply(&rows, &mut out).expect("enough rows");
        assert_eq!(out, [2.0]);
        // Two liars on one line: with all others as neighbours, the nearer one would have the lowest score of all.
        let mut rows = vec![&[0.0][..]; 7];
        rows.extend([&[7000.0][..], &[1000.0]]);
        let all = rule(2, &[("neighbours", 8)]).apply(&rows, &mut out);
        assert_eq!(all, Err(Error::TooFew { needed: 11, present: 9 }));
        rule(2, &[("neighbours", 6)]).apply(&rows, &mut out).expect("enough rows");
        assert_eq!(out, [0.0]);
    }

    #[test]
    fn of_equal_scores_the_first_counts() {
        let rows: [&[f32]; 5] = [&[5.0], &[1.0], &[2.0], &[2.0], &[3.0]];
        let mut out = [0.0];
        rule(0, &[("neighbours", 1), ("selected", 1)]).apply(&rows, &mut out).expect("enough rows");
        assert_eq!(out, [2.0]);
        let mut distances = Distances::new(5);
        distances.add(&rows).expect("finite");
        assert_eq!(distances.selected(&rule(0, &[("neighbours", 1), ("selected", 3)])), [1, 2, 3]);
    }

    #[test]
    fn invalid_rows_are_refused() {
        let row: &[f32] = &[1.0, 2.0, 3.0, 4.0, 5.0];
        let mut out = [0.0; 5];
        let mut few = |rule: Rule| rule.apply(&[row; 4], &mut out).expect_err("it is refused");
        assert_eq!(few(rule(1, &[])), Error::TooFew { needed: 5, present: 4 });
        assert_eq!(few(rule(0, &[("neighbours", 4)])), Error::TooFew { needed: 5, present: 4 });
        assert_eq!(few(rule(0, &[("selected", 6)])), Error::TooFew { needed: 6, present: 4 });
        assert_eq!(few(rule(u32::MAX, &[])), Error::TooFew { needed: u32::MAX as usize * 2 + 3, present: 4 });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let damaged: &[f32] = &[1.0, 2.0, 3.0, 4.0, bad];
            let rows = [row, row, damaged, row, damaged];
            assert_eq!(rule(0, &[]).apply(&rows, &mut out), Err(Error::NonFinite { row: 2 }));
            assert_eq!(Distances::new(5).add(&rows), Err(Error::NonFinite { row: 2 }));
        }
        // Squares of the largest values are finite in 64 bits.
        let high: &[f32] = &[f32::MAX];
        let low: &[f32] = &[f32::MIN];
        assert_eq!(rule(0, &[("selected", 1)]).apply(&[high, low, low], &mut out[..1]), Ok(()));
        assert_eq!(out[0], f32::MIN);
    }
}
