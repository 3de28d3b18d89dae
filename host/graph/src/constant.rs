//! Element types, and tensors whose values are known.

use bytes::Bytes;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum ElementType {
    F32,
    F64,
    I32,
    I64,
    U8,
    Bool,
}

impl ElementType {
    /// Number of the type in `TensorProto.DataType`.
    pub(crate) fn code(self) -> i32 {
        match self {
            ElementType::F32 => 1,
            ElementType::U8 => 2,
            ElementType::I32 => 6,
            ElementType::I64 => 7,
            ElementType::Bool => 9,
            ElementType::F64 => 11,
        }
    }

    /// The type of a `TensorProto.DataType`, or the reason why it is not supported.
    pub(crate) fn of_code(code: i32) -> Result<ElementType, String> {
        match code {
            1 => Ok(ElementType::F32),
            2 => Ok(ElementType::U8),
            6 => Ok(ElementType::I32),
            7 => Ok(ElementType::I64),
            9 => Ok(ElementType::Bool),
            11 => Ok(ElementType::F64),
            10 => Err("has type float16: export the model in float32".into()),
            16 => Err("has type bfloat16: export the model in float32".into()),
            3 => Err("has type int8: export the model before it is quantized".into()),
            8 => Err("has type string, which no model can be trained on".into()),
            other => Err(format!("has element type {other}, which is not supported: use float32 or int64")),
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            ElementType::U8 | ElementType::Bool => 1,
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::F64 | ElementType::I64 => 8,
        }
    }
}

/// A tensor whose values are known. Cloning shares them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constant {
    ty: ElementType,
    dims: Vec<i64>,
    bytes: Bytes,
}

impl Constant {
    /// A tensor of little-endian, row-major elements; `None` if their number does not fit the sizes.
    pub(crate) fn new(ty: ElementType, dims: Vec<i64>, bytes: Bytes) -> Option<Constant> {
        let count = dims.iter().try_fold(1i64, |count, size| count.checked_mul((*size >= 0).then_some(*size)?));
        let fits = count.and_then(|count| count.checked_mul(ty.size() as i64)) == i64::try_from(bytes.len()).ok();
        fits.then_some(Constant { ty, dims, bytes })
    }

    /// A vector of 64-bit integers.
    pub(crate) fn integers(values: &[i64]) -> Constant {
        Constant::array(&[values.len() as i64], values)
    }

    /// 32-bit floats of the given sizes.
    pub(crate) fn floats(dims: &[i64], values: &[f32]) -> Constant {
        let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(values));
        Constant::new(ElementType::F32, dims.to_vec(), bytes).expect("the caller passes as many values as fit")
    }

    /// 64-bit integers of the given sizes.
    pub(crate) fn array(dims: &[i64], values: &[i64]) -> Constant {
        let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(values));
        Constant::new(ElementType::I64, dims.to_vec(), bytes).expect("the caller passes as many values as fit")
    }

    /// Type of the elements.
    pub fn ty(&self) -> ElementType {
        self.ty
    }

    /// Sizes of the dimensions, outermost first.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// The elements: little endian, row-major.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Number of elements, 1 without dimensions.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.ty.size()
    }

    /// The elements of an integer or boolean tensor; `None` for other types.
    pub(crate) fn to_integers(&self) -> Option<Vec<i64>> {
        match self.ty {
            ElementType::I64 => Some(bytemuck::pod_collect_to_vec(&self.bytes)),
            ElementType::I32 => {
                Some(bytemuck::pod_collect_to_vec::<_, i32>(&self.bytes).into_iter().map(i64::from).collect())
            }
            ElementType::U8 | ElementType::Bool => Some(self.bytes.iter().copied().map(i64::from).collect()),
            ElementType::F32 | ElementType::F64 => None,
        }
    }

    /// The elements of a float tensor, as 32-bit floats; `None` for other types.
    pub fn to_floats(&self) -> Option<Vec<f32>> {
        match self.ty {
            ElementType::F32 => Some(bytemuck::pod_collect_to_vec(&self.bytes)),
            ElementType::F64 => {
                Some(bytemuck::pod_collect_to_vec::<_, f64>(&self.bytes).into_iter().map(|v| v as f32).collect())
            }
            _ => None,
        }
    }

    /// The value of all elements of a float tensor; `None` if they differ or the tensor is empty.
    pub(crate) fn uniform(&self) -> Option<f32> {
        let values = self.to_floats()?;
        let first = *values.first()?;
        values.iter().all(|value| *value == first).then_some(first)
    }
}
