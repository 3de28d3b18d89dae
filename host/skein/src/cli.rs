//! Commands and their arguments.

mod bench;
mod demo;
mod engine;
mod eval;
mod export;
mod host;
mod model;
mod redis;
mod train;
mod trained;
mod up;
mod worker;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use skein_engine::Kind;
use skein_peer::engines::EngineConfig;
use skein_peer::pool::FunctionPool;
use skein_peer::prepare::Tools;
use skein_redis::provision::child::{BOUND, become_bound};
use skein_runtime::{Compiler, Options, Runtime, StartError};
use skein_types::Status;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::output::{Format, Output, complain};

/// Subcommand with which a host starts this program to compile a component.
const COMPILE: &str = "compile-component";

/// Train models across peers with no coordinator, in sandboxed WebAssembly functions.
#[derive(Parser)]
#[command(name = "skein", version, long_version = long_version(), arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// The version, the commit, and the engines: those built in, and those that `skein engine install` fetches.
fn long_version() -> String {
    let installed = Kind::ALL.into_iter().filter_map(|kind| Some(format!("{kind} {}", kind.pinned_version()?)));
    format!(
        "{} (commit {})\nbuilt in: {}\nto install: {}",
        env!("CARGO_PKG_VERSION"),
        env!("SKEIN_COMMIT"),
        env!("SKEIN_BUILT_IN"),
        installed.collect::<Vec<_>>().join(", ")
    )
}

/// Options of all commands.
#[derive(clap::Args)]
struct Global {
    /// Format of results on standard output, `text` or `json`; for `model train-graph`, the file to write
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "text")]
    output: Destination,
    /// Show no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Functions that run at the same time; 1 computes one batch after the other [default: number of cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
    /// Engine that computes graphs: `onnxruntime`, `openvino` or `rten` [default: the first one installed]
    #[arg(long, global = true, value_name = "NAME", env = "SKEIN_ENGINE")]
    engine: Option<Kind>,
    /// The engine's library, or the folder that it is in [default: where `skein engine install` puts it]
    #[arg(long, global = true, value_name = "PATH", requires = "engine")]
    engine_library: Option<PathBuf>,
    /// Threads of the engine for one batch; the bits of a gradient may depend on it [default: 1]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    engine_threads: Option<u16>,
    /// Device that computes graphs: `cpu` or `cuda`
    #[arg(long, global = true, value_name = "NAME", value_enum, default_value = "cpu")]
    device: Device,
    /// Folder for compiled functions [default: `skein` in the user's cache folder]
    #[arg(long, global = true, value_name = "DIR", env = "SKEIN_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

/// Value of `-o`: a format, or a file for the one command that writes a graph.
#[derive(Debug, Clone)]
enum Destination {
    Format(Format),
    /// The `.onnx` file to write; results are then printed as text.
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Destination, String> {
        match Format::from_str(text, false) {
            Ok(format) => Ok(Destination::Format(format)),
            Err(_) if text.ends_with(".onnx") => Ok(Destination::File(text.into())),
            Err(_) => Err("expected `text`, `json` or a file that ends in `.onnx`".into()),
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Train four peers on hand-written digits: no files, no ports, no server
    Demo(demo::Demo),
    /// Train the job of a manifest, all its peers in this process
    Train(train::Train),
    /// Run the peers of a job on this machine, each as a process with its own database or all in one process
    Up(up::Up),
    /// Run one peer of a job, with its own database
    Host(host::HostArguments),
    /// Compute gradients for a peer whose database can be reached, until interrupted
    Worker(worker::WorkerArguments),
    /// List and redrive tasks that neither a worker nor the host could complete
    Queue {
        #[command(subcommand)]
        command: worker::QueueCommand,
    },
    /// Show a peer's public key; create the key if it does not exist
    Identity(host::IdentityArguments),
    /// Configure and run the database of a peer
    Redis {
        #[command(subcommand)]
        command: redis::Redis,
    },
    /// Evaluate a checkpoint of a job
    Eval(eval::Eval),
    /// Write a trained model as ONNX, and its values as safetensors
    Export(export::Export),
    /// Check, inspect and differentiate ONNX models
    Model {
        #[command(subcommand)]
        command: model::Model,
    },
    /// Install and list the engines that compute graphs
    Engine {
        #[command(subcommand)]
        command: engine::Engine,
    },
    /// Measure this machine
    Bench {
        #[command(subcommand)]
        command: bench::Bench,
    },
    /// Print the JSON schema of `skein.toml`
    Schema,
    /// Print the completion script of a shell
    Completions {
        /// Shell to write the script for
        shell: Shell,
    },
    /// Compile a component from standard input to standard output
    #[command(name = COMPILE, hide = true)]
    Compile,
    /// Become another program that ends with this process's parent
    #[command(name = BOUND, hide = true)]
    Bound {
        parent: u32,
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs a command and returns the exit status: 0 on success, 1 on failure (clap uses 2 for usage errors).
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { command, global } = arguments;
    if let Command::Compile = command {
        return exit_code(skein_runtime::compile_as_child());
    }
    if let Command::Bound { parent, program, arguments } = command {
        complain(&format!("error: {:#}", become_bound(parent, &program, &arguments)));
        return ExitCode::FAILURE;
    }
    let (filter, problem) = log_filter();
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(has_colours());
    // A log whose reader is gone must not end the run, and an error about it would go to the same place.
    tracing_subscriber::registry().with(log.log_internal_errors(false)).with(filter).init();
    problem.iter().for_each(|problem| complain(problem));
    let (format, file) = match &global.output {
        Destination::Format(format) => (*format, None),
        Destination::File(path) => (Format::Text, Some(path.clone())),
    };
    let mut output = Output::new(format, global.quiet);
    match give_file(command, file).and_then(|command| dispatch(command, &global, &mut output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// The log filter of `SKEIN_LOG`, or of `RUST_LOG` if that is not set, and a message if it is invalid.
fn log_filter() -> (Targets, Option<String>) {
    let default = Targets::new().with_default(LevelFilter::WARN);
    let set = ["SKEIN_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var_os(name)?.to_string_lossy().into_owned())));
    let Some((name, text)) = set.filter(|(_, text)| !text.is_empty()) else { return (default, None) };
    match text.parse() {
        Ok(filter) => (filter, None),
        Err(error) => {
            let problem = format!("`{name}` is not a log filter: `{text}`: {error}; try `{name}=skein=debug`");
            (default, Some(problem))
        }
    }
}

/// Whether the log has colours: only on a terminal, and unless `NO_COLOR` is set (<https://no-color.org>).
fn has_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Passes the file of `-o` to the command that writes one; other commands refuse it.
fn give_file(mut command: Command, file: Option<PathBuf>) -> Result<Command> {
    match (&mut command, file) {
        (Command::Model { command: model::Model::TrainGraph { to, .. } }, Some(file)) => *to = Some(file),
        (_, Some(_)) => bail!("`-o` takes `text` or `json` here"),
        (_, None) => {}
    }
    Ok(command)
}

fn dispatch(command: Command, global: &Global, output: &mut Output) -> Result<()> {
    match command {
        Command::Demo(demo) => in_host(global, async |host| demo.run(host, output).await),
        Command::Train(train) => in_host(global, async |host| train.run(host, output).await),
        Command::Up(up) => up.run(global, output),
        Command::Host(host) => in_host(global, async |runs| host.run(runs, output).await),
        Command::Worker(worker) => in_host(global, async |host| worker.run(host, output).await),
        Command::Queue { command } => on_this_thread(command.run(output)),
        Command::Identity(identity) => identity.run(output),
        Command::Redis { command } => on_this_thread(command.run(output)),
        Command::Eval(eval) => in_host(global, async |host| eval.run(host, output).await),
        Command::Export(export) => in_host(global, async |host| export.run(&host, output).await),
        Command::Model { command } => command.run(output),
        Command::Engine { command } => command.run(&global.engine(), output),
        Command::Bench { command } => in_host(global, async |host| command.run(&host, output).await),
        Command::Schema => {
            let schema = format!("{:#}\n", skein_job::manifest::schema());
            Ok(output.print(schema.as_bytes())?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "skein", &mut script);
            Ok(output.print(&script)?)
        }
        // `run` has returned already.
        Command::Compile | Command::Bound { .. } => Ok(()),
    }
}

/// Runtime, threads and engine for commands that run functions.
struct Host {
    runtime: Runtime,
    pool: Arc<FunctionPool>,
    engine: EngineConfig,
    /// What the command is doing before its first function runs.
    status: Status,
}

impl Host {
    fn tools(&self) -> Tools<'_> {
        Tools { runtime: &self.runtime, engine: &self.engine, status: &self.status }
    }
}

/// Device that computes graphs.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Device {
    /// The processor.
    Cpu,
    /// The first NVIDIA GPU, through ONNX Runtime.
    Cuda,
}

impl Global {
    fn concurrency(&self) -> usize {
        self.concurrency.map_or_else(|| Options::default().concurrency, usize::from)
    }

    /// The same options as arguments for a child process.
    fn passed_on(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let mut pass = |name: &str, value: Option<OsString>| {
            arguments.extend(value.into_iter().flat_map(|value| [name.into(), value]));
        };
        let number = |number: Option<u16>| number.map(|number| number.to_string().into());
        pass("--concurrency", number(self.concurrency));
        pass("--engine", self.engine.map(|kind| kind.name().into()));
        pass("--engine-library", self.engine_library.as_ref().map(Into::into));
        pass("--engine-threads", number(self.engine_threads));
        pass("--device", self.device.to_possible_value().map(|value| value.get_name().into()));
        pass("--cache-dir", self.cache_dir.as_ref().map(Into::into));
        if self.quiet {
            arguments.push("--quiet".into());
        }
        arguments
    }

    fn engine(&self) -> EngineConfig {
        let device = match self.device {
            Device::Cpu => skein_engine::Device::Cpu,
            Device::Cuda => skein_engine::Device::Cuda,
        };
        let automatic = EngineConfig::automatic();
        let threads = self.engine_threads.map_or(automatic.options.threads, usize::from);
        let options = skein_engine::Options { threads, device };
        EngineConfig { kind: self.engine, library: self.engine_library.clone(), options }
    }
}

/// The signals that end this program: SIGINT and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From here on, the signals no longer end the process by themselves.
    fn listen() -> Result<Interrupts> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Interrupts { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next signal.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Starts the runtime and the threads of functions, and runs `command` beside them.
fn in_host(global: &Global, command: impl AsyncFnOnce(Host) -> Result<()>) -> Result<()> {
    let default = Options::default();
    let concurrency = global.concurrency();
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let options = Options {
        concurrency,
        cache_dir: global.cache_dir.clone().or_else(user_cache_dir),
        compiler: Compiler::Child { program, argument: COMPILE },
        ..default
    };
    let runtime = match Runtime::start(options.clone()) {
        // Without a writable home, functions are compiled at every start; a requested folder must work.
        Err(error @ StartError::Cache { .. }) if global.cache_dir.is_none() => {
            tracing::warn!(%error, "compiled functions are not kept");
            Runtime::start(Options { cache_dir: None, ..options })?
        }
        started => started?,
    };
    let pool = Arc::new(FunctionPool::start(concurrency).context("failed to start the threads of functions")?);
    let peers = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let peers = peers.context("failed to start the peers' threads")?;
    peers.block_on(command(Host { runtime, pool, engine: global.engine(), status: Status::default() }))
}

/// Runs a command without functions on the main thread: child processes end with the thread that started them.
fn on_this_thread(command: impl Future<Output = Result<()>>) -> Result<()> {
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

fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
