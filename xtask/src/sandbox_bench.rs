//! Measures what the sandbox costs, and what hostile and busy functions cost the others.
//!
//! On a machine with more than two processors, run it under `taskset --cpu-list 0,1`: the figures are of two.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::bench::{Format, output, print_text, runtime_figures};
use crate::{cargo, program};

/// Arguments for Cargo to run the benchmark of the sandbox, compiled like the product.
const BENCH: [&str; 6] = ["bench", "--quiet", "--profile", "release", "--bench", "sandbox"];
/// Gradients of each engine and model in each checkout, in turn.
const PAIRS: usize = 5;

/// Arguments of `cargo xtask sandbox-bench`.
#[derive(clap::Args)]
pub(crate) struct SandboxBench {
    /// Component that is loaded out of the cache, such as one of Python or JavaScript; may be repeated
    #[arg(long, value_name = "FILE")]
    component: Vec<PathBuf>,
    /// Model whose gradients are compared with those of another checkout; may be repeated
    #[arg(long, value_name = "FILE", requires = "against")]
    model: Vec<PathBuf>,
    /// Program of another checkout, such as the previous commit, for the gradients
    #[arg(long, value_name = "FILE", requires = "model")]
    against: Option<PathBuf>,
    /// Number of samples of a batch of those gradients
    #[arg(long, default_value_t = 16)]
    batch: u32,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(crate) fn run(root: &Path, options: &SandboxBench) -> Result<()> {
    let mut figures = runtime_figures(root)?;
    figures.extend(sandbox_figures(root, options)?);
    if let Some(before) = &options.against {
        output(cargo().args(["build", "--quiet", "--release"]).current_dir(root))?;
        let programs = [before.clone(), program(root)?];
        figures.insert("gradients".into(), gradients(&programs, options)?);
    }
    match options.output {
        Format::Json => println!("{}", Value::Object(figures)),
        Format::Text => {
            let (numbers, others): (Map<_, _>, Map<_, _>) =
                figures.into_iter().partition(|(_, value)| value.is_number());
            print_text(&numbers);
            others.iter().for_each(|(name, value)| println!("{name}: {value:#}"));
        }
    }
    Ok(())
}

fn sandbox_figures(root: &Path, options: &SandboxBench) -> Result<Map<String, Value>> {
    let mut command = cargo();
    command.args(BENCH).arg("--").arg("--model").arg(root.join("tests/data/models/resnet.plain.onnx"));
    for component in &options.component {
        // Cargo runs benchmarks in the folder of their package.
        command.arg("--component").arg(std::path::absolute(component)?);
    }
    let text = output(command.current_dir(root))?;
    serde_json::from_str(&text).with_context(|| format!("the benchmark printed `{text}`"))
}

/// Times of gradients before and after, in milliseconds, for each model and engine.
fn gradients(programs: &[PathBuf; 2], options: &SandboxBench) -> Result<Value> {
    let engines = crate::gradients::ready_engines(&programs[1])?;
    let mut all = Vec::new();
    for model in &options.model {
        for engine in &engines {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..PAIRS {
                for (program, times) in programs.iter().zip(&mut times) {
                    times.push(gradient(program, model, engine, options.batch)?);
                }
            }
            let mut ratios: Vec<f64> = times[0].iter().zip(&times[1]).map(|(before, after)| after / before).collect();
            ratios.sort_by(f64::total_cmp);
            all.push(json!({
                "model": model.file_stem().map(|name| name.display().to_string()),
                "engine": engine,
                "batch": options.batch,
                "before_ms": times[0],
                "after_ms": times[1],
                "ratio": ratios[PAIRS / 2],
                "ratio_of_pairs": ratios,
            }));
        }
    }
    Ok(all.into())
}

/// The shortest time of a gradient, in milliseconds.
fn gradient(program: &Path, model: &Path, engine: &str, batch: u32) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(["bench", "gradient", "--calls", "5", "--concurrency", "1", "--engine", engine, "-o", "json"]);
    command.arg("--model").arg(model).arg("--batch").arg(batch.to_string());
    let text = output(&mut command)?;
    let figures: Value = serde_json::from_str(&text)?;
    figures["min_ms"].as_f64().with_context(|| format!("`skein bench gradient` printed `{text}`"))
}
