//! Options of commands that compute, and the runtime, threads and engine that they set up.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ValueEnum;
use skein_engine::Kind;
use skein_peer::ceilings::Ceilings;
use skein_peer::engines::EngineConfig;
use skein_peer::pool::FunctionPool;
use skein_peer::prepare::Tools;
use skein_runtime::{Compiler, Options, Runtime, StartError};
use skein_types::Status;

use super::COMPILE;

/// A command that computes, with the options of all such commands.
#[derive(clap::Args)]
pub(super) struct Computing<C: clap::Args> {
    #[command(flatten)]
    pub(super) command: C,
    #[command(flatten)]
    pub(super) options: ComputeOptions,
}

/// Options of commands that run functions and graphs.
#[derive(clap::Args)]
#[command(next_help_heading = "Computing")]
pub(super) struct ComputeOptions {
    /// Functions that run at the same time; 1 computes one batch after the other [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
    #[command(flatten)]
    engine: EngineChoice,
    /// Threads of the engine for one batch; the bits of a gradient may depend on it [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    engine_threads: Option<u16>,
    /// Device that computes graphs: `cpu` or `cuda`
    #[arg(long, value_name = "NAME", value_enum, default_value = "cpu")]
    device: Device,
    #[command(flatten)]
    cache: CacheChoice,
    /// Memory in MiB that functions, engines and the compiler may take together, from a host's configuration.
    #[arg(skip)]
    pub(super) memory_mib: Option<u32>,
}

/// Where compiled functions are kept.
#[derive(clap::Args)]
pub(super) struct CacheChoice {
    /// Folder for compiled functions [default: `skein` in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "SKEIN_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

impl CacheChoice {
    /// Starts the runtime with this cache.
    pub(super) fn start(&self, options: Options) -> Result<Runtime> {
        let cache_dir = self.cache_dir.clone().or_else(user_cache_dir);
        match Runtime::start(Options { cache_dir, ..options.clone() }) {
            // Without a writable home, functions are compiled at every start; a requested folder must work.
            Err(error @ StartError::Cache { .. }) if self.cache_dir.is_none() => {
                let error = anyhow::Error::from(error);
                tracing::warn!(error = format!("{error:#}"), "compiled functions are not kept");
                Ok(Runtime::start(options)?)
            }
            started => Ok(started?),
        }
    }
}

/// Options of a runtime for so many calls at a time, which compiles in a child process and keeps nothing.
pub(super) fn runtime_options(concurrency: usize) -> Options {
    // The file that runs, even if another version has taken its place by now.
    let program = PathBuf::from("/proc/self/exe");
    Options { concurrency, compiler: Compiler::Child { program, argument: COMPILE }, ..Options::default() }
}

/// The engine that computes graphs.
#[derive(clap::Args)]
pub(super) struct EngineChoice {
    /// Engine that computes graphs: `onnxruntime`, `openvino` or `rten` [default: the first one installed]
    #[arg(long, value_name = "NAME", env = "SKEIN_ENGINE")]
    engine: Option<Kind>,
    /// The engine's library, or the folder that it is in [default: where `skein engine install` puts it]
    #[arg(long, value_name = "PATH", requires = "engine")]
    engine_library: Option<PathBuf>,
}

impl EngineChoice {
    pub(super) fn config(&self) -> EngineConfig {
        EngineConfig { kind: self.engine, library: self.engine_library.clone(), ..EngineConfig::automatic() }
    }
}

/// Device that computes graphs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    /// The processor, which every engine supports.
    Cpu,
    /// The first NVIDIA GPU, through ONNX Runtime.
    Cuda,
}

impl ComputeOptions {
    fn concurrency(&self) -> usize {
        self.concurrency.map_or_else(|| Options::default().concurrency, usize::from)
    }

    /// The same options as arguments for a child process.
    pub(super) fn passed_on(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let mut pass = |name: &str, value: Option<OsString>| {
            arguments.extend(value.into_iter().flat_map(|value| [name.into(), value]));
        };
        let number = |number: Option<u16>| number.map(|number| number.to_string().into());
        pass("--concurrency", number(self.concurrency));
        pass("--engine", self.engine.engine.map(|kind| kind.name().into()));
        pass("--engine-library", self.engine.engine_library.as_ref().map(Into::into));
        pass("--engine-threads", number(self.engine_threads));
        pass("--device", self.device.to_possible_value().map(|value| value.get_name().into()));
        pass("--cache-dir", self.cache.cache_dir.as_ref().map(Into::into));
        arguments
    }

    fn engine(&self) -> EngineConfig {
        let device = match self.device {
            Device::Cpu => skein_engine::Device::Cpu,
            Device::Cuda => skein_engine::Device::Cuda,
        };
        let config = self.engine.config();
        let threads = self.engine_threads.map_or(config.options.threads, usize::from);
        EngineConfig { options: skein_engine::Options { threads, device }, ..config }
    }
}

/// Runtime, threads and engine for commands that run functions.
pub(super) struct Host {
    pub(super) runtime: Runtime,
    pub(super) pool: Arc<FunctionPool>,
    pub(super) engine: EngineConfig,
    /// What the command is doing before its first function runs.
    pub(super) status: Status,
}

impl Host {
    /// Starts the runtime and the threads of functions.
    pub(super) fn start(options: &ComputeOptions) -> Result<Host> {
        let concurrency = options.concurrency();
        let memory_mib = options.memory_mib;
        let runtime = options.cache.start(Options { memory_mib, ..runtime_options(concurrency) })?;
        let pool = Arc::new(FunctionPool::start(concurrency).context("failed to start the threads of functions")?);
        Ok(Host { runtime, pool, engine: options.engine(), status: Status::default() })
    }

    pub(super) fn tools(&self) -> Tools<'_> {
        Tools { runtime: &self.runtime, engine: &self.engine, ceilings: Ceilings::default(), status: &self.status }
    }
}

/// Starts the runtime and the threads of functions, and runs `command` beside them.
pub(super) fn in_host(options: &ComputeOptions, command: impl AsyncFnOnce(Host) -> Result<()>) -> Result<()> {
    on_threads(command(Host::start(options)?))
}

/// Runs a command on the threads of a runtime.
pub(super) fn on_threads(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("failed to start the peers' threads")?.block_on(command)
}

/// Runs a command without functions on the main thread: child processes end with the thread that started them.
pub(super) fn on_this_thread(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start")?.block_on(command)
}

/// `$XDG_CACHE_HOME/skein`, or `~/.cache/skein`; `None` without a home folder.
fn user_cache_dir() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
    let base = base.or_else(|| std::env::home_dir().and_then(absolute).map(|home| home.join(".cache")))?;
    Some(base.join("skein"))
}
