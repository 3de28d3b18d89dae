//! Runs every benchmark and prints its figures as one table or one JSON object.
//!
//! A figure is a ratio of two measurements of one run, or a share of one run. A missed goal does not fail the command,
//! because machines are noisy.

mod against;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::{cargo, program};

/// How the figures are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One line per figure.
    Text,
    /// One JSON object with all figures.
    Json,
}

/// Arguments for Cargo to run the runtime's own benchmark, compiled like the product.
const RUNTIME_BENCH: [&str; 6] = ["bench", "--quiet", "--profile", "release", "--bench", "figures"];

/// Goals of figures: name, bound, and whether it is an upper bound.
const GOALS: [(&str, f64, bool); 5] = [
    ("warm_call_us", 25.0, true),
    ("warm_call_ratio", 1.5, true),
    ("trimmed_mean_ratio", 2.0, true),
    ("parallel_speedup", 1.8, false),
    ("round_rest_share", 0.10, true),
];

/// A job of four peers and 1.5 million parameters.
const JOB: &str = r#"
skein_manifest_version = 1
[application]
name = "bench"
[model]
hidden = [1200, 1180]
[data]
source = "builtin:digits"
validation = 0.0
[train]
peers = 4
byzantine = 1
rounds = 12
batch_size = 32
batches_per_round = 2
learning_rate = 0.01
"#;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Compare with another checkout, for example of the previous commit: both run alternately.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(crate) fn run(root: &Path, options: &Bench) -> Result<()> {
    if let Some(before) = &options.against {
        return against::run(root, before, options.output);
    }
    build(root)?;
    let figures = measure(root)?;
    match options.output {
        Format::Json => println!("{}", Value::Object(figures)),
        Format::Text => print_text(&figures),
    }
    Ok(())
}

/// Builds the programs to measure in a checkout.
pub(crate) fn build(root: &Path) -> Result<()> {
    output(cargo().args(["build", "--quiet", "--release"]).current_dir(root))?;
    output(cargo().args(RUNTIME_BENCH).arg("--no-run").current_dir(root)).map(drop)
}

/// Measures a built checkout.
pub(crate) fn measure(root: &Path) -> Result<Map<String, Value>> {
    let mut figures = runtime_figures(root)?;
    figures.extend(round_figures(root)?);
    Ok(figures)
}

pub(crate) fn print_text(figures: &Map<String, Value>) {
    for (name, value) in figures {
        let number = value.as_f64().unwrap_or(f64::NAN);
        let goal = GOALS.iter().find(|(goal, ..)| goal == name);
        let verdict = goal.map_or_else(String::new, |(_, bound, is_upper)| {
            let (relation, reached) = if *is_upper { ("<=", number <= *bound) } else { (">=", number >= *bound) };
            format!("  goal {relation} {bound}: {}", if reached { "reached" } else { "missed" })
        });
        println!("{name:<28} {number:>12.3}{verdict}");
    }
}

/// Figures of the runtime's own benchmark.
pub(crate) fn runtime_figures(root: &Path) -> Result<Map<String, Value>> {
    let text = output(cargo().args(RUNTIME_BENCH).current_dir(root))?;
    serde_json::from_str(&text).with_context(|| format!("the benchmark printed `{text}`"))
}

/// Figures of how whole rounds spend their time.
///
/// `round_rest_share` is the share of the wall time in which no function ran. `round_rest_core_share` is stricter:
/// the share of all cores' time that was not spent in functions, waiting included.
fn round_figures(root: &Path) -> Result<Map<String, Value>> {
    let dir = tempfile::tempdir()?;
    let manifest = dir.path().join("skein.toml");
    std::fs::write(&manifest, JOB)?;
    let concurrency = std::thread::available_parallelism()?.get();
    let mut train = Command::new(program(root)?);
    train.args(["train", "--quiet", "--output", "json", "--concurrency", &concurrency.to_string(), "--from"]);
    let summary: Value = serde_json::from_str(&output(train.arg(&manifest))?)?;
    let figure = |name: &str| summary[name].as_f64().with_context(|| format!("the summary has no `{name}`"));
    let phases = summary["phase_ms"].as_object().context("the summary has no `phase_ms`")?;
    let phases: f64 = phases.values().filter_map(Value::as_f64).sum();
    let busy = figure("busy_ms")?;
    let functions = figure("function_ms")?;
    let mut figures = Map::new();
    figures.insert("round_parameters".into(), summary["parameters"].clone());
    figures.insert("round_ms".into(), json!(phases / figure("rounds_run")?));
    figures.insert("round_rest_share".into(), json!(1.0 - busy / phases));
    figures.insert("round_rest_core_share".into(), json!(1.0 - functions / (phases * concurrency as f64)));
    Ok(figures)
}

/// Runs a command that must succeed, and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
