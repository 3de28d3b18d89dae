//! `[model]`: the model to train.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skein_graph::Loss;

use super::Problem;

/// Largest model, in values: four times the largest that fits a 32-bit guest's memory together with its gradient.
const VALUES_MAX: u64 = 1 << 31;

/// An ONNX file, a network that comes with the program, or any model described by its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// A forward model as an ONNX file, exported in float32 with a dynamic batch size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onnx: Option<PathBuf>,
    /// A network that comes with the program; if not set, a convolutional one for images and a perceptron for all other
    /// data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Initial values of the parameters of `onnx` or of a convolutional network; if not set, those of the file if there
    /// is one, else `kaiming`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<ModelInit>,
    /// The loss that training minimizes.
    #[serde(with = "super::loss")]
    #[schemars(schema_with = "super::loss::schema")]
    pub loss: Loss,
    /// Whether the model's dropout is active in training.
    pub dropout: bool,
    /// Names of the parameters of `onnx` that are not trained and keep the file's values; `*` matches any characters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Units of each hidden layer of a multilayer perceptron, first layer first. Empty: softmax regression.
    pub hidden: Vec<u32>,
    /// The parameters of any other model, for your own gradient function.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            onnx: None,
            network: None,
            init: None,
            loss: Loss::CrossEntropy { ignore_index: None },
            dropout: true,
            freeze: Vec::new(),
            hidden: Vec::new(),
            parameters: Vec::new(),
        }
    }
}

/// A network that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Two convolutions with batch normalization and a linear layer, computed by an engine.
    Convnet,
    /// A multilayer perceptron with the units of `hidden`, computed inside the function.
    Mlp,
}

impl Network {
    /// The network of that name.
    pub fn named(name: &str) -> Option<Network> {
        match name {
            "convnet" => Some(Network::Convnet),
            "mlp" => Some(Network::Mlp),
            _ => None,
        }
    }
}

/// Initial values of an ONNX model's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModelInit {
    /// The values in the file.
    File,
    /// Weights uniform in ±√(6 / fan-in) from the job's seed (He et al., 2015); scales 1, biases 0.
    Kaiming,
    /// Weights uniform in ±√(6 / (fan-in + fan-out)) from the job's seed (Glorot and Bengio, 2010); scales 1, biases 0.
    Xavier,
}

/// One parameter: its name, shape and initial values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Name, unique in the model.
    pub name: String,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<u32>,
    /// Values before the first round.
    #[serde(default)]
    pub init: ParameterInit,
}

/// Values before the first round, drawn from the job's seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterInit {
    /// Uniform in ±√(6 / fan-in), where the fan-in is the product of all dimensions but the first (He et al., 2015).
    #[default]
    Kaiming,
    /// Uniform in ±√(6 / (fan-in + fan-out)) (Glorot and Bengio, 2010).
    Xavier,
    /// 0 for every value, usual for biases.
    Zeros,
    /// 1 for every value, usual for the scales of normalizations.
    Ones,
}

impl ParameterInit {
    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            ParameterInit::Kaiming => "kaiming",
            ParameterInit::Xavier => "xavier",
            ParameterInit::Zeros => "zeros",
            ParameterInit::Ones => "ones",
        }
    }
}

impl Model {
    /// Resolves a relative path against `dir`.
    pub(super) fn resolve(&mut self, dir: &Path) {
        self.onnx = self.onnx.take().map(|path| dir.join(path));
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.hidden.contains(&0) {
            return Err(("model.hidden".into(), "has a layer of 0 units".into()));
        }
        let sources = [self.onnx.is_some(), self.network.is_some(), !self.parameters.is_empty()];
        if sources.into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err(("model.onnx".into(), ", `model.network` and `model.parameters` exclude each other".into()));
        }
        if !self.hidden.is_empty() && (self.onnx.is_some() || self.network == Some(Network::Convnet)) {
            return Err(("model.hidden".into(), "belongs to a perceptron: set `model.network = \"mlp\"`".into()));
        }
        if !self.hidden.is_empty() && !self.parameters.is_empty() {
            return Err(("model.hidden".into(), "cannot be set together with `model.parameters`".into()));
        }
        let mut names = std::collections::BTreeSet::new();
        let mut values = 0u64;
        for Parameter { name, shape, .. } in &self.parameters {
            let key = format!("model.parameters `{name}`");
            if name.is_empty() || !names.insert(name) {
                return Err((key, "must have a unique name that is not empty".into()));
            }
            if name.starts_with("optimizer.") {
                return Err((key, "has a name that checkpoints use for the optimizer's state".into()));
            }
            let count = shape.iter().try_fold(1u64, |count, size| count.checked_mul(u64::from(*size)));
            values = values.saturating_add(count.unwrap_or(u64::MAX));
            if count == Some(0) || values > VALUES_MAX {
                return Err((key, format!("has a dimension of 0 or makes the model larger than {VALUES_MAX} values")));
            }
        }
        Ok(())
    }
}
