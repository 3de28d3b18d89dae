//! `skein:train/parameters`: the model's parameters as handles that share the store's buffer.

use wasmtime::component::Resource;

use super::{State, bindings};
use crate::tensor::Tensor;

impl bindings::parameters::Host for State {
    fn describe(&mut self) -> wasmtime::Result<Vec<bindings::parameters::Parameter>> {
        let parameters = self.parameters.layout.parameters().iter();
        Ok(parameters
            .map(|parameter| bindings::parameters::Parameter {
                name: parameter.name.clone(),
                shape: parameter.shape.clone(),
            })
            .collect())
    }

    fn get(&mut self, name: String) -> wasmtime::Result<Option<Resource<Tensor>>> {
        let Some((parameter, range)) = self.parameters.layout.find(&name) else { return Ok(None) };
        let tensor = Tensor::from_floats(parameter.shape.clone(), self.parameters.values.clone(), range)?;
        Ok(Some(self.table.push(tensor)?))
    }
}
