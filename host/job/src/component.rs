//! The functions of a job: their components, read and checked, and what the built-in ones do.

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use skein_kernels::rule::{Rule, RuleKind, RuleParameter};
use skein_kernels::rules::RULES;

use crate::manifest::{self, Manifest};

/// A function of a job.
#[derive(Debug, Clone)]
pub struct Component {
    /// Its name in the manifest.
    pub name: String,
    /// What the manifest says of it.
    pub function: manifest::Function,
    /// The WebAssembly component.
    pub bytes: Vec<u8>,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: String,
}

/// The rule that a built-in aggregation function computes, with its settings.
#[derive(Debug, Clone)]
pub struct BuiltinRule {
    kind: &'static RuleKind,
    parameters: Vec<Option<u32>>,
}

impl Component {
    /// Reads the function of that name.
    ///
    /// # Errors
    /// The file cannot be read, or has another digest than the manifest asks for.
    pub fn read(manifest: &Manifest, name: &str) -> Result<Component> {
        let function = manifest.function(name).with_context(|| format!("there is no function `{name}`"))?;
        let bytes = function.read().with_context(|| {
            let hint = function.build.as_ref().map(|build| format!("; build it with `{}`", build.command));
            format!("failed to read function `{name}` from `{}`{}", function.source.display(), hint.unwrap_or_default())
        })?;
        let component = Component::new(name, function, bytes);
        if let Some(expected) = &component.function.digest {
            let actual = &component.digest;
            let wanted = expected.trim_start_matches("sha256:").to_ascii_lowercase();
            if wanted != *actual {
                bail!("function `{name}` has the digest {actual} where the manifest asks for {wanted}");
            }
        }
        Ok(component)
    }

    /// A function whose component has these bytes.
    pub fn new(name: &str, function: manifest::Function, bytes: Vec<u8>) -> Component {
        let digest = sha256(&bytes);
        Component { name: name.to_owned(), function, bytes, digest }
    }
}

/// SHA-256 in hexadecimal digits: what components and models are known by.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl BuiltinRule {
    /// What a function does that is a built-in one to the byte, with settings that its rule has. Whatever is wrong with
    /// the settings, the function itself says so.
    pub(crate) fn of(component: &Component) -> Option<BuiltinRule> {
        let settings = &component.function.settings;
        let (name, _) = manifest::function::BUILTINS.into_iter().find(|(_, builtin)| *builtin == component.bytes)?;
        let is_weighted = settings.get("weighted").map_or(Ok(false), |value| value.parse()).ok()?;
        let kind = RULES.into_iter().find(|kind| kind.function == name && kind.takes_weights == is_weighted)?;
        let value = |parameter: &RuleParameter| settings.get(parameter.name).map(|value| value.parse()).transpose();
        let parameters: Vec<Option<u32>> = kind.parameters.iter().map(value).collect::<Result<_, _>>().ok()?;
        // The commands of a database carry no parameters, so a rule that has any set is the function's to compute.
        let has_none: bool = parameters.iter().all(Option::is_none);
        has_none.then_some(BuiltinRule { kind, parameters })
    }

    /// The rule for contributions of peers that claim so many samples.
    pub fn kernel(&self, faults: u32, samples: &[u64]) -> Rule {
        let rule = Rule::new(self.kind, faults).with_parameters(self.parameters.clone());
        if self.kind.takes_weights {
            rule.weighted(samples.iter().map(|samples| *samples as f32).collect())
        } else {
            rule
        }
    }
}
