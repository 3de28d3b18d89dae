//! The sum of a round's batches while they arrive: a reduction tree of values that never change.
//!
//! A worker adds outside the tree, then enters its batch and the resulting sums atomically. The server replicates the
//! command at the same moment. So a snapshot, also one for a replica, has each batch either counted or absent, never
//! in between.

use std::sync::Arc;

use skein_kernels::tree::{Placed, Position, Tree};
use skein_redis_command::Command;
use skein_redis_command::command::RestoreSum;

use crate::buffer::Buffer;
use crate::failure::Failure;
use crate::persistence::{Damaged, Digesting, Input, Kind, Output, Rewrite, Value};

/// Most batches of a round; it bounds the memory that one command can make the server allocate.
pub(crate) const BATCHES_MAX: u32 = 1 << 16;

/// Samples and mean loss that `SKEIN.AVERAGE` answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Average {
    pub(crate) samples: u64,
    pub(crate) loss: f64,
}

/// The value of a key of the type `skeintree`.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) round: u64,
    /// Number of values of each batch.
    pub(crate) len: usize,
    /// Set once the average was taken.
    pub(crate) average: Option<Average>,
    tree: Tree<Arc<Buffer>>,
    /// Samples and mean loss of each batch, by its index.
    batches: Vec<(u32, f32)>,
}

/// A batch that is being added to the sum.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) index: u32,
    pub(crate) samples: u32,
    pub(crate) loss: f32,
    /// Sums already added to the batch, from the leaf up.
    pub(crate) added: Vec<Arc<Buffer>>,
}

/// The next step for a batch.
pub(crate) enum Entering {
    /// Add this sum first.
    Add(Arc<Buffer>),
    /// All sums are added; the batch may enter.
    Ready,
}

impl Sum {
    pub(crate) fn new(round: u64, leaves: u32, len: usize) -> Sum {
        Sum { round, len, average: None, tree: Tree::new(leaves), batches: vec![(0, 0.0); leaves as usize] }
    }

    /// Whether a batch of this sum was counted before.
    ///
    /// # Errors
    /// [`Failure::Batch`] or [`Failure::Length`] if the batch does not belong to this sum.
    pub(crate) fn counted(&self, round: u64, index: u32, count: u32, len: usize) -> Result<bool, Failure> {
        if round != self.round || count != self.tree.leaves() || index >= count {
            return Err(Failure::Batch { index, count });
        }
        if len != self.len {
            return Err(Failure::Length { expected: self.len, actual: len });
        }
        Ok(self.tree.has(index))
    }

    /// The next step for a batch, to which some sums may already be added.
    ///
    /// # Errors
    /// [`Failure::Changed`] if an added sum is no longer in the tree, because the key was replaced.
    pub(crate) fn next(&self, batch: &Batch) -> Result<Entering, Failure> {
        let mut at = Position::leaf(batch.index);
        for added in &batch.added {
            match self.tree.sibling(at) {
                Some((sibling, parent)) if Arc::ptr_eq(sibling, added) => at = parent,
                _ => return Err(Failure::Changed { what: "sum" }),
            }
        }
        Ok(self.tree.sibling(at).map_or(Entering::Ready, |(sibling, _)| Entering::Add(sibling.clone())))
    }

    /// Counts a batch that is [ready](Entering::Ready); `sum` is the batch plus all sums added to it.
    pub(crate) fn enter(&mut self, batch: &Batch, sum: Buffer) {
        self.tree.claim(batch.index);
        self.batches[batch.index as usize] = (batch.samples, batch.loss);
        let sum = Arc::new(sum);
        let mut at = Position::leaf(batch.index);
        // The siblings are part of `sum`; the batch holds them until the server's lock is free.
        while let Placed::Join { parent, .. } = self.tree.place(at, sum.clone()) {
            at = parent;
        }
    }

    /// The sum of all batches; `None` until all have arrived, and after the average was taken.
    pub(crate) fn root(&self) -> Option<&Arc<Buffer>> {
        self.tree.root()
    }

    /// Samples and mean loss of all batches.
    pub(crate) fn answer(&self) -> Average {
        let samples: u64 = self.batches.iter().map(|(samples, _)| u64::from(*samples)).sum();
        let loss: f64 = self.batches.iter().map(|(samples, loss)| f64::from(*samples) * f64::from(*loss)).sum();
        Average { samples, loss: loss / samples as f64 }
    }

    /// Records that the average was taken, and removes and returns the sum of all batches.
    pub(crate) fn close(&mut self, average: Average) -> Option<Arc<Buffer>> {
        self.average = Some(average);
        self.tree.take()
    }

    fn leaves(&self) -> u32 {
        self.tree.leaves()
    }

    /// Restores the tree, and checks that each counted batch is in exactly one part and that no two parts are siblings.
    fn restore(&mut self, input: &mut Input, closed: bool) -> Result<(), Damaged> {
        let mut covered = vec![false; self.leaves() as usize];
        for _ in 0..input.number_up_to(u64::from(BATCHES_MAX))? {
            let level = input.number_up_to(u64::from(BATCHES_MAX.trailing_zeros()))? as u32;
            let index = input.number_up_to(u64::from(BATCHES_MAX))? as u32;
            let values = input.values()?;
            let first = (index as usize) << level;
            let last = (first + (1usize << level)).min(covered.len());
            let inside = covered.get_mut(first..last).filter(|leaves| !leaves.is_empty()).ok_or(Damaged)?;
            if values.len() != self.len || inside.iter().any(|covered| *covered) {
                return Err(Damaged);
            }
            inside.fill(true);
            if matches!(self.tree.place(Position::new(level, index), Arc::new(values)), Placed::Join { .. }) {
                return Err(Damaged);
            }
        }
        let whole = |index: u32| self.tree.has(index) == (covered[index as usize] || closed);
        if !(0..self.leaves()).all(whole) || (closed && covered.contains(&true)) {
            return Err(Damaged);
        }
        Ok(())
    }
}

static KIND: Kind = Kind::new(c"skeintree");

impl Value for Sum {
    fn kind() -> &'static Kind {
        &KIND
    }

    fn save(&self, output: &mut Output) {
        output.number(self.round);
        output.number(u64::from(self.leaves()));
        output.number(self.len as u64);
        output.number(u64::from(self.average.is_some()));
        if let Some(average) = self.average {
            output.number(average.samples);
            output.double(average.loss);
        }
        output.number((0..self.leaves()).filter(|index| self.tree.has(*index)).count() as u64);
        for index in (0..self.leaves()).filter(|index| self.tree.has(*index)) {
            let (samples, loss) = self.batches[index as usize];
            output.number(u64::from(index));
            output.number(u64::from(samples));
            output.number(u64::from(loss.to_bits()));
        }
        output.number(self.tree.parts().count() as u64);
        for (at, values) in self.tree.parts() {
            output.number(u64::from(at.level()));
            output.number(u64::from(at.index()));
            output.values(values);
        }
    }

    fn load(input: &mut Input) -> Result<Sum, Damaged> {
        let round = input.number_up_to(i64::MAX as u64)?;
        let leaves = input.number_up_to(u64::from(BATCHES_MAX))? as u32;
        let len = input.number_up_to(isize::MAX as u64)? as usize;
        let closed = input.number_up_to(1)? == 1;
        let mut sum = Sum::new(round, leaves, len);
        if closed {
            sum.average = Some(Average { samples: input.number_up_to(u64::MAX)?, loss: input.double()? });
        }
        for _ in 0..input.number_up_to(u64::from(leaves))? {
            let index = input.number_up_to(u64::from(BATCHES_MAX))? as u32;
            let samples = input.number_up_to(u64::from(u32::MAX))? as u32;
            let loss = f32::from_bits(input.number_up_to(u64::from(u32::MAX))? as u32);
            if !sum.tree.claim(index) {
                return Err(Damaged);
            }
            sum.batches[index as usize] = (samples, loss);
        }
        // A tree without leaves is invalid: no command creates one.
        if leaves == 0 {
            return Err(Damaged);
        }
        sum.restore(input, closed)?;
        Ok(sum)
    }

    fn rewrite(&self, rewrite: &mut Rewrite) {
        rewrite.serialized(<RestoreSum<usize> as Command<usize>>::NAME);
    }

    fn memory(&self) -> usize {
        let parts: usize = self.tree.parts().map(|(_, values)| size_of_val(&***values)).sum();
        size_of::<Sum>() + size_of_val(&*self.batches) + self.leaves() as usize + parts
    }

    fn digest(&self, digest: &mut Digesting) {
        digest.number(self.round);
        digest.number(u64::from(self.leaves()));
        digest.number(self.average.map_or(0, |average| average.loss.to_bits()));
        for (index, (samples, loss)) in self.batches.iter().enumerate() {
            digest.number(u64::from(self.tree.has(index as u32)));
            digest.number(u64::from(*samples));
            digest.number(u64::from(loss.to_bits()));
        }
        for (at, values) in self.tree.parts() {
            digest.number(u64::from(at.level()));
            digest.number(u64::from(at.index()));
            digest.values(values);
        }
    }

    fn copy(&self) -> Sum {
        let mut copy = Sum::new(self.round, self.leaves(), self.len);
        copy.batches.clone_from(&self.batches);
        copy.average = self.average;
        (0..self.leaves()).filter(|index| self.tree.has(*index)).for_each(|index| {
            copy.tree.claim(index);
        });
        self.tree.parts().for_each(|(at, values)| {
            copy.tree.place(at, values.clone());
        });
        copy
    }
}
