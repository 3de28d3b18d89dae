//! A job on the command line: a manifest, and options that replace values in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use skein_job::Manifest;
use skein_job::manifest::model::Network;
use skein_job::manifest::{Override, quoted};

/// Keys of `[model]` that a model of the command line keeps: those that apply to any.
const KEPT: &[&str] = &["loss", "dropout"];
/// The same for a perceptron.
const KEPT_BY_MLP: &[&str] = &["loss", "dropout", "hidden"];

/// A job: a manifest, and options that override it.
#[derive(clap::Args)]
pub(super) struct JobArguments {
    /// The job's manifest, a TOML file
    #[arg(short, long, value_name = "FILE", default_value = "skein.toml")]
    from: PathBuf,
    #[command(flatten)]
    set: Set,
    /// Peers that train together, instead of `train.peers`
    #[arg(long)]
    peers: Option<u32>,
    /// Seed of all random numbers, instead of `train.seed`
    #[arg(long, value_parser = whole())]
    seed: Option<u64>,
    /// Rounds, instead of `train.rounds`
    #[arg(long, value_parser = whole())]
    rounds: Option<u64>,
    /// `convnet`, `mlp` or an ONNX file, instead of `[model]`
    #[arg(long, value_name = "MODEL")]
    model: Option<ModelArgument>,
}

/// Values that replace those of a manifest.
#[derive(clap::Args)]
pub(super) struct Set {
    /// A value in place of the manifest's, such as `train.learning_rate=0.05`; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) values: Vec<Override>,
}

/// Numbers that TOML can hold.
fn whole() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=i64::MAX.unsigned_abs())
}

/// A model on the command line.
#[derive(Debug, Clone)]
pub(super) enum ModelArgument {
    Network(Network),
    File(PathBuf),
}

impl std::str::FromStr for ModelArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<ModelArgument, String> {
        if let Some(network) = Network::named(text) {
            return Ok(ModelArgument::Network(network));
        }
        if text.ends_with(".onnx") {
            Ok(ModelArgument::File(text.into()))
        } else {
            Err("expected `convnet`, `mlp` or a file that ends in `.onnx`".into())
        }
    }
}

impl ModelArgument {
    /// Replaces the model of the manifest `from`, but keeps its loss, dropout and hidden units if they apply.
    fn overrides(&self, from: &Path) -> Result<Override> {
        let set = |key: &str, value: &str| Override::new(["model", key], value, format!("--model {value}"));
        Ok(match self {
            ModelArgument::Network(Network::Mlp) => set("network", "mlp").keeping(KEPT_BY_MLP),
            ModelArgument::Network(Network::Convnet) => set("network", "convnet").keeping(KEPT),
            ModelArgument::File(path) => file_as_model(path, from, "--model ")?,
        })
    }
}

/// Replaces the model of the manifest `from` by an ONNX file, which stands after `option` on the command line. Paths in a
/// manifest are relative to its folder, those of the command line are not.
pub(super) fn file_as_model(file: &Path, from: &Path, option: &str) -> Result<Override> {
    // Later errors name the key of the manifest, which this file replaces.
    std::fs::metadata(file).with_context(|| format!("failed to read the model `{}`", file.display()))?;
    let is_beside = from.parent() == Some(Path::new(""));
    let path = if is_beside { file.to_owned() } else { std::path::absolute(file)? };
    let path = path.to_string_lossy().into_owned();
    Ok(Override::new(["model", "onnx"], path, format!("{option}{}", file.display())).keeping(KEPT))
}

impl JobArguments {
    /// The manifest with absolute paths.
    pub(super) fn manifest_in_place(&self) -> Result<Manifest> {
        self.load(&std::path::absolute(&self.from)?)
    }

    pub(super) fn manifest(&self) -> Result<Manifest> {
        self.load(&self.from)
    }

    fn load(&self, from: &Path) -> Result<Manifest> {
        let number = |key: &str, value: Option<u64>| {
            let value = i64::try_from(value?).expect("clap checks the range");
            Some(Override::new(["train", key], value, format!("--{key} {value}")))
        };
        let model = self.model.as_ref().map(|model| model.overrides(from)).transpose()?;
        let numbers = [("peers", self.peers.map(u64::from)), ("seed", self.seed), ("rounds", self.rounds)];
        let numbers = numbers.into_iter().filter_map(|(key, value)| number(key, value));
        let overrides: Vec<_> = model.into_iter().chain(numbers).chain(self.set.values.clone()).collect();
        Ok(Manifest::load_with(from, &overrides)?)
    }

    /// The options that were given, for a hint that repeats the command.
    pub(super) fn repeated(&self) -> String {
        let JobArguments { from, set, peers, seed, rounds, model } = self;
        let from = (from != Path::new("skein.toml")).then(|| from.display().to_string());
        let model = model.as_ref().map(|model| match model {
            ModelArgument::Network(Network::Mlp) => "mlp".to_owned(),
            ModelArgument::Network(Network::Convnet) => "convnet".to_owned(),
            ModelArgument::File(path) => path.display().to_string(),
        });
        let options = [
            ("--from", from),
            ("--peers", peers.map(|peers| peers.to_string())),
            ("--seed", seed.map(|seed| seed.to_string())),
            ("--rounds", rounds.map(|rounds| rounds.to_string())),
            ("--model", model),
        ];
        let options = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let sets = set.values.iter().map(|set| ("--set", set.to_string()));
        options.chain(sets).map(|(name, value)| format!(" {name} {}", quoted(&value))).collect()
    }
}
