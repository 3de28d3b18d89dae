//! Commands and their arguments.

mod demo;
mod eval;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use skein_runtime::{Compiler, Options, Runtime, StartError};

use crate::output::{Format, Output};
use crate::workers::Workers;

/// What a host process calls itself with to compile a component.
const COMPILE: &str = "compile-component";

/// Train models across peers with no coordinator, in sandboxed WebAssembly functions.
#[derive(Parser)]
#[command(name = "skein", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Options of all commands.
#[derive(clap::Args)]
struct Global {
    /// How results are written to standard output
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    output: Format,
    /// Show no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Functions that run at the same time; 1 computes one batch after the other [default: number of cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
    /// Where compiled functions are kept [default: `skein` in the user's cache folder]
    #[arg(long, global = true, value_name = "DIR", env = "SKEIN_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Train four peers on hand-written digits: no files, no ports, no server
    Demo(demo::Demo),
    /// Train the job of a manifest, all its peers in this process
    Train(train::Train),
    /// Evaluate a checkpoint of a job
    Eval(eval::Eval),
    /// Print the JSON schema of `skein.toml`
    Schema,
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Compile a component from standard input to standard output
    #[command(name = COMPILE, hide = true)]
    Compile,
}

/// Runs a command; gives the process's exit status: 0 on success, 1 on failure (2 is clap's, for usage).
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { command, global } = arguments;
    if let Command::Compile = command {
        return exit_code(skein_runtime::compile_as_child());
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("SKEIN_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut output = Output::new(global.output, global.quiet);
    match dispatch(command, &global, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, global: &Global, output: &mut Output) -> Result<()> {
    match command {
        Command::Demo(demo) => in_host(global, async |host| demo.run(host, output).await),
        Command::Train(train) => in_host(global, async |host| train.run(host, output).await),
        Command::Eval(eval) => in_host(global, async |host| eval.run(host, output).await),
        Command::Schema => {
            println!("{:#}", crate::manifest::schema());
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "skein", &mut std::io::stdout());
            Ok(())
        }
        // `run` has returned already.
        Command::Compile => Ok(()),
    }
}

/// What every command that runs functions needs.
struct Host {
    runtime: Runtime,
    workers: Arc<Workers>,
}

/// Starts the runtime and the workers' threads, and runs `command` beside them.
fn in_host(global: &Global, command: impl AsyncFnOnce(Host) -> Result<()>) -> Result<()> {
    let default = Options::default();
    let concurrency = global.concurrency.map_or(default.concurrency, usize::from);
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let options = Options {
        concurrency,
        cache_dir: global.cache_dir.clone().or_else(user_cache_dir),
        compiler: Compiler::Child { program, argument: COMPILE },
        ..default
    };
    let runtime = match Runtime::start(options.clone()) {
        // A home that can not be written costs compiling at every start; a folder that was asked for is another thing.
        Err(error @ StartError::Cache { .. }) if global.cache_dir.is_none() => {
            tracing::warn!(%error, "compiled functions are not kept");
            Runtime::start(Options { cache_dir: None, ..options })?
        }
        started => started?,
    };
    let workers = Arc::new(Workers::start(concurrency).context("failed to start the workers' threads")?);
    let peers = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let peers = peers.context("failed to start the peers' threads")?;
    peers.block_on(command(Host { runtime, workers }))
}

/// `$XDG_CACHE_HOME/skein`, or `~/.cache/skein`; without a home nothing is kept.
fn user_cache_dir() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
    let base = base.or_else(|| std::env::home_dir().and_then(absolute).map(|home| home.join(".cache")))?;
    Some(base.join("skein"))
}

fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
