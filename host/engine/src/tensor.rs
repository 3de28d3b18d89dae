//! Tensors of the host: shared, immutable, in the memory where they were created.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Type of the elements, one of those of `wasi:nn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum ElementType {
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    U8,
    I32,
    I64,
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            ElementType::U8 => 1,
            ElementType::Fp16 | ElementType::Bf16 => 2,
            ElementType::Fp32 | ElementType::I32 => 4,
            ElementType::Fp64 | ElementType::I64 => 8,
        }
    }
}

/// Memory of an engine that holds the elements of a tensor.
pub trait Buffer: Send + Sync {
    /// The elements: little endian, row-major.
    fn bytes(&self) -> &[u8];
}

/// An immutable tensor. Cloning shares the data.
#[derive(Debug, Clone)]
pub struct Tensor {
    dimensions: Vec<u32>,
    ty: ElementType,
    data: Data,
}

/// The elements, little endian and row-major.
#[derive(Clone)]
enum Data {
    Bytes(Arc<Vec<u8>>),
    Floats(Arc<Vec<f32>>, Range<usize>),
    Integers(Arc<Vec<i64>>),
    Engine(Arc<dyn Buffer>),
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// Maximum number of dimensions. Networks have up to six; without a bound, dimensions alone could fill the memory,
/// since `[0, 0, 0, …]` needs no data.
pub const RANK_MAX: usize = 16;

/// Dimensions that a tensor cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// More than [`RANK_MAX`] dimensions.
    #[error("a tensor has at most {RANK_MAX} dimensions, this one has {rank}")]
    Rank {
        /// Number of dimensions of the tensor.
        rank: usize,
    },
    /// The data does not have the number of bytes that the dimensions and the type require.
    #[error("a tensor of dimensions {dimensions:?} and type {ty:?} cannot have {bytes} bytes")]
    Size {
        /// Dimensions of the tensor, outermost first.
        dimensions: Vec<u32>,
        /// Type of the elements.
        ty: ElementType,
        /// Length of the data, in bytes.
        bytes: usize,
    },
}

const _: () = assert!(cfg!(target_endian = "little"), "tensors are little endian and shared as they are");

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Bytes(bytes) => bytes,
            Data::Floats(values, range) => bytemuck::cast_slice(&values[range.clone()]),
            Data::Integers(values) => bytemuck::cast_slice(values),
            Data::Engine(buffer) => buffer.bytes(),
        }
    }
}

impl Tensor {
    /// A tensor from raw bytes.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub fn from_bytes(dimensions: Vec<u32>, ty: ElementType, bytes: Vec<u8>) -> Result<Tensor, ShapeError> {
        Tensor::new(dimensions, ty, Data::Bytes(Arc::new(bytes)))
    }

    /// An FP32 tensor that shares `range` of `values`.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub fn from_floats(dimensions: Vec<u32>, values: Arc<Vec<f32>>, range: Range<usize>) -> Result<Tensor, ShapeError> {
        if range.start > range.end || range.end > values.len() {
            return Err(ShapeError::Size { dimensions, ty: ElementType::Fp32, bytes: values.len() * 4 });
        }
        Tensor::new(dimensions, ElementType::Fp32, Data::Floats(values, range))
    }

    /// An I64 tensor of one dimension, which takes over `values` without a copy.
    pub fn from_integers(values: Vec<i64>) -> Tensor {
        let dimensions = vec![u32::try_from(values.len()).expect("a batch has fewer samples than 2^32")];
        Tensor { dimensions, ty: ElementType::I64, data: Data::Integers(Arc::new(values)) }
    }

    /// A tensor in an engine's memory.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub fn from_buffer(dimensions: Vec<u32>, ty: ElementType, buffer: Arc<dyn Buffer>) -> Result<Tensor, ShapeError> {
        Tensor::new(dimensions, ty, Data::Engine(buffer))
    }

    fn new(dimensions: Vec<u32>, ty: ElementType, data: Data) -> Result<Tensor, ShapeError> {
        if dimensions.len() > RANK_MAX {
            return Err(ShapeError::Rank { rank: dimensions.len() });
        }
        let bytes = data.bytes().len();
        if element_count(&dimensions).and_then(|count| count.checked_mul(ty.size())) != Some(bytes) {
            return Err(ShapeError::Size { dimensions, ty, bytes });
        }
        Ok(Tensor { dimensions, ty, data })
    }

    /// Sizes of the dimensions, outermost first.
    pub fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    /// Type of the elements.
    pub fn ty(&self) -> ElementType {
        self.ty
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The elements of an FP32 tensor; copied only if a guest's bytes are not aligned.
    pub fn floats(&self) -> Option<Cow<'_, [f32]>> {
        (self.ty == ElementType::Fp32).then(|| aligned(self.bytes()))
    }

    /// The elements of an I64 tensor; copied only if a guest's bytes are not aligned.
    pub fn integers(&self) -> Option<Cow<'_, [i64]>> {
        (self.ty == ElementType::I64).then(|| aligned(self.bytes()))
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub fn reshaped(self, dimensions: Vec<u32>) -> Result<Tensor, ShapeError> {
        Tensor::new(dimensions, self.ty, self.data)
    }

    /// Whether the elements are part of `values` and not a copy.
    pub fn shares(&self, values: &Arc<Vec<f32>>) -> bool {
        matches!(&self.data, Data::Floats(own, _) if Arc::ptr_eq(own, values))
    }

    /// Bytes that belong to this tensor alone, dimensions included, without vectors shared with the store.
    pub fn own_bytes(&self) -> usize {
        let elements = match &self.data {
            Data::Bytes(_) | Data::Engine(_) => self.bytes().len(),
            Data::Floats(..) | Data::Integers(..) => 0,
        };
        elements + size_of_val(self.dimensions())
    }
}

fn aligned<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

fn element_count(dimensions: &[u32]) -> Option<usize> {
    dimensions.iter().try_fold(1usize, |count, size| count.checked_mul(*size as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_must_fit_dimensions_and_type() {
        for (dimensions, ty, bytes, fits) in [
            (vec![2, 3], ElementType::Fp32, 24, true),
            (vec![], ElementType::Fp64, 8, true),
            (vec![0, 7], ElementType::I32, 0, true),
            (vec![2, 3], ElementType::Fp32, 23, false),
            (vec![3], ElementType::Bf16, 12, false),
            (vec![u32::MAX, u32::MAX, u32::MAX], ElementType::U8, 1, false),
        ] {
            let made = Tensor::from_bytes(dimensions.clone(), ty, vec![0; bytes]);
            assert_eq!(made.is_ok(), fits, "{dimensions:?} {ty:?} {bytes}");
        }
    }

    #[test]
    fn a_tensor_has_a_bounded_number_of_dimensions() {
        let made = |rank| Tensor::from_bytes(vec![0; rank], ElementType::U8, vec![]);
        assert!(made(RANK_MAX).is_ok());
        let error = made(RANK_MAX + 1).expect_err("one dimension too many");
        assert_eq!(error.to_string(), "a tensor has at most 16 dimensions, this one has 17");
        assert!(made(1 << 20).is_err_and(|error| error.to_string().len() < 100), "the text does not repeat them");
    }

    #[test]
    fn floats_of_unaligned_bytes_are_copied() {
        let values = [1.5f32, -2.0];
        let tensor = Tensor::from_bytes(vec![2], ElementType::Fp32, bytemuck::cast_slice(&values).to_vec());
        assert_eq!(tensor.expect("a tensor that fits").floats().as_deref(), Some(&values[..]));
        assert_eq!(Tensor::from_integers(vec![1]).floats(), None);
    }
}
