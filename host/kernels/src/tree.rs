//! The one reduction tree: leaves by index, neighbours joined level by level.
//!
//! A leaf without a neighbour moves up unchanged, so the sum of `n` leaves splits at the largest power of two below
//! `n`. The means compute the whole tree at once; [`Tree`] builds it while leaves arrive, in any order, and joins two
//! siblings as soon as both have arrived. Both produce the same bits.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::norm::all_finite;

/// Values that one pass processes, so that partial sums stay in the first-level cache.
const CHUNK: usize = 2048;

/// `out = Σ weight(i) · rows[i]` in tree order; without weights the rows are taken as they are.
///
/// The caller has checked that `rows` is not empty and that all lengths agree.
///
/// # Errors
/// A row that holds a NaN or an infinity.
pub(crate) fn sum_rows(rows: &[&[f32]], weights: Option<&[f32]>, out: &mut [f32]) -> Result<(), Error> {
    let depth = rows.len().next_power_of_two().trailing_zeros() as usize;
    let mut scratch = vec![0.0; depth * CHUNK.min(out.len())];
    for (index, chunk) in out.chunks_mut(CHUNK).enumerate() {
        let leaves = Leaves { rows, weights, start: index * CHUNK };
        leaves.sum(0, rows.len(), chunk, &mut scratch);
        // A sum never turns a value that is not finite into a finite one, so the rows are checked only if the sum is
        // not finite.
        if !all_finite(chunk)
            && let Some(row) = (0..rows.len()).find(|row| !all_finite(leaves.row(*row, chunk.len())))
        {
            return Err(Error::NonFinite { row });
        }
    }
    Ok(())
}

/// The rows seen through a window of at most [`CHUNK`] values.
struct Leaves<'a> {
    rows: &'a [&'a [f32]],
    weights: Option<&'a [f32]>,
    start: usize,
}

impl Leaves<'_> {
    fn row(&self, row: usize, len: usize) -> &[f32] {
        &self.rows[row][self.start..][..len]
    }

    /// Writes the sum of `count` leaves from the first on to `out`. Leaves without weights are added without a copy.
    fn sum(&self, first: usize, count: usize, out: &mut [f32], scratch: &mut [f32]) {
        let len = out.len();
        let left = count.next_power_of_two() / 2;
        match (count, self.weights) {
            (1, None) => out.copy_from_slice(self.row(first, len)),
            (1, Some(weights)) => scale_into(out, self.row(first, len), weights[first]),
            (2, None) => add_into(out, self.row(first, len), self.row(first + 1, len)),
            _ => {
                self.sum(first, left, out, scratch);
                if count - left == 1 && self.weights.is_none() {
                    return add(out, self.row(first + left, len));
                }
                let (right, rest) = scratch.split_at_mut(len);
                self.sum(first + left, count - left, right, rest);
                add(out, right);
            }
        }
    }
}

/// `into[i] = left[i] + right[i]`
fn add_into(into: &mut [f32], left: &[f32], right: &[f32]) {
    for ((sum, left), right) in into.iter_mut().zip(left).zip(right) {
        *sum = left + right;
    }
}

/// `into[i] += values[i]`
pub fn add(into: &mut [f32], values: &[f32]) {
    for (sum, value) in into.iter_mut().zip(values) {
        *sum += value;
    }
}

/// `into[i] = values[i] * factor`
pub fn scale_into(into: &mut [f32], values: &[f32], factor: f32) {
    for (scaled, value) in into.iter_mut().zip(values) {
        *scaled = value * factor;
    }
}

/// A position in the tree: `level` 0 holds the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    level: u32,
    index: u32,
}

impl Position {
    /// The position of leaf `index`.
    pub fn leaf(index: u32) -> Position {
        Position { level: 0, index }
    }

    /// Position `index` of `level`, as a saved tree names it.
    pub fn new(level: u32, index: u32) -> Position {
        Position { level, index }
    }

    /// Levels above the leaves.
    pub fn level(self) -> u32 {
        self.level
    }

    /// Positions to the left on the same level.
    pub fn index(self) -> u32 {
        self.index
    }
}

/// The result of placing values in a [`Tree`].
#[derive(Debug, PartialEq)]
pub enum Placed<T> {
    /// They wait for their sibling.
    Waits,
    /// Both siblings have arrived: add `right` to `left` and place the sum at `parent`.
    Join {
        /// Where the sum belongs.
        parent: Position,
        /// Values of the sibling with the lower index.
        left: T,
        /// Values of the sibling with the higher index.
        right: T,
    },
    /// They are the sum of all leaves; [`Tree::take`] returns it.
    Root,
}

/// The reduction tree while its leaves arrive.
///
/// It never adds values itself: [`Tree::place`] returns the pair to join, so that the owner can keep the tree behind a
/// lock and add outside of it. `T` holds the values.
#[derive(Debug)]
pub struct Tree<T = Vec<f32>> {
    seen: Vec<bool>,
    waiting: BTreeMap<Position, T>,
    root: Option<T>,
}

impl<T> Tree<T> {
    /// A tree that waits for `leaves` leaves.
    pub fn new(leaves: u32) -> Tree<T> {
        Tree { seen: vec![false; leaves as usize], waiting: BTreeMap::new(), root: None }
    }

    /// Number of leaves that the tree waits for in total.
    pub fn leaves(&self) -> u32 {
        self.seen.len() as u32
    }

    /// Marks leaf `index` as arrived. Returns `false` if it arrived before or is not in this tree: then drop it.
    pub fn claim(&mut self, index: u32) -> bool {
        match self.seen.get_mut(index as usize) {
            Some(seen) => !std::mem::replace(seen, true),
            None => false,
        }
    }

    /// Places values at their position. [Claim](Tree::claim) a leaf first.
    pub fn place(&mut self, mut at: Position, values: T) -> Placed<T> {
        loop {
            let width = self.leaves().div_ceil(1 << at.level);
            if width == 1 {
                self.root = Some(values);
                return Placed::Root;
            }
            let sibling = Position { index: at.index ^ 1, ..at };
            let parent = Position { level: at.level + 1, index: at.index / 2 };
            if sibling.index >= width {
                at = parent;
                continue;
            }
            let Some(other) = self.waiting.remove(&sibling) else {
                self.waiting.insert(at, values);
                return Placed::Waits;
            };
            let (left, right) = if at.index < sibling.index { (values, other) } else { (other, values) };
            return Placed::Join { parent, left, right };
        }
    }

    /// Whether leaf `index` has arrived.
    pub fn has(&self, index: u32) -> bool {
        self.seen.get(index as usize).is_some_and(|seen| *seen)
    }

    /// The sibling of values at `at`, if it has arrived, and the position of their sum.
    ///
    /// With it, an owner of immutable sums can add first and [place](Tree::place) the sum at the end.
    pub fn sibling(&self, mut at: Position) -> Option<(&T, Position)> {
        while self.leaves().div_ceil(1 << at.level) > 1 {
            let parent = Position { level: at.level + 1, index: at.index / 2 };
            if let Some(values) = self.waiting.get(&Position { index: at.index ^ 1, ..at }) {
                return Some((values, parent));
            }
            if at.index ^ 1 < self.leaves().div_ceil(1 << at.level) {
                return None;
            }
            at = parent;
        }
        None
    }

    /// The sums that wait for their siblings, or the sum of all leaves.
    pub fn parts(&self) -> impl Iterator<Item = (Position, &T)> {
        let top = Position { level: self.leaves().next_power_of_two().trailing_zeros(), index: 0 };
        self.waiting.iter().map(|(at, values)| (*at, values)).chain(self.root.iter().map(move |root| (top, root)))
    }

    /// The sum of all leaves, once all have arrived; it stays in the tree.
    pub fn root(&self) -> Option<&T> {
        self.root.as_ref()
    }

    /// Takes the sum of all leaves out of the tree, once all have arrived.
    pub fn take(&mut self) -> Option<T> {
        self.root.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on_arrival(leaves: &[Vec<f32>], order: &[usize]) -> Vec<f32> {
        let mut tree = Tree::new(leaves.len() as u32);
        for &index in order {
            assert!(tree.claim(index as u32));
            let mut at = Position::leaf(index as u32);
            let mut values = leaves[index].clone();
            while let Placed::Join { parent, mut left, right } = tree.place(at, values) {
                add(&mut left, &right);
                (at, values) = (parent, left);
            }
        }
        tree.take().expect("all leaves arrived")
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_changes_no_bit(
            (leaves, order) in (1usize..40).prop_flat_map(|n| (
                prop::collection::vec(prop::collection::vec(-1e3f32..1e3, 3), n),
                Just((0..n).collect::<Vec<_>>()).prop_shuffle(),
            )),
        ) {
            let rows: Vec<&[f32]> = leaves.iter().map(Vec::as_slice).collect();
            let mut at_once = vec![0.0; 3];
            sum_rows(&rows, None, &mut at_once).expect("finite rows");
            prop_assert_eq!(on_arrival(&leaves, &order), at_once);
        }
    }

    #[test]
    fn a_leaf_counts_once() {
        let mut tree: Tree = Tree::new(2);
        assert!(tree.claim(1));
        assert!(!tree.claim(1), "a second arrival");
        assert!(!tree.claim(2), "a leaf of another tree");
    }

    #[test]
    fn the_sum_spans_chunks() {
        let row: Vec<f32> = (0..3 * CHUNK + 7).map(|i| i as f32).collect();
        let mut out = vec![0.0; row.len()];
        sum_rows(&[&row, &row, &row], Some(&[1.0, 2.0, 4.0]), &mut out).expect("finite rows");
        assert!(out.iter().zip(&row).all(|(sum, x)| *sum == 7.0 * x));
    }
}
