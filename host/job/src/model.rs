//! The model of a job: its parameters, their values before the first round, and the graphs that compute it.

mod feed;
mod onnx;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use skein_graph::Lowering;
use skein_protocol::random::Stream;
use skein_types::{Layout, Parameter};

use crate::data::SampleKind;
use crate::identity::Identifier;
use crate::manifest::model::{Network, ParameterInit};
use crate::manifest::{self, Manifest};

pub use onnx::{Graph, GraphInput, Graphs, convolutional, read};

/// Everything that a job needs to know about its model.
pub struct Model {
    /// Positions of parameters and running statistics in the flat vector.
    pub layout: Layout,
    /// Their values before the first round: the same bits on every machine.
    pub initial: Vec<f32>,
    /// Graphs for the gradient function; `None` if it computes without any.
    pub graphs: Option<Graphs>,
    /// Names, in the model's folder, of the file that it was read from and of those that belong to it.
    pub files: Vec<PathBuf>,
    /// What identifies the model: everything that changes a bit of the result.
    pub identifier: Identifier,
    /// What it is, in a few words.
    pub description: String,
}

impl Model {
    /// Prepares the manifest's model for samples like `samples`. `lowering` is called only for a model that has graphs,
    /// and returns how they are written for an engine.
    ///
    /// # Errors
    /// The model does not fit the samples or cannot be trained, or no engine is available.
    pub fn prepare(
        manifest: &Manifest,
        samples: &SampleKind,
        lowering: impl FnOnce() -> Result<Lowering>,
    ) -> Result<Model> {
        match network(manifest, samples) {
            Network::Convnet => onnx::prepare(manifest, samples, lowering()?),
            Network::Mlp => Ok(described(&manifest.model, samples, manifest.train.seed)),
        }
    }
}

/// The samples for which an ONNX model was exported: those that its input takes, and as many classes as it has logits.
///
/// # Errors
/// The file cannot be read, or leaves the size of its samples open.
pub fn exported_samples(path: &Path) -> Result<SampleKind> {
    let (model, _) = read(path)?;
    feed::exported_for(&model).with_context(|| format!("`{}` cannot be checked", path.display()))
}

/// The network to train; if the manifest leaves it open, a convolutional one for images and a perceptron otherwise.
fn network(Manifest { model, train, .. }: &Manifest, samples: &SampleKind) -> Network {
    match model.network {
        Some(network) => network,
        None if model.onnx.is_some() => Network::Convnet,
        None if !model.hidden.is_empty() || !model.parameters.is_empty() || computes_itself(train) => Network::Mlp,
        None if image_shape(&samples.shape).is_some() => Network::Convnet,
        None => Network::Mlp,
    }
}

/// Whether the job names a gradient function that is not known to use graphs.
fn computes_itself(train: &manifest::Train) -> bool {
    train.gradient.as_deref().is_some_and(|name| name != "gradient-onnx")
}

/// Channels, height and width of a sample that is an image.
fn image_shape(shape: &[u32]) -> Option<[i64; 3]> {
    match shape {
        [height, width] => Some([1, (*height).into(), (*width).into()]),
        [channels, height, width] => Some([(*channels).into(), (*height).into(), (*width).into()]),
        _ => None,
    }
}

/// A perceptron, or a model that the manifest describes by its parameters.
fn described(model: &manifest::Model, samples: &SampleKind, seed: u64) -> Model {
    let parameters = describe(model, samples.features(), samples.classes);
    let mut identifier = Identifier::default();
    let described = parameters.iter().map(|p| format!("{}, {:?}, {}", p.name, p.shape, p.init.name()));
    identifier.insert_all("model.parameters", &described.collect::<Vec<_>>());
    Model {
        layout: layout(&parameters),
        initial: initial(&parameters, seed),
        graphs: None,
        files: Vec::new(),
        identifier,
        description: if model.parameters.is_empty() { "a perceptron".into() } else { "a model".into() },
    }
}

/// Parameters as the job describes them, for samples of `features` values and `classes` classes.
///
/// A job that describes none gets a multilayer perceptron: `layers.<i>.weight` of shape `[out, in]` and
/// `layers.<i>.bias` of shape `[out]`, as in PyTorch.
fn describe(model: &manifest::Model, features: usize, classes: u32) -> Vec<manifest::model::Parameter> {
    if !model.parameters.is_empty() {
        return model.parameters.clone();
    }
    let features = u32::try_from(features).expect("samples were read into memory");
    let sizes: Vec<u32> = [&[features], &model.hidden[..], &[classes]].concat();
    let layers = sizes.windows(2).enumerate().flat_map(|(layer, sizes)| {
        let inputs = sizes[0];
        let outputs = sizes[1];
        let parameter = |name: &str, shape: Vec<u32>, init| manifest::model::Parameter {
            name: format!("layers.{layer}.{name}"),
            shape,
            init,
        };
        [
            parameter("weight", vec![outputs, inputs], ParameterInit::Kaiming),
            parameter("bias", vec![outputs], ParameterInit::Zeros),
        ]
    });
    layers.collect()
}

fn layout(parameters: &[manifest::model::Parameter]) -> Layout {
    let parameters = parameters.iter();
    Layout::new(parameters.map(|p| Parameter { name: p.name.clone(), shape: p.shape.clone() }).collect())
}

fn initial(parameters: &[manifest::model::Parameter], seed: u64) -> Vec<f32> {
    let mut values = Vec::with_capacity(layout(parameters).len());
    for parameter in parameters {
        let count: usize = parameter.shape.iter().map(|size| *size as usize).product();
        let fan_in: f32 = parameter.shape.iter().skip(1).map(|size| *size as f32).product();
        let fan_out = parameter.shape.first().map_or(1.0, |size| *size as f32);
        values.extend(Initializer { name: &parameter.name, init: parameter.init, fan_in, fan_out, count }.draw(seed));
    }
    values
}

/// What the initial values of a parameter depend on, beside the seed.
struct Initializer<'a> {
    name: &'a str,
    init: ParameterInit,
    /// Number of inputs of each output.
    fan_in: f32,
    /// Number of outputs of each input.
    fan_out: f32,
    /// Number of values to draw.
    count: usize,
}

impl Initializer<'_> {
    /// Draws the values from the parameter's own random stream.
    fn draw(&self, seed: u64) -> Vec<f32> {
        let Initializer { name, init, fan_in, fan_out, count } = *self;
        let mut stream = Stream::new("skein 2026-11 initial parameters", seed, &[name.as_bytes()]);
        let mut uniform = |bound: f32| (0..count).map(|_| stream.next_uniform(bound)).collect();
        match init {
            ParameterInit::Kaiming => uniform((6.0 / fan_in).sqrt()),
            ParameterInit::Xavier => uniform((6.0 / (fan_in + fan_out)).sqrt()),
            ParameterInit::Zeros => vec![0.0; count],
            ParameterInit::Ones => vec![1.0; count],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perceptron_has_a_pair_of_parameters_for_each_layer() {
        let hidden = manifest::Model { hidden: vec![32, 16], ..Default::default() };
        let shapes: Vec<_> = describe(&hidden, 64, 10).into_iter().map(|p| (p.name, p.shape)).collect();
        let expected = [
            ("layers.0.weight", vec![32, 64]),
            ("layers.0.bias", vec![32]),
            ("layers.1.weight", vec![16, 32]),
            ("layers.1.bias", vec![16]),
            ("layers.2.weight", vec![10, 16]),
            ("layers.2.bias", vec![10]),
        ];
        assert_eq!(shapes, expected.map(|(name, shape)| (name.to_owned(), shape)));
        assert_eq!(describe(&manifest::Model::default(), 64, 10).len(), 2, "softmax regression");
    }

    #[test]
    fn initial_values_depend_on_seed_and_name_only() {
        let parameters = describe(&manifest::Model { hidden: vec![8], ..Default::default() }, 24, 3);
        let values = initial(&parameters, 1);
        assert_eq!(values.len(), layout(&parameters).len());
        assert_eq!(values, initial(&parameters, 1));
        assert_ne!(values, initial(&parameters, 2));
        let bound = (6.0f32 / 24.0).sqrt();
        assert!(values[..24 * 8].iter().all(|value| value.abs() <= bound));
        assert!(values[..24 * 8].iter().any(|value| value.abs() > 0.9 * bound));
        assert_eq!(values[24 * 8..][..8], [0.0; 8]);
    }
}
