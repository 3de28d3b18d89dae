//! A tensor: values that never change, with a version and a shape.

use std::sync::{Arc, OnceLock};

use skein_kernels::norm::l2_norm;
use skein_redis_command::DIMENSIONS_MAX;
use skein_types::Statistics;

use crate::buffer::Buffer;
use crate::failure::Failure;
use crate::persistence::{Damaged, Digesting, Input, Kind, Output, Rewrite, Value};

/// The value of a key of the type `skeintnsr`. Reading it does not need the server's lock.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) version: u64,
    pub(crate) shape: Vec<u32>,
    pub(crate) values: Buffer,
    statistics: OnceLock<Statistics>,
    norm: OnceLock<f64>,
}

impl Tensor {
    /// A tensor of the given shape.
    ///
    /// # Errors
    /// [`Failure::Length`] if the number of values does not match the shape.
    pub(crate) fn new(version: u64, shape: Vec<u32>, values: Buffer) -> Result<Tensor, Failure> {
        let expected = places(&shape).ok_or(Failure::Length { expected: usize::MAX, actual: values.len() })?;
        if expected != values.len() {
            return Err(Failure::Length { expected, actual: values.len() });
        }
        Ok(Tensor { version, shape, values, statistics: OnceLock::new(), norm: OnceLock::new() })
    }

    /// A tensor of `model`'s shape, with another version and other values.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub(crate) fn like(model: &Tensor, version: u64, values: Buffer) -> Result<Tensor, Failure> {
        Tensor::new(version, model.shape.clone(), values)
    }

    /// Length, hash and finiteness, computed once.
    pub(crate) fn statistics(&self) -> Statistics {
        *self.statistics.get_or_init(|| Statistics::of(&self.values))
    }

    /// Euclidean norm, computed once.
    pub(crate) fn norm(&self) -> f64 {
        *self.norm.get_or_init(|| l2_norm(&self.values))
    }

    /// Number of values that [`Tensor::statistics`] has yet to read.
    pub(crate) fn unhashed(&self) -> usize {
        if self.statistics.get().is_some() { 0 } else { self.values.len() }
    }

    /// Number of values that [`Tensor::norm`] has yet to read.
    pub(crate) fn unmeasured(&self) -> usize {
        if self.norm.get().is_some() { 0 } else { self.values.len() }
    }
}

/// Number of values of a shape; `None` if it overflows.
pub(crate) fn places(shape: &[u32]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, dimension| product.checked_mul(*dimension as usize))
}

static KIND: Kind = Kind::new(c"skeintnsr");

impl Value for Arc<Tensor> {
    fn kind() -> &'static Kind {
        &KIND
    }

    fn save(&self, output: &mut Output) {
        output.number(self.version);
        output.number(self.shape.len() as u64);
        self.shape.iter().for_each(|dimension| output.number(u64::from(*dimension)));
        output.values(&self.values);
    }

    fn load(input: &mut Input) -> Result<Arc<Tensor>, Damaged> {
        let version = input.number_up_to(i64::MAX as u64)?;
        let dimensions = input.number_up_to(DIMENSIONS_MAX as u64)?;
        let shape = (0..dimensions).map(|_| input.number_up_to(u64::from(u32::MAX)).map(|d| d as u32));
        let shape: Vec<u32> = shape.collect::<Result<_, _>>()?;
        let values = input.values()?;
        if shape.is_empty() {
            return Err(Damaged);
        }
        Tensor::new(version, shape, values).map(Arc::new).map_err(|_| Damaged)
    }

    fn rewrite(&self, rewrite: &mut Rewrite) {
        rewrite.tensor(self.version, self.values.bytes(), &self.shape);
    }

    fn memory(&self) -> usize {
        size_of::<Tensor>() + size_of_val(&*self.shape) + size_of_val(&*self.values)
    }

    fn digest(&self, digest: &mut Digesting) {
        digest.number(self.version);
        self.shape.iter().for_each(|dimension| digest.number(u64::from(*dimension)));
        digest.values(&self.values);
    }

    fn copy(&self) -> Arc<Tensor> {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_shape_that_overflows_are_none() {
        assert_eq!(places(&[]), Some(1));
        assert_eq!(places(&[2, 3]), Some(6));
        assert_eq!(places(&[7, 0]), Some(0));
        assert_eq!(places(&[u32::MAX; 3]), None);
    }
}
