//! Tensors as `wasi:nn` knows them, resident in the host: guests hold handles and read only what they ask for.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

pub use crate::capability::bindings::TensorType;

/// An immutable tensor. Cloning shares the data.
#[derive(Debug, Clone)]
pub struct Tensor {
    dimensions: Vec<u32>,
    ty: TensorType,
    data: Data,
}

/// The elements, little endian and row-major. Only the first kind was made by a guest.
#[derive(Debug, Clone)]
enum Data {
    Bytes(Arc<Vec<u8>>),
    Floats(Arc<Vec<f32>>, Range<usize>),
    Integers(Arc<Vec<i64>>),
}

/// Data that does not have as many bytes as its dimensions and type ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tensor of dimensions {dimensions:?} and type {ty:?} can not have {bytes} bytes")]
pub struct SizeError {
    dimensions: Vec<u32>,
    ty: TensorType,
    bytes: usize,
}

const _: () = assert!(cfg!(target_endian = "little"), "wasi:nn tensors are little endian and handed out as they are");

impl Tensor {
    /// A tensor from raw bytes.
    ///
    /// # Errors
    /// [`SizeError`]
    pub fn from_bytes(dimensions: Vec<u32>, ty: TensorType, bytes: Vec<u8>) -> Result<Tensor, SizeError> {
        if element_count(&dimensions).and_then(|count| count.checked_mul(element_bytes(ty))) != Some(bytes.len()) {
            return Err(SizeError { dimensions, ty, bytes: bytes.len() });
        }
        Ok(Tensor { dimensions, ty, data: Data::Bytes(Arc::new(bytes)) })
    }

    /// An FP32 tensor that shares `range` of `values`.
    ///
    /// # Errors
    /// [`SizeError`]
    pub fn from_floats(dimensions: Vec<u32>, values: Arc<Vec<f32>>, range: Range<usize>) -> Result<Tensor, SizeError> {
        if element_count(&dimensions) != Some(range.len()) || range.end > values.len() {
            return Err(SizeError { dimensions, ty: TensorType::Fp32, bytes: range.len() * 4 });
        }
        Ok(Tensor { dimensions, ty: TensorType::Fp32, data: Data::Floats(values, range) })
    }

    /// An I64 vector.
    pub fn from_integers(values: Vec<i64>) -> Tensor {
        let dimensions = vec![u32::try_from(values.len()).expect("a batch has fewer samples than 2^32")];
        Tensor { dimensions, ty: TensorType::I64, data: Data::Integers(Arc::new(values)) }
    }

    /// Sizes of the dimensions, outermost first.
    pub fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    /// Type of the elements.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(bytes) => bytes,
            Data::Floats(values, range) => bytemuck::cast_slice(&values[range.clone()]),
            Data::Integers(values) => bytemuck::cast_slice(values),
        }
    }

    /// The elements of an FP32 tensor; copied only if a guest's bytes do not happen to be aligned.
    pub fn floats(&self) -> Option<Cow<'_, [f32]>> {
        (self.ty == TensorType::Fp32).then(|| match bytemuck::try_cast_slice(self.bytes()) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(self.bytes())),
        })
    }

    /// Bytes that a guest made the host hold.
    pub(crate) fn guest_bytes(&self) -> usize {
        match &self.data {
            Data::Bytes(bytes) => bytes.len(),
            Data::Floats(..) | Data::Integers(..) => 0,
        }
    }
}

fn element_count(dimensions: &[u32]) -> Option<usize> {
    dimensions.iter().try_fold(1usize, |count, size| count.checked_mul(*size as usize))
}

fn element_bytes(ty: TensorType) -> usize {
    match ty {
        TensorType::U8 => 1,
        TensorType::Fp16 | TensorType::Bf16 => 2,
        TensorType::Fp32 | TensorType::I32 => 4,
        TensorType::Fp64 | TensorType::I64 => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_to_fit_dimensions_and_type() {
        for (dimensions, ty, bytes, fits) in [
            (vec![2, 3], TensorType::Fp32, 24, true),
            (vec![], TensorType::Fp64, 8, true),
            (vec![0, 7], TensorType::I32, 0, true),
            (vec![2, 3], TensorType::Fp32, 23, false),
            (vec![3], TensorType::Bf16, 12, false),
            (vec![u32::MAX, u32::MAX, u32::MAX], TensorType::U8, 1, false),
        ] {
            let made = Tensor::from_bytes(dimensions.clone(), ty, vec![0; bytes]);
            assert_eq!(made.is_ok(), fits, "{dimensions:?} {ty:?} {bytes}");
        }
    }

    #[test]
    fn floats_of_unaligned_bytes_are_copied() {
        let values = [1.5f32, -2.0];
        let tensor = Tensor::from_bytes(vec![2], TensorType::Fp32, bytemuck::cast_slice(&values).to_vec());
        assert_eq!(tensor.expect("a tensor that fits").floats().as_deref(), Some(&values[..]));
        assert_eq!(Tensor::from_integers(vec![1]).floats(), None);
    }
}
