//! The functions of a job: their components, read and checked, and what the built-in ones do.

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use skein_kernels::rule::Rule;

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

/// What a built-in aggregation function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinRule {
    /// The mean; `true`: weighted by the samples that peers claim.
    Mean(bool),
    /// The coordinate-wise median.
    Median,
    /// The coordinate-wise trimmed mean.
    TrimmedMean,
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
    /// What a function does that is a built-in one to the byte, with settings that it knows.
    pub(crate) fn of(component: &Component) -> Option<BuiltinRule> {
        let (name, _) = manifest::function::BUILTINS.into_iter().find(|(_, builtin)| *builtin == component.bytes)?;
        match (name, component.function.settings.get("weighted").map(String::as_str)) {
            ("aggregate-mean", None | Some("false")) => Some(BuiltinRule::Mean(false)),
            ("aggregate-mean", Some("true")) => Some(BuiltinRule::Mean(true)),
            ("aggregate-median", _) => Some(BuiltinRule::Median),
            ("aggregate-trimmed-mean", _) => Some(BuiltinRule::TrimmedMean),
            _ => None,
        }
    }

    /// The kernel for contributions of peers that claim so many samples.
    pub fn kernel(self, faults: u32, samples: &[u64]) -> Rule {
        match self {
            BuiltinRule::Mean(false) => Rule::Mean,
            BuiltinRule::Mean(true) => Rule::WeightedMean(samples.iter().map(|samples| *samples as f32).collect()),
            BuiltinRule::Median => Rule::Median { faults },
            BuiltinRule::TrimmedMean => Rule::TrimmedMean { faults },
        }
    }
}
