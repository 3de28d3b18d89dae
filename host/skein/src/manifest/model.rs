//! `[model]`: what is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// Largest model, in values: four times the largest that fits a 32-bit guest's memory together with its gradient.
const VALUES_MAX: u64 = 1 << 31;

/// A multilayer perceptron by its hidden layers, or any model by its parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Units of each hidden layer of a multilayer perceptron, first layer first. Empty: softmax regression.
    #[serde(default)]
    pub hidden: Vec<u32>,
    /// The parameters of any other model, for a gradient function of your own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Name, unique in the model.
    pub name: String,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<u32>,
    /// Values before the first round.
    #[serde(default)]
    pub init: Init,
}

/// Values before the first round, drawn from the job's seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Uniform in ±√(6 / fan-in), where the fan-in is the product of all dimensions but the first (He et al., 2015).
    #[default]
    Kaiming,
    /// Uniform in ±√(6 / (fan-in + fan-out)) (Glorot and Bengio, 2010).
    Xavier,
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

impl Model {
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.hidden.contains(&0) {
            return Err(("model.hidden".into(), "has a layer of 0 units".into()));
        }
        if !self.hidden.is_empty() && !self.parameters.is_empty() {
            return Err(("model.hidden".into(), "can not be set together with `model.parameters`".into()));
        }
        let mut names = std::collections::BTreeSet::new();
        let mut values = 0u64;
        for Parameter { name, shape, .. } in &self.parameters {
            let key = format!("model.parameters `{name}`");
            if name.is_empty() || !names.insert(name) {
                return Err((key, "has no name of its own".into()));
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
