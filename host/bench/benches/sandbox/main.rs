//! Benchmarks of the sandbox: what hostile and busy functions cost the others. Prints one JSON object.
//!
//! Run by `cargo xtask sandbox-bench`, which passes `--model FILE` for calls that run out of time inside an engine, and
//! `--component FILE` for components that are taken from the cache.

mod ready;
mod spinning;
mod stopped;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use skein_peer::pool::KEEP_ALIVE;

#[derive(Default)]
struct Arguments {
    /// A model in ONNX, for samples of 3 × 32 × 32.
    model: Option<PathBuf>,
    components: Vec<PathBuf>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Arguments> {
        let mut parsed = Arguments::default();
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().map(PathBuf::from).context("an option without its value");
            match name.to_str() {
                Some("--bench") => {}
                Some("--model") => parsed.model = Some(value()?),
                Some("--component") => parsed.components.push(value()?),
                _ => bail!("unknown option {name:?}"),
            }
        }
        Ok(parsed)
    }
}

fn main() -> Result<()> {
    // `cargo test` starts benchmarks too, with nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let arguments = Arguments::parse(std::env::args_os().skip(1))?;
    let mut figures = Map::new();
    figures.insert("processors".into(), std::thread::available_parallelism()?.get().into());
    figures.insert("p99_of_short_calls_ms".into(), spinning::measure()?);
    if !arguments.components.is_empty() {
        let components: Result<Vec<Value>> = arguments.components.iter().map(|file| ready::measure(file)).collect();
        figures.insert("cached_components".into(), components?.into());
    }
    if let Some(model) = &arguments.model {
        figures.insert("stopped_calls".into(), stopped::measure(model)?);
    }
    println!("{}", Value::Object(figures));
    Ok(())
}

/// Threads as a host has for functions.
fn threads(concurrency: usize) -> Result<tokio::runtime::Runtime> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    Ok(threads.worker_threads(concurrency).thread_keep_alive(KEEP_ALIVE).enable_all().build()?)
}
