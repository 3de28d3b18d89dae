//! The component: reads the parameters and the batch through handles, returns handles.

#![expect(unsafe_code, reason = "the export that wit-bindgen generates")]

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "gradient", generate_all });
}

use bindings::exports::skein::train::gradients::{Batch, Error, Gradient, Guest, Metrics, Tensor};
use bindings::skein::train::parameters::{self, Parameter};
use bindings::wasi::nn::tensor::TensorType;
use bytemuck::{cast_slice, pod_collect_to_vec};
use ndarray::{ArrayView1, ArrayView2};

use crate::network::{Layer, Network, Score};

struct Mlp;

impl Guest for Mlp {
    fn compute(batch: Batch) -> Result<Gradient, Error> {
        let parameters = Parameters::read()?;
        let network = parameters.network()?;
        let samples = Samples::read(&batch)?;
        let (Score { loss, .. }, layers) =
            network.gradient(samples.input()?, &samples.labels).map_err(invalid_batch)?;
        let values = layers.iter().flat_map(|layer| [layer.weight.as_slice(), layer.bias.as_slice()]);
        let tensors = parameters
            .described
            .iter()
            .zip(values)
            .map(|(parameter, values)| {
                let values = values.expect("a gradient is laid out in row-major order");
                (parameter.name.clone(), Tensor::new(&parameter.shape, TensorType::Fp32, cast_slice(values)))
            })
            .collect();
        Ok(Gradient { loss, samples: batch.samples, tensors })
    }

    fn evaluate(batch: Batch) -> Result<Metrics, Error> {
        let parameters = Parameters::read()?;
        let samples = Samples::read(&batch)?;
        let score = parameters.network()?.evaluate(samples.input()?, &samples.labels).map_err(invalid_batch)?;
        Ok(Metrics { loss: score.loss, samples: batch.samples, correct: Some(score.correct) })
    }
}

/// The model's parameters: weight and bias of each layer in turn.
struct Parameters {
    described: Vec<Parameter>,
    values: Vec<Vec<f32>>,
}

impl Parameters {
    fn read() -> Result<Parameters, Error> {
        let described = parameters::describe();
        let values = described
            .iter()
            .map(|parameter| {
                let tensor = parameters::get(&parameter.name);
                let tensor =
                    tensor.ok_or_else(|| Error::InvalidParameters(format!("`{}` is missing", parameter.name)))?;
                Ok(pod_collect_to_vec(&tensor.data()))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Parameters { described, values })
    }

    fn network(&self) -> Result<Network<'_>, Error> {
        let pairs = self.described.chunks(2).zip(self.values.chunks(2));
        let layers = pairs.map(|(described, values)| {
            let ([weight, bias], [weights, biases]) = (described, values) else {
                return Err(Error::InvalidParameters(format!("`{}` has no bias", described[0].name)));
            };
            let ([rows, columns], [_]) = (&weight.shape[..], &bias.shape[..]) else {
                let text = format!("`{}` and `{}` are no matrix and vector", weight.name, bias.name);
                return Err(Error::InvalidParameters(text));
            };
            let weight = ArrayView2::from_shape((*rows as usize, *columns as usize), weights);
            Ok(Layer { weight: weight.map_err(invalid_parameters)?, bias: ArrayView1::from(biases) })
        });
        Network::new(layers.collect::<Result<_, _>>()?).map_err(invalid_parameters)
    }
}

/// The batch, copied into the sandbox.
struct Samples {
    input: Vec<f32>,
    labels: Vec<i64>,
}

impl Samples {
    fn read(batch: &Batch) -> Result<Samples, Error> {
        let read = |name: &str, ty: TensorType| {
            let tensor = batch.tensors.iter().find(|(found, _)| found == name).map(|(_, tensor)| tensor);
            match tensor {
                Some(tensor) if tensor.ty() == ty => Ok(tensor.data()),
                Some(_) => Err(Error::InvalidBatch(format!("tensor `{name}` is not of type {ty:?}"))),
                None => Err(Error::InvalidBatch(format!("tensor `{name}` is missing"))),
            }
        };
        let input = pod_collect_to_vec(&read("input", TensorType::Fp32)?);
        Ok(Samples { input, labels: pod_collect_to_vec(&read("labels", TensorType::I64)?) })
    }

    fn input(&self) -> Result<ArrayView2<'_, f32>, Error> {
        let samples = self.labels.len();
        let features = self.input.len().checked_div(samples).unwrap_or(0);
        ArrayView2::from_shape((samples, features), &self.input).map_err(invalid_batch)
    }
}

fn invalid_batch(error: impl ToString) -> Error {
    Error::InvalidBatch(error.to_string())
}

fn invalid_parameters(error: impl ToString) -> Error {
    Error::InvalidParameters(error.to_string())
}

bindings::export!(Mlp with_types_in bindings);
