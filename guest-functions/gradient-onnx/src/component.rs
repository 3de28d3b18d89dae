//! The component: passes handles from one interface to the other.

#![expect(unsafe_code, reason = "the export that wit-bindgen generates")]

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "gradient", generate_all });
}

use bindings::exports::skein::train::gradients::{Batch, Error, Gradient, Guest, Metrics, Tensor};
use bindings::skein::train::settings;
use bindings::wasi::nn::errors::Error as NnError;
use bindings::wasi::nn::graph::load_by_name;
use bindings::wasi::nn::tensor::TensorType;
use bytemuck::pod_collect_to_vec;

use crate::score::{Score, binary_cross_entropy, cross_entropy, mean};

struct Onnx;

impl Guest for Onnx {
    fn compute(batch: Batch) -> Result<Gradient, Error> {
        let outputs = run(&format!("{}/train", model()), batch.tensors)?;
        let mut loss = None;
        let mut tensors = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            match name.strip_prefix("grad.").or_else(|| name.strip_prefix("new.")) {
                Some(parameter) => tensors.push((parameter.to_owned(), tensor)),
                None if name == "loss" => loss = floats(&tensor)?.first().copied(),
                None => {}
            }
        }
        let loss = loss.ok_or_else(|| Error::Other("the graph gives no `loss`".into()))?;
        Ok(Gradient { loss, samples: batch.samples, tensors })
    }

    fn evaluate(batch: Batch) -> Result<Metrics, Error> {
        let is_label = |(name, _): &(String, Tensor)| name == "labels";
        let (labels, inputs): (Vec<_>, Vec<_>) = batch.tensors.into_iter().partition(is_label);
        let (_, labels) = labels.into_iter().next().ok_or_else(|| invalid("tensor `labels` is missing"))?;
        let outputs = run(&model(), inputs)?;
        let (_, output) = outputs.into_iter().next().ok_or_else(|| Error::Other("the graph gives nothing".into()))?;
        let Score { loss, correct } = score(&output, &labels)?;
        Ok(Metrics { loss, samples: batch.samples, correct })
    }
}

fn model() -> String {
    settings::get("model").unwrap_or_else(|| "model".into())
}

/// Runs a graph and returns all its outputs; the host binds inputs that are left out.
fn run(name: &str, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, Error> {
    let context = load_by_name(name).and_then(|graph| graph.init_execution_context()).map_err(other)?;
    context.compute(inputs).map_err(other)
}

fn score(output: &Tensor, labels: &Tensor) -> Result<Score, Error> {
    let outputs = floats(output)?;
    let score = match settings::get("loss").as_deref() {
        None | Some("cross-entropy") => {
            let classes = output.dimensions().last().copied().unwrap_or(0);
            if labels.ty() != TensorType::I64 {
                return Err(invalid("tensor `labels` is not of type I64"));
            }
            cross_entropy(&outputs, classes as usize, &pod_collect_to_vec(&labels.data()))
        }
        Some("mean-squared-error") => mean(&outputs, &floats(labels)?, |output, target| (output - target).powi(2)),
        Some("binary-cross-entropy") => mean(&outputs, &floats(labels)?, binary_cross_entropy),
        Some(unknown) => return Err(Error::Other(format!("there is no loss `{unknown}`"))),
    };
    score.map_err(|reason| invalid(&reason))
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    match tensor.ty() {
        TensorType::Fp32 => Ok(pod_collect_to_vec(&tensor.data())),
        _ => Err(invalid("a tensor is not of type FP32")),
    }
}

fn invalid(reason: &str) -> Error {
    Error::InvalidBatch(reason.into())
}

fn other(error: NnError) -> Error {
    Error::Other(error.data())
}

bindings::export!(Onnx with_types_in bindings);
