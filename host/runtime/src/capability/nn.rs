//! `wasi:nn/tensor`: tensors that live in the host. What guests make counts into their memory.

use skein_engine::Tensor;
use wasmtime::bail;
use wasmtime::component::Resource;

use super::State;
use super::bindings::tensor::{Host, HostTensor, TensorType};

impl Host for State {}

impl HostTensor for State {
    fn new(&mut self, dimensions: Vec<u32>, ty: TensorType, data: Vec<u8>) -> wasmtime::Result<Resource<Tensor>> {
        let tensor = Tensor::from_bytes(dimensions, ty.into(), data)?;
        if !self.meter.take(tensor.own_bytes()) {
            bail!("the tensor does not fit the memory limit");
        }
        Ok(self.table.push(tensor)?)
    }

    fn dimensions(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.dimensions().to_vec())
    }

    fn ty(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(&tensor)?.ty().into())
    }

    fn data(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u8>> {
        let tensor = self.table.get(&tensor)?;
        if tensor.shares(&self.parameters.values) {
            self.account.parameter_bytes += tensor.bytes().len() as u64;
        }
        Ok(tensor.bytes().to_vec())
    }

    fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.meter.give(tensor.own_bytes());
        Ok(())
    }
}
