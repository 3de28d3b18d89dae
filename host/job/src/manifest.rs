//! `skein.toml`: the description of a job. It states needs only; what a machine offers is the operator's concern.

pub mod data;
pub mod function;
pub mod model;
pub mod train;

mod loss;
mod mistyped;
mod optimizer;
mod overrides;
mod suggest;
mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use data::Data;
pub use function::Function;
pub use model::Model;
pub use overrides::{Override, quoted};
pub(crate) use suggest::{did_you_mean, did_you_mean_or_choose};
pub use suggest::{how_to_set, key_of_option};
pub use train::{Train, WaitBounds};

/// The only version that exists.
pub const VERSION: u32 = 1;

/// A job: one model, its data, its functions and how it is trained.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "skein.toml")]
pub struct Manifest {
    /// Version of this format: 1.
    pub skein_manifest_version: u32,
    /// Name, version and description of the job.
    pub application: Application,
    /// The model to train.
    #[serde(default)]
    pub model: Model,
    /// The data to train on.
    pub data: Data,
    /// How the model is trained.
    #[serde(default)]
    pub train: Train,
    /// Functions by name; the built-in ones are used if the job names none.
    #[serde(default)]
    pub function: BTreeMap<String, Function>,
}

/// Name, version and description of the job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Name, in kebab case.
    pub name: String,
    /// Version of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Description of the job in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file is missing or not readable.
    #[error("failed to read the manifest `{}`", path.display())]
    Read {
        /// Path of the manifest.
        path: PathBuf,
        /// Why it could not be read.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("`{}` is not a valid manifest: {message}", path.display())]
    Parse {
        /// Path of the manifest.
        path: PathBuf,
        /// The place and the problem, with the nearest known key.
        message: String,
    },
    /// A value that is invalid or conflicts with another.
    #[error("`{}`: `{key}` {problem}", path.display())]
    Value {
        /// Path of the manifest.
        path: PathBuf,
        /// The key, with its tables.
        key: String,
        /// The problem and the valid values, worded to follow the key.
        problem: String,
    },
    /// A value from the command line, with which the manifest is not valid.
    #[error("`{option}`: {problem}")]
    Override {
        /// The option as the user wrote it.
        option: String,
        /// The key and the problem.
        problem: String,
    },
}

/// Longest name of a function's setting: names are part of a job's identity, which keeps their length in two bytes.
const SETTING_BYTES_MAX: usize = 256;

/// A key and the problem with its value.
pub type Problem = (String, String);

impl Manifest {
    /// Reads and checks a manifest. Relative paths in it are resolved against its folder.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn load(path: &Path) -> Result<Manifest, ManifestError> {
        Manifest::load_with(path, &[])
    }

    /// Reads and checks a manifest in which `overrides` replace values, the later ones those of the earlier ones.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn load_with(path: &Path, overrides: &[Override]) -> Result<Manifest, ManifestError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
        let mut manifest = Manifest::parse_with(&text, path, overrides)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        manifest.data.resolve(dir);
        manifest.model.resolve(dir);
        manifest.function.values_mut().for_each(|function| function.resolve(dir));
        Ok(manifest)
    }

    /// Parses and checks the text of a manifest; errors name it `path`.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse(text: &str, path: &Path) -> Result<Manifest, ManifestError> {
        let manifest: Manifest = toml::from_str(text).map_err(|error| {
            let message = format!("{}{}", error.to_string().trim_end(), hint(&error));
            ManifestError::Parse { path: path.to_owned(), message }
        })?;
        manifest.check().map_err(|(key, problem)| ManifestError::Value { path: path.to_owned(), key, problem })?;
        Ok(manifest)
    }

    /// Checks the constraints that types do not express.
    ///
    /// # Errors
    /// The key and the problem.
    pub fn check(&self) -> Result<(), Problem> {
        let version = self.skein_manifest_version;
        if version != VERSION {
            return Err(("skein_manifest_version".into(), format!("must be {VERSION}, got {version}")));
        }
        let name = &self.application.name;
        let is_kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(is_kebab) {
            return Err(("application.name".into(), format!("must consist of a-z, 0-9 and `-`, got `{name}`")));
        }
        self.model.check()?;
        self.data.check(self.train.peers)?;
        self.train.check()?;
        for (name, function) in &self.function {
            if let Some(setting) = function.settings.keys().find(|setting| setting.len() > SETTING_BYTES_MAX) {
                let start: String = setting.chars().take(16).collect();
                let len = setting.len();
                let problem = format!("may have at most {SETTING_BYTES_MAX} bytes in a name, `{start}...` has {len}");
                return Err((format!("function.{name}.settings"), problem));
            }
        }
        let named = [("gradient", self.train.gradient.as_ref()), ("aggregate", Some(&self.train.aggregate))];
        for (key, name) in named.into_iter().filter_map(|(key, name)| Some((key, name?))) {
            if !self.function.contains_key(name) && Function::builtin(name).is_none() {
                let known = self.function.keys().map(String::as_str).chain(function::BUILTINS.map(|(name, _)| name));
                let problem =
                    format!("names function `{name}`, which does not exist{}", did_you_mean_or_choose(name, known));
                return Err((format!("train.{key}"), problem));
            }
        }
        Ok(())
    }

    /// The function of that name: the job's own, or a built-in one.
    pub fn function(&self, name: &str) -> Option<Function> {
        self.function.get(name).cloned().or_else(|| Function::builtin(name))
    }
}

/// The JSON schema of `skein.toml`.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Manifest).to_value();
    schema["$id"] = "skein-manifest-1".into();
    schema
}

/// What the parser says about a file of TOML, and the nearest known key or name for an unknown one.
pub fn explain(error: &toml::de::Error) -> String {
    let meant = unknown_name(error, "unknown field ").or_else(|| unknown_name(error, "unknown variant "));
    let meant = meant.map_or_else(String::new, |(name, known)| did_you_mean(name, known));
    format!("{}{meant}", error.to_string().trim_end())
}

/// `; did you mean …?` for an unknown key or name of a manifest; the parser's message lists the known ones.
fn hint(error: &toml::de::Error) -> String {
    if let Some((key, known)) = unknown_name(error, "unknown field ") {
        return suggest::did_you_mean_key(key, known);
    }
    unknown_name(error, "unknown variant ").map_or_else(String::new, |(name, known)| did_you_mean(name, known))
}

/// The name in the parser's message after the words, and the known names that it lists.
fn unknown_name<'a>(
    error: &'a toml::de::Error,
    words: &str,
) -> Option<(&'a str, impl Iterator<Item = &'a str> + use<'a>)> {
    let (_, listed) = error.message().split_once(words)?;
    let mut quoted = listed.split(';').next()?.split('`').skip(1).step_by(2);
    Some((quoted.next()?, quoted))
}

#[cfg(test)]
mod tests {
    use skein_graph::LOSSES;
    use skein_kernels::optimizer::{OPTIMIZERS, Optimizer};

    use super::*;

    const MINIMAL: &str =
        "skein_manifest_version = 1\n[application]\nname = \"a\"\n[data]\nsource = \"builtin:digits\"\n";

    #[track_caller]
    fn refuses(addition: &str, expected: &str) {
        let text = format!("{MINIMAL}{addition}");
        let error = Manifest::parse(&text, Path::new("skein.toml")).expect_err(addition).to_string();
        assert!(error.contains(expected) && error.contains("skein.toml"), "{error}");
    }

    #[test]
    fn a_minimal_manifest_is_enough() {
        let manifest = Manifest::parse(MINIMAL, Path::new("skein.toml")).expect("a valid manifest");
        assert_eq!(manifest.train.peers, 4);
        assert!(manifest.function(&manifest.train.aggregate).is_some());
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_known_one() {
        refuses("scael = 2.0\n", "did you mean `scale`?");
        refuses("[train]\npears = 3\n", "did you mean `peers`?");
        refuses("[train.optimizer]\nname = \"adma\"\n", "did you mean `adam`?");
        refuses(
            "[train.optimizer]\nname = \"Lion\"\n",
            "`train.optimizer`: unknown variant `Lion`, expected one of `sgd`, ",
        );
        refuses("[train.optimizer]\nname = \"SGD\"\n", "did you mean `sgd`?");
        refuses("[function.g]\nsource = \"g.wasm\"\n[function.g.limits]\nmemory = 1\n", "did you mean `memory_mib`?");
        refuses("[function.g]\nsource = \"g.wasm\"\n[function.g.build]\ncmd = \"make\"\n", "did you mean `command`?");
        refuses("[modle]\nhidden = [3]\n", "did you mean `model`?");
        for (other, own) in [("epochs", "rounds"), ("lr", "learning_rate"), ("batch", "batch_size"), ("nodes", "peers")]
        {
            refuses(&format!("[train]\n{other} = 3\n"), &format!("did you mean `{own}`?"));
        }
        refuses("[train.optimizer]\nname = \"rmsprop\"\n", "did you mean `adam`?");
        for (addition, own) in [
            ("[train]\nnum_rounds = 3\n", "rounds"),
            ("[train]\nlocal_epochs = 3\n", "batches_per_round"),
            ("[train]\nmomentum = 0.9\n", "train.optimizer.momentum"),
            ("[train]\nweight_decay = 0.1\n", "train.optimizer.weight_decay"),
            ("[train]\nloss = \"mse\"\n", "model.loss"),
            ("[train]\nvalidation_split = 0.1\n", "data.validation"),
            ("[train.optimizer]\nname = \"sgd\"\nlr = 0.1\n", "train.learning_rate"),
            ("[model]\nlearning_rate = 0.1\n", "train.learning_rate"),
            ("[model]\npath = \"net.onnx\"\n", "onnx"),
            ("path = \"a.csv\"\n", "source"),
            ("[train]\naggregate = \"mean\"\n", "aggregate-mean"),
            ("[train]\naggregate = \"krum\"\n", "aggregate-multi-krum"),
        ] {
            refuses(addition, &format!("did you mean `{own}`?"));
        }
    }

    #[test]
    fn a_key_of_another_optimizer_is_refused_with_those_that_this_one_has() {
        refuses(
            "[train]\noptimizer = { name = \"sgd\", momentum = 0.9 }\n",
            "`train.optimizer` with the name `sgd`: unknown field `momentum`, expected one of `name`, `weight_decay`; \
             optimizers that have it: `momentum`, `nesterov`",
        );
        refuses(
            "[train]\noptimizer = { betas = [0.9, 0.99], name = \"adam\" }\n",
            "`train.optimizer` with the name `adam`: unknown field `betas`, expected one of `name`, `beta1`, `beta2`, \
             `epsilon`, `weight_decay`; did you mean `beta1`?",
        );
        refuses("[train]\noptimizer = { name = \"adam\", eps = 1e-8 }\n", "did you mean `epsilon`?");
    }

    #[test]
    fn a_name_that_resembles_none_gets_the_list_of_those_known() {
        let error = |addition: &str| {
            let parsed = Manifest::parse(&format!("{MINIMAL}{addition}"), Path::new("skein.toml"));
            parsed.expect_err("an unknown name").to_string()
        };
        let unknown = error("[train]\nfoo_bar = 3\n");
        assert!(
            unknown.contains("unknown field `foo_bar`, expected one of `peers`, `byzantine`, `crashed`, "),
            "{unknown}"
        );
        assert!(!unknown.contains("did you mean"), "{unknown}");
        let unknown = error("[train]\naggregate = \"mine\"\n[function.own]\nsource = \"own.wasm\"\n");
        let expected =
            "names function `mine`, which does not exist; choose one of `own`, `gradient-onnx`, `gradient-mlp`, ";
        assert!(unknown.contains(expected), "{unknown}");
    }

    #[test]
    fn invalid_values_are_refused_with_their_key() {
        refuses("[train]\npeers = 0\n", "`train.peers`");
        refuses("[train]\nbatch_size = 0\n", "`train.batch_size`");
        refuses("[train]\nbatches_per_round = 0\n", "`train.batches_per_round`");
        refuses("[train]\nrounds = 0\n", "`train.rounds`");
        refuses("[train]\nfaults = 1\n", "did you mean `byzantine` or `crashed`?");
        refuses(
            "[train]\nbyzantine = 2\n",
            "`train.byzantine` is 2 and `train.crashed` 0, which needs at least 7 peers, and `train.peers` is 4: add peers, or \
             tolerate fewer: 4 peers tolerate at most `byzantine = 1`, or `crashed = 1`",
        );
        refuses(
            "[train]\nbyzantine = 1\ncrashed = 1\n",
            "`train.byzantine` is 1 and `train.crashed` 1, which needs at least 6",
        );
        refuses("[train]\ncrashed = 2\n", "`train.crashed` is 2 and `train.byzantine` 0, which needs at least 5 peers");
        refuses("[train]\nbyzantine = 4294967295\n", "`train.byzantine` is 4294967295 and ");
        refuses("[train]\nlearning_rate = -1.0\n", "`train.learning_rate`");
        refuses("[train]\nlearning_rate = nan\n", "`train.learning_rate`");
        refuses("[train]\nlearning_rate = 1e39\n", "`train.learning_rate`");
        refuses("[train]\nlearning_rate = 1e-60\n", "`train.learning_rate`");
        refuses(
            "[train.optimizer]\nname = \"adam\"\nbeta2 = 1.0\n",
            "`train.optimizer`: `beta2` of `adam` must be a number from 0 to below 1, got `1`",
        );
        refuses(
            "[train.optimizer]\nname = \"sgd\"\nweight_decay = -1\n",
            "`weight_decay` of `sgd` must be a number from 0 up, got `-1`",
        );
        refuses(
            "[train.optimizer]\nmomentum = 0.5\n",
            "`train.optimizer`: missing field `name`, one of `sgd`, `momentum`, ",
        );
        refuses(
            "[train]\noptimizer = \"Adam\"\n",
            "expected a table for `train.optimizer`: write `optimizer = { name = \"adam\" }`",
        );
        refuses(
            "[train]\noptimizer = \"lion\"\n",
            "write `optimizer = { name = \"sgd|momentum|nesterov|adam|adamw\" }`",
        );
        refuses("[model]\nloss = \"hinge\"\n", "there is no loss `hinge`: choose `cross-entropy`");
        refuses("[train]\naggregate = \"agregate-median\"\n", "did you mean `aggregate-median`?");
        refuses(
            "[train]\nwait = { silent = \"100ms\" }\n",
            "`train.wait.silent` must be at least 750ms, which is three beats, got 100ms",
        );
        refuses("[train]\nwait = { min = \"2s\", max = \"1s\" }\n", "`train.wait`");
        refuses("[train]\nclip_norm = 0.0\n", "`train.clip_norm`");
        refuses("[model]\nhidden = [0]\n", "`model.hidden`");
        refuses("validation = 1.0\n", "`data.validation`");
        refuses("scale = 0.0\n", "`data.scale`");
        refuses("[train]\npeers = \"four\"\n", "invalid type");
        let long = "s".repeat(257);
        refuses(
            &format!("[function.f]\nsource = \"f.wasm\"\nsettings = {{ {long} = \"1\" }}\n"),
            "`function.f.settings` may have at most 256 bytes in a name, `ssssssssssssssss...` has 257",
        );
    }

    /// A job's identity is computed from this text.
    #[test]
    fn optimizers_and_losses_are_written_as_they_are_read() {
        for kind in OPTIMIZERS {
            let train = Train { optimizer: Optimizer::new(kind), ..Train::default() };
            let text = toml::to_string(&train).expect("it can be written");
            assert_eq!(toml::from_str::<Train>(&text).expect("it can be read"), train, "{text}");
        }
        for (name, loss) in LOSSES {
            let model = Model { loss, ..Model::default() };
            let text = toml::to_string(&model).expect("it can be written");
            assert!(text.contains(&format!("loss = \"{name}\"")), "{text}");
            assert_eq!(toml::from_str::<Model>(&text).expect("it can be read"), model);
        }
        let train = serde_json::to_value(Train::default()).expect("it can be written");
        let momentum = serde_json::json!({ "name": "momentum", "momentum": 0.9f32, "weight_decay": 0.0 });
        assert_eq!(train["optimizer"], momentum);
        assert_eq!(train["wait"], serde_json::json!({ "min": "1s", "max": "10m", "silent": "750ms" }));
    }

    #[test]
    fn the_first_table_is_needed() {
        let parse = |text: &str| Manifest::parse(text, Path::new("skein.toml")).expect_err(text).to_string();
        assert!(parse("").contains("skein_manifest_version"));
        assert!(parse(&MINIMAL.replace("= 1", "= 2")).contains("must be 1, got 2"));
        assert!(parse(&MINIMAL.replace("\"a\"", "\"A b\"")).contains("`application.name`"));
    }
}
