//! `skein:train/parameters`: the model's parameters as handles that share the store's buffer.

use skein_engine::Tensor;
use skein_types::Parameter;
use wasmtime::component::Resource;

use super::{HostTensor, State, bindings};

impl bindings::parameters::Host for State {
    fn describe(&mut self) -> wasmtime::Result<Vec<bindings::parameters::Parameter>> {
        let layout = &self.input.graphs.parameters.layout;
        let mut end = 0;
        let describe = |parameter: &Parameter| {
            end += parameter.len();
            let trained = end <= layout.trained();
            bindings::parameters::Parameter { name: parameter.name.clone(), shape: parameter.shape.clone(), trained }
        };
        Ok(layout.parameters().iter().map(describe).collect())
    }

    fn get(&mut self, name: String) -> wasmtime::Result<Option<Resource<HostTensor>>> {
        let Some((parameter, range)) = self.input.graphs.parameters.layout.find(&name) else { return Ok(None) };
        let tensor = Tensor::from_floats(parameter.shape.clone(), self.input.graphs.parameters.values.clone(), range)?;
        Ok(Some(self.hold_tensor(tensor)?))
    }
}
