//! Trains the examples of `runtime-config` on real data, and compares the accuracy on test samples with a bound.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::bench::{Format, output};
use crate::{cargo, program};

/// Arguments of `cargo xtask accuracy`.
#[derive(clap::Args)]
pub(crate) struct Accuracy {
    /// A folder with the folders `mnist` and `cifar10`, in which the files have their original formats.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The ONNX model to train on CIFAR-10, for example a ResNet-18; without it, only MNIST is trained.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Lowest accuracy of a perceptron on MNIST: other seeds and engines reach a little more.
const MNIST_MIN: f64 = 0.95;
/// Lowest accuracy of a ResNet-18 on CIFAR-10 after the example's 400 rounds; it reaches 0.49 from its initial values.
const CIFAR10_MIN: f64 = 0.4;

/// One example to train.
struct Example {
    name: &'static str,
    model: Option<PathBuf>,
    accuracy_min: f64,
}

pub(crate) fn run(root: &Path, options: &Accuracy) -> Result<()> {
    output(cargo().args(["build", "--quiet", "--release"]).current_dir(root))?;
    let mut examples = vec![Example { name: "mnist", model: None, accuracy_min: MNIST_MIN }];
    if let Some(model) = &options.model {
        let model = model.canonicalize().with_context(|| format!("failed to find the model `{}`", model.display()))?;
        examples.push(Example { name: "cifar10", model: Some(model), accuracy_min: CIFAR10_MIN });
    }
    let mut figures = Map::new();
    let mut failed = Vec::new();
    for Example { name, model, accuracy_min } in examples {
        let accuracy = train(root, &options.data.join(name), name, model.as_deref())?;
        if accuracy < accuracy_min {
            failed.push(format!("{name} has {accuracy:.4}, expected at least {accuracy_min}"));
        }
        if options.output == Format::Text {
            println!("{name:<8} {accuracy:.4}  at least {accuracy_min}");
        }
        figures.insert(name.to_owned(), json!({ "test_accuracy": accuracy, "test_accuracy_min": accuracy_min }));
    }
    if options.output == Format::Json {
        println!("{}", Value::Object(figures));
    }
    if !failed.is_empty() {
        bail!("the accuracy is too low: {}", failed.join("; "));
    }
    Ok(())
}

/// Trains `runtime-config/NAME.toml` on the data in a folder, and returns the accuracy on its test samples.
fn train(root: &Path, data: &Path, name: &str, model: Option<&Path>) -> Result<f64> {
    let data = data.canonicalize().with_context(|| format!("failed to find the data `{}`", data.display()))?;
    let dir = tempfile::tempdir()?;
    // The manifest expects its data in the folder of that name beside it.
    std::os::unix::fs::symlink(&data, dir.path().join(name))?;
    let manifest = dir.path().join("skein.toml");
    let example = root.join("runtime-config").join(format!("{name}.toml"));
    std::fs::copy(&example, &manifest).with_context(|| format!("failed to copy `{}`", example.display()))?;
    let mut command = Command::new(program(root)?);
    command.args(["train", "--output", "json", "--from"]).arg(&manifest);
    // It takes minutes, which a person watches and a log does not.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command.args(model.iter().flat_map(|model| [Path::new("--model"), *model]));
    let summary: Value = serde_json::from_str(&output(&mut command)?)?;
    let accuracy = summary["test_accuracy"].as_f64().context("the summary has no `test_accuracy`")?;
    ensure!(accuracy.is_finite(), "`test_accuracy` is {accuracy}");
    Ok(accuracy)
}
