//! `skein function`: whether a host accepts a function, and what it costs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skein_job::manifest;
use skein_peer::prepare::compiling;
use skein_runtime::{Checked, Function as Loadable, Import, Limits, LoadError, Options, Origin, PoolShare, Runtime};
use skein_types::Status;

use super::compute::{CacheChoice, runtime_options};
use crate::output::Output;

/// Arguments of `skein function`.
#[derive(clap::Subcommand)]
pub(super) enum Function {
    /// Check that a host accepts a component, and print its world, its imports and what it costs
    Check(Check),
}

/// Arguments of `skein function check`.
#[derive(clap::Args)]
pub(super) struct Check {
    /// A component's file, or `builtin:` and the name of a function that comes with the program
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// Memory in MiB that a call may take, as `memory_mib` in the limits of a manifest
    #[arg(long, value_name = "N", default_value_t = Limits::default().memory_mib)]
    memory_mib: u32,
    /// Compile it even if it was compiled before, and do not keep the result
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    cache: CacheChoice,
}

impl Function {
    pub(super) async fn run(self, output: &mut Output) -> Result<()> {
        let Function::Check(check) = self;
        let runtime =
            if check.no_cache { Runtime::start(runtime_options(1))? } else { check.cache.start(runtime_options(1))? };
        let bytes = match check.read() {
            Err(error) => {
                output.before_error(String::new, || json!({ "file": check.name(), "accepted": false }))?;
                return Err(error);
            }
            Ok(bytes) => bytes,
        };
        let status = Status::default();
        let busy = compiling(&status, &check.name(), bytes.len());
        let limits = Limits { memory_mib: check.memory_mib, ..Limits::default() };
        let function = Loadable { name: check.name(), limits, ..Loadable::default() };
        let mut checked = output.during(&status, runtime.check_function(function, &bytes)).await;
        drop(busy);
        match checked.refusal.take() {
            None => Ok(output.result(|| check.text(&checked, true), || check.json(&checked, true))?),
            Some(refusal) => {
                output.before_error(|| check.text(&checked, false), || check.json(&checked, false))?;
                Err(refusal.into())
            }
        }
    }
}

impl Check {
    fn name(&self) -> String {
        self.source.display().to_string()
    }

    /// Reads the component; never more of a file than a host accepts.
    fn read(&self) -> Result<Vec<u8>> {
        let function = manifest::Function::at(self.source.clone());
        let failed = || format!("failed to read `{}`", self.name());
        let Some(file) = function.file() else { return function.read().with_context(failed) };
        let bytes_max = Options::default().component_bytes_max;
        let read = read_at_most(file, bytes_max).with_context(failed)?;
        Ok(read.map_err(|bytes| LoadError::TooLarge { function: self.name(), bytes, bytes_max })?)
    }

    fn text(&self, checked: &Checked, accepted: bool) -> String {
        let mut rows = vec![("function", self.name())];
        let mut row = |name, value| rows.push((name, value));
        if let Some(world) = checked.world {
            row("world", format!("{world} of {}", world.package()));
        }
        row("size", format!("{} bytes of at most {}", checked.bytes, checked.bytes_max));
        row("digest", checked.digest.clone());
        checked.imports.iter().flatten().for_each(|import| row("import", described(import)));
        checked.exports.iter().flatten().for_each(|export| row("export", export.clone()));
        if let Some(loaded) = &checked.loaded {
            let how = match loaded.origin {
                Origin::Compiled => "compiled in",
                Origin::Cached => "compiled before, loaded in",
            };
            row("code", format!("{how} {:.1} ms", ms(loaded.load_duration)));
        }
        if let Some(usage) = checked.empty_call {
            let mib = usage.memory_bytes_peak as f64 / f64::from(1 << 20);
            row("empty call", format!("{mib:.1} MiB of at most {}, {:.1} ms", self.memory_mib, ms(usage.duration)));
        }
        if let Some(PoolShare { core_instances, memories, tables }) = checked.pool {
            let max = PoolShare::MAX;
            row("instances", format!("{core_instances} of at most {}", max.core_instances));
            row("memories", format!("{memories} of at most {}", max.memories));
            row("tables", format!("{tables} of at most {}", max.tables));
        }
        rows.push(("accepted", if accepted { "yes" } else { "no" }.to_owned()));
        rows.iter().map(|(name, value)| format!("{name:<10}  {value}\n")).collect()
    }

    fn json(&self, checked: &Checked, accepted: bool) -> Value {
        let import = |Import { name, provided, reservation }: &Import| json!({ "name": name, "provided": provided, "reservation": reservation });
        let imports = checked.imports.as_ref().map(|imports| imports.iter().map(import).collect::<Vec<_>>());
        let loaded = checked.loaded.as_ref();
        let share = |PoolShare { core_instances, memories, tables }| json!({ "core_instances": core_instances, "memories": memories, "tables": tables });
        json!({
            "file": self.name(),
            "accepted": accepted,
            "world": checked.world.map(|world| world.to_string()),
            "package": checked.world.map(|world| world.package()),
            "bytes": checked.bytes,
            "bytes_max": checked.bytes_max,
            "digest": checked.digest,
            "imports": imports,
            "exports": checked.exports,
            "cached": loaded.map(|loaded| loaded.origin == Origin::Cached),
            "load_ms": loaded.map(|loaded| ms(loaded.load_duration)),
            "memory_bytes_peak": checked.empty_call.map(|usage| usage.memory_bytes_peak),
            "memory_mib_max": self.memory_mib,
            "empty_call_ms": checked.empty_call.map(|usage| ms(usage.duration)),
            "pool": checked.pool.map(share),
            "pool_max": share(PoolShare::MAX),
        })
    }
}

fn described(Import { name, provided, reservation }: &Import) -> String {
    match reservation {
        _ if !provided => format!("{name}  refused"),
        Some(reservation) => format!("{name}  provided: {reservation}"),
        None => format!("{name}  provided"),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Reads a file of at most `bytes_max` bytes; of a larger one, returns its size.
fn read_at_most(path: &Path, bytes_max: usize) -> std::io::Result<Result<Vec<u8>, usize>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() <= bytes_max {
        return Ok(Ok(bytes));
    }
    // The size of a pipe is not known.
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    Ok(Err(size.max(bytes.len())))
}
