//! Graphs that functions may use through `wasi:nn`, and the inputs that the host adds to a function's own.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use skein_engine::{EngineError, Pool, ShapeError, Tensor};
use skein_types::Layout;

use crate::brought::Brought;
use crate::parameters::Parameters;

pub use crate::brought::{Loader, RUN_GRAPH, run_graph_as_child};

/// Name of a batch's samples, which a model may call otherwise.
const INPUT: &str = "input";
/// Prefix of an input for the noise of dropout, before the name of the node.
const NOISE: &str = "noise.";

/// An input of a graph.
#[derive(Debug, Clone)]
pub struct GraphInput {
    /// Name in the graph.
    pub name: String,
    /// Sizes of its dimensions; `None` for the batch's size.
    pub shape: Vec<Option<u32>>,
    /// Its constant value, such as that of a parameter that is not trained.
    pub fixed: Option<Tensor>,
}

/// What the host adds to the inputs of a function, or bounds them by.
#[derive(Debug, Clone)]
pub(crate) struct CallInputs {
    pub(crate) parameters: Parameters,
    /// Seed of the noise of dropout.
    pub(crate) noise_seed: u64,
    /// Samples of the call's batch.
    pub(crate) samples_max: u32,
}

/// A graph that functions load by its name, or bring along.
pub struct Graph {
    runner: Runner,
    inputs: Vec<GraphInput>,
    outputs: Vec<String>,
    /// Shapes of outputs, which the engine may return in another shape.
    shapes: BTreeMap<String, Vec<u32>>,
    /// Index of the input that takes a batch's `input`: the only one that the host does not fill.
    samples: Option<usize>,
}

/// What runs a graph.
pub(crate) enum Runner {
    /// This process, without copies: a graph of the job.
    Job(Arc<Pool>),
    /// A process of its own: a graph that a function brought.
    Brought(Box<Brought>),
}

impl Graph {
    /// A compiled graph; `layout` decides which inputs the host binds to the model's parameters.
    pub fn new(pool: Pool, inputs: Vec<GraphInput>, outputs: Vec<String>, layout: &Layout) -> Graph {
        let is_open = |input: &GraphInput| {
            layout.find(&input.name).is_none()
                && input.fixed.is_none()
                && !input.name.starts_with(NOISE)
                && input.name != "labels"
        };
        let mut open = inputs.iter().enumerate().filter(|(_, input)| is_open(input)).map(|(index, _)| index);
        let samples = open.next().filter(|_| open.next().is_none());
        let shape = |output: &String| {
            let name = output.strip_prefix("grad.").or_else(|| output.strip_prefix("new."))?;
            Some((output.clone(), layout.find(name)?.0.shape.clone()))
        };
        let shapes = outputs.iter().filter_map(shape).collect();
        Graph { runner: Runner::Job(Arc::new(pool)), inputs, outputs, shapes, samples }
    }

    /// A graph that a function brought, which provides all its inputs.
    pub(crate) fn brought(brought: Brought) -> Graph {
        let signature = brought.signature();
        let inputs = signature.inputs.into_iter().map(|name| GraphInput { name, shape: vec![], fixed: None }).collect();
        let runner = Runner::Brought(Box::new(brought));
        Graph { runner, inputs, outputs: signature.outputs, shapes: BTreeMap::new(), samples: None }
    }

    pub(crate) fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Names of all outputs.
    pub(crate) fn outputs(&self) -> Vec<&str> {
        self.outputs.iter().map(String::as_str).collect()
    }

    /// Memory of the call that the graph takes beside its handle.
    pub(crate) fn bytes(&self) -> usize {
        match &self.runner {
            Runner::Job(_) => 0,
            Runner::Brought(brought) => brought.bytes(),
        }
    }

    /// All inputs of the graph: the function's, and the host's for those that it leaves out.
    pub(crate) fn bind(
        &self,
        given: Vec<(String, Tensor)>,
        call: &CallInputs,
    ) -> Result<Vec<(&str, Tensor)>, EngineError> {
        let CallInputs { parameters, noise_seed, samples_max } = call;
        let mut given = self.named(given)?;
        self.check_samples(&given, *samples_max)?;
        let samples = samples(&given, *samples_max);
        let mut bound = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let name = input.name.as_str();
            let refuse = |reason: String| EngineError::Input { name: name.to_owned(), reason };
            let tensor = if let Some(tensor) = given.remove(name) {
                shaped(tensor, &input.shape).map_err(refuse)?
            } else if let Runner::Brought(_) = self.runner {
                return Err(refuse("it is missing: the host provides inputs of the job's graphs only".into()));
            } else if let Some((parameter, range)) = parameters.layout.find(name) {
                let values = parameters.values.clone();
                Tensor::from_floats(parameter.shape.clone(), values, range)
                    .map_err(|error| refuse(error.to_string()))?
            } else if let Some(fixed) = &input.fixed {
                fixed.clone()
            } else if name.starts_with(NOISE) {
                noise(input, samples, *noise_seed).map_err(|error| refuse(error.to_string()))?
            } else {
                return Err(refuse("it is missing".into()));
            };
            bound.push((name, tensor));
        }
        Ok(bound)
    }

    /// Checks that no input has more samples than the call's batch: the memory of an engine grows with them.
    fn check_samples(&self, given: &BTreeMap<String, Tensor>, samples_max: u32) -> Result<(), EngineError> {
        for input in self.inputs.iter().filter(|input| input.shape.first() == Some(&None)) {
            let samples = given.get(&input.name).and_then(|tensor| tensor.dimensions().first().copied());
            if samples.is_some_and(|samples| samples > samples_max) {
                let samples = samples.unwrap_or_default();
                let reason = format!("it has {samples} samples, the batch of this call has {samples_max}");
                return Err(EngineError::Input { name: input.name.clone(), reason });
            }
        }
        Ok(())
    }

    /// The function's inputs, by the graph's names.
    fn named(&self, given: Vec<(String, Tensor)>) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let mut named = BTreeMap::new();
        // A graph that a function brought may have very many.
        let known: HashSet<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
        for (name, tensor) in given {
            let name = match self.samples.filter(|_| name == INPUT && !known.contains(INPUT)) {
                Some(samples) => self.inputs[samples].name.clone(),
                None => name,
            };
            if !known.contains(name.as_str()) {
                return Err(EngineError::Input { name, reason: "it has no such input".into() });
            }
            if named.insert(name.clone(), tensor).is_some() {
                return Err(EngineError::Input { name, reason: "it is given twice".into() });
            }
        }
        Ok(named)
    }

    /// The tensors of all outputs, with their names, in the shapes that functions expect.
    pub(crate) fn named_outputs(&self, tensors: Vec<Tensor>) -> Result<Vec<(String, Tensor)>, EngineError> {
        let shaped = |(name, tensor): (&String, Tensor)| match self.shapes.get(name) {
            Some(shape) => {
                let reason = |error: ShapeError| EngineError::Output { name: name.clone(), reason: error.to_string() };
                Ok((name.clone(), tensor.reshaped(shape.clone()).map_err(reason)?))
            }
            None => Ok((name.clone(), tensor)),
        };
        self.outputs.iter().zip(tensors).map(shaped).collect()
    }
}

/// Samples to draw noise for: as many as the inputs have. An input whose first dimension is no sample may have any size,
/// so the call's batch bounds them.
fn samples(given: &BTreeMap<String, Tensor>, samples_max: u32) -> u32 {
    let samples = given.values().find_map(|tensor| tensor.dimensions().first().copied()).unwrap_or(1);
    samples.min(samples_max)
}

/// A batch in the shape that the graph expects: a data set may hold an image as its pixels, a model as channels of
/// rows.
fn shaped(tensor: Tensor, shape: &[Option<u32>]) -> Result<Tensor, String> {
    let own = tensor.dimensions();
    let fits =
        own.len() == shape.len() && own.iter().zip(shape).all(|(own, size)| size.is_none_or(|size| size == *own));
    if fits || shape.is_empty() {
        return Ok(tensor);
    }
    let samples = own.first().copied().unwrap_or(1);
    let wanted: Vec<u32> = shape.iter().map(|size| size.unwrap_or(samples)).collect();
    let count = |sizes: &[u32]| sizes.iter().try_fold(1u64, |count, size| count.checked_mul(u64::from(*size)));
    match shape.first() {
        Some(first) if first.is_none_or(|first| first == samples) && count(own) == count(&wanted) => {
            tensor.reshaped(wanted).map_err(|error| error.to_string())
        }
        _ => {
            let sizes: Vec<String> =
                shape.iter().map(|size| size.map_or("batch".into(), |size| size.to_string())).collect();
            Err(format!("it has shape {own:?}, expected [{}]", sizes.join(", ")))
        }
    }
}

/// Uniform numbers in [0, 1) from the seed and the input's name, the same on every machine.
fn noise(input: &GraphInput, samples: u32, seed: u64) -> Result<Tensor, ShapeError> {
    let dimensions: Vec<u32> = input.shape.iter().map(|size| size.unwrap_or(samples)).collect();
    let count: usize = dimensions.iter().map(|size| *size as usize).product();
    let mut hasher = blake3::Hasher::new_derive_key("skein 2026-11 dropout noise");
    hasher.update(&seed.to_le_bytes()).update(input.name.as_bytes());
    let mut words = vec![0u32; count];
    hasher.finalize_xof().fill(bytemuck::cast_slice_mut(&mut words));
    // The 24 bits that a float holds exactly.
    let values: Vec<f32> = words.into_iter().map(|word| (word >> 8) as f32 / (1 << 24) as f32).collect();
    Tensor::from_floats(dimensions, Arc::new(values), 0..count)
}

/// The graphs that a function may use.
#[derive(Clone, Default)]
pub struct Graphs {
    /// Graphs that it may load by name.
    pub named: BTreeMap<String, Arc<Graph>>,
    /// Runs graphs that it brings along; `None` if it may bring none.
    pub loader: Option<Loader>,
}

impl std::fmt::Debug for Graphs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graphs").field("named", &self.named.keys()).field("loads", &self.loader.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use skein_engine::ElementType;

    use super::*;

    #[test]
    fn a_batch_takes_the_shape_of_the_input() {
        let floats = |dimensions: &[u32]| {
            let count = dimensions.iter().product::<u32>() as usize;
            Tensor::from_floats(dimensions.to_vec(), Arc::new(vec![0.0; count]), 0..count).expect("a tensor that fits")
        };
        let shape = [None, Some(1), Some(8), Some(8)];
        for (dimensions, fits) in [(&[5, 1, 8, 8][..], true), (&[5, 64], true), (&[5, 8, 8], true), (&[5, 63], false)] {
            let result = shaped(floats(dimensions), &shape);
            assert_eq!(result.is_ok(), fits, "{dimensions:?}");
            assert!(result.is_err() || result.is_ok_and(|tensor| tensor.dimensions() == [5, 1, 8, 8]));
        }
        let error =
            shaped(floats(&[5, 64]), &[Some(4), Some(1), Some(8), Some(8)]).expect_err("a batch of 4 is expected");
        assert_eq!(error, "it has shape [5, 64], expected [4, 1, 8, 8]");
    }

    /// Noise takes memory for each sample, and a tensor without elements may claim any number of them.
    #[test]
    fn noise_is_drawn_for_no_more_samples_than_the_batch_has() {
        let empty = |samples| Tensor::from_bytes(vec![samples, 0], ElementType::U8, vec![]).expect("no data");
        for (samples_given, drawn) in [(3, 3), (4, 4), (5, 4), (u32::MAX, 4)] {
            let given = BTreeMap::from([("a scale".to_owned(), empty(samples_given))]);
            assert_eq!(samples(&given, 4), drawn, "{samples_given}");
        }
        assert_eq!(samples(&BTreeMap::new(), 4), 1);
    }

    #[test]
    fn noise_depends_on_seed_and_name_only() {
        let input = |name: &str| GraphInput { name: name.into(), shape: vec![None, Some(300)], fixed: None };
        let draw = |name, seed| noise(&input(name), 4, seed).expect("a tensor that fits").bytes().to_vec();
        assert_eq!(draw("noise.a", 1), draw("noise.a", 1));
        assert_ne!(draw("noise.a", 1), draw("noise.b", 1));
        assert_ne!(draw("noise.a", 1), draw("noise.a", 2));
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&draw("noise.a", 1));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)) && (0.45..0.55).contains(&mean), "{mean}");
    }
}
