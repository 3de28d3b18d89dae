//! How long a component takes from its digest until it can be called, if an earlier start had compiled it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skein_peer::pool::ms;
use skein_runtime::{Function, FunctionInfo, Options, Origin, Runtime};

const STARTS: usize = 15;

pub(crate) fn measure(component: &Path) -> Result<Value> {
    let bytes = std::fs::read(component).with_context(|| format!("failed to read `{}`", component.display()))?;
    let cache = tempfile::tempdir()?;
    let load = || load(&bytes, cache.path());
    let first = load()?;
    ensure!(first.origin == Origin::Compiled, "the cache is new");
    let mut ready = Vec::with_capacity(STARTS);
    let mut authentication = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let info = load()?;
        ensure!(info.origin == Origin::Cached, "the first start compiled it");
        ready.push(info.load_duration - info.hashing);
        authentication.push(info.authentication);
    }
    let artifact = artifact_bytes(cache.path())?;
    Ok(json!({
        "file": component.file_name().map(|name| name.display().to_string()),
        "component_mb": bytes.len() as f64 / 1e6,
        "artifact_mb": artifact as f64 / 1e6,
        "compile_ms": ms(first.load_duration),
        "ready_ms": median(ready),
        "authentication_ms": median(authentication),
    }))
}

/// Loads a component of either world into a new runtime.
fn load(bytes: &[u8], cache: &Path) -> Result<FunctionInfo> {
    let options = Options { concurrency: 2, cache_dir: Some(cache.to_owned()), ..Options::default() };
    crate::threads(2)?.block_on(async {
        let runtime = Runtime::start(options)?;
        match runtime.gradient_function(Function::default(), bytes).await {
            Ok(function) => Ok(function.info().clone()),
            Err(_) => Ok(runtime.aggregate_function(Function::default(), bytes).await?.info().clone()),
        }
    })
}

fn artifact_bytes(cache: &Path) -> Result<u64> {
    let sizes = std::fs::read_dir(cache)?.map(|entry| Ok(entry?.metadata()?.len()));
    Ok(sizes.collect::<Result<Vec<u64>>>()?.into_iter().max().unwrap_or_default())
}

fn median(mut durations: Vec<Duration>) -> f64 {
    durations.sort();
    ms(durations[durations.len() / 2])
}
