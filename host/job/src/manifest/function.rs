//! `[function.<name>]`: a component, its limits and its settings; and the functions that come with the program.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const BUILTIN: &str = "builtin:";

macro_rules! builtin {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../../guest-functions/dist/", $name, ".wasm")))
    };
}

/// The functions that come with the program, by name.
pub const BUILTINS: [(&str, &[u8]); 6] = [
    builtin!("gradient-onnx"),
    builtin!("gradient-mlp"),
    builtin!("aggregate-mean"),
    builtin!("aggregate-trimmed-mean"),
    builtin!("aggregate-median"),
    builtin!("aggregate-multi-krum"),
];

/// A component, its limits and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// A component's file, or `builtin:<name>` for one that comes with the program.
    pub source: PathBuf,
    /// SHA-256 that the component must have, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Limits of a single call.
    #[serde(default)]
    pub limits: Limits,
    /// Whether the function may load its own ONNX graphs beside the job's. Each runs in a process of its own.
    #[serde(default)]
    pub load_graphs: bool,
    /// Settings that the function reads through `skein:train/settings`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// How the component is built from its sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
}

/// Limits of a single call, and of calls at the same time; those that are not set have the runtime's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of a call in MiB, with the tensors behind its handles; 256 if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Processor time, such as `5s`; `10s` if not set.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub cpu: Option<Duration>,
    /// Time from start to end without waits for a processor, such as `5s`; `30s` if not set.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub wall: Option<Duration>,
    /// Data in MiB that one call into the host may carry; 64 if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostcall_mib: Option<u32>,
    /// Handles held at the same time; 10000 if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u32>,
    /// Calls of the function that run at the same time; as many as the host runs if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// Requests for the function that may wait, beside the calls of training; 1000 if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How long a request may wait, such as `5s`, unless it is a call of training; `30s` if not set.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub queue_wait: Option<Duration>,
}

/// How a component is built from its sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// A command line for the shell.
    pub command: String,
    /// Folder to run it in, relative to the manifest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// Globs of the files whose change requires a new build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<String>,
}

impl Function {
    /// The function of that name that comes with the program.
    pub fn builtin(name: &str) -> Option<Function> {
        BUILTINS.iter().find(|(builtin, _)| *builtin == name)?;
        Some(Function::at(format!("{BUILTIN}{name}").into()))
    }

    /// The function of this source, with nothing else set.
    pub fn at(source: PathBuf) -> Function {
        Function {
            source,
            digest: None,
            limits: Limits::default(),
            load_graphs: false,
            settings: BTreeMap::new(),
            build: None,
        }
    }

    /// The component's file; `None` if it comes with the program.
    pub fn file(&self) -> Option<&Path> {
        if self.builtin_name().is_some() { None } else { Some(&self.source) }
    }

    /// Reads the component's bytes.
    ///
    /// # Errors
    /// The file cannot be read, or no such function comes with the program.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        match self.builtin_name() {
            Some(name) => match BUILTINS.iter().find(|(builtin, _)| *builtin == name) {
                Some((_, bytes)) => Ok(bytes.to_vec()),
                None => Err(std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    format!(
                        "no such function comes with this program{}",
                        super::did_you_mean_or_choose(name, BUILTINS.into_iter().map(|(builtin, _)| builtin))
                    ),
                )),
            },
            None => std::fs::read(&self.source),
        }
    }

    /// Resolves a relative path against `dir`.
    pub(super) fn resolve(&mut self, dir: &Path) {
        if self.builtin_name().is_none() {
            self.source = dir.join(&self.source);
        }
    }

    fn builtin_name(&self) -> Option<&str> {
        self.source.to_str()?.strip_prefix(BUILTIN)
    }
}
