//! `wasi:nn/tensor`: tensors that the host holds. Those that a guest creates count as its memory.

use skein_engine::{ElementType, Tensor};
use wasmtime::component::Resource;

use super::State;
use super::bindings::tensor::{Host, HostTensor as TensorInterface, TensorType};

/// A tensor behind a handle.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostTensor {
    pub(crate) tensor: Tensor,
    /// Bytes that count as the guest's memory until the handle is dropped; 0 for a batch, which the host provides.
    pub(crate) taken: usize,
}

impl HostTensor {
    /// A tensor that the host provides: none of its bytes count as the guest's memory.
    pub(crate) fn of_host(tensor: Tensor) -> HostTensor {
        HostTensor { tensor, taken: 0 }
    }
}

/// Converts to the type of `wasi:nn`.
impl From<ElementType> for TensorType {
    fn from(ty: ElementType) -> Self {
        match ty {
            ElementType::Fp16 => Self::Fp16,
            ElementType::Fp32 => Self::Fp32,
            ElementType::Fp64 => Self::Fp64,
            ElementType::Bf16 => Self::Bf16,
            ElementType::U8 => Self::U8,
            ElementType::I32 => Self::I32,
            ElementType::I64 => Self::I64,
        }
    }
}

impl From<TensorType> for ElementType {
    fn from(ty: TensorType) -> Self {
        match ty {
            TensorType::Fp16 => ElementType::Fp16,
            TensorType::Fp32 => ElementType::Fp32,
            TensorType::Fp64 => ElementType::Fp64,
            TensorType::Bf16 => ElementType::Bf16,
            TensorType::U8 => ElementType::U8,
            TensorType::I32 => ElementType::I32,
            TensorType::I64 => ElementType::I64,
        }
    }
}

impl Host for State {}

impl TensorInterface for State {
    fn new(&mut self, dimensions: Vec<u32>, ty: TensorType, data: Vec<u8>) -> wasmtime::Result<Resource<HostTensor>> {
        self.hold_tensor(Tensor::from_bytes(dimensions, ty.into(), data)?)
    }

    fn dimensions(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.tensor.dimensions().to_vec())
    }

    fn ty(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(&tensor)?.tensor.ty().into())
    }

    fn data(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<Vec<u8>> {
        let tensor = &self.table.get(&tensor)?.tensor;
        if tensor.shares(&self.input.graphs.parameters.values) {
            self.account.parameter_bytes += tensor.bytes().len() as u64;
        }
        Ok(tensor.bytes().to_vec())
    }

    fn drop(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.meter.give(tensor.taken);
        Ok(())
    }
}
