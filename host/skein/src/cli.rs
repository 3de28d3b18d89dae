//! Commands and their arguments.

mod bench;
mod compute;
mod data;
mod demo;
mod engine;
mod eval;
mod export;
mod function;
mod host;
mod job;
mod model;
mod redis;
mod status;
mod train;
mod trained;
mod unknown;
mod up;
mod worker;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use skein_engine::{Kind, install};
use skein_redis::provision::child::{TIED, become_tied};
use skein_runtime::graphs::{RUN_GRAPH, run_graph_as_child};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::compute::{Computing, in_host, on_this_thread, on_threads};
use crate::output::{Format, Output, complain};

/// Subcommand with which a host starts this program to compile a component.
const COMPILE: &str = "compile-component";

/// Train models across peers with no coordinator, in sandboxed WebAssembly functions.
#[derive(Parser)]
#[command(name = "skein", version, long_version = LONG_VERSION.as_str(), arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// The version, the commit, and the engines: those built in, and those that `skein engine install` fetches.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let versions = Kind::ALL.into_iter().filter_map(|kind| Some(format!("{kind} {}", install::version(kind)?)));
    format!(
        "{} (commit {})\nbuilt in: {}\nto install: {}",
        env!("CARGO_PKG_VERSION"),
        env!("SKEIN_COMMIT"),
        env!("SKEIN_BUILT_IN"),
        versions.collect::<Vec<_>>().join(", ")
    )
});

/// Options of all commands.
#[derive(clap::Args)]
struct Global {
    /// Format of results on standard output: `human` or `json`
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "human", value_parser = format)]
    output: Format,
    /// Show no progress and no notes; results, warnings and errors are still shown
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// Parses the value of `--output`, which elsewhere is often a file.
fn format(text: &str) -> Result<Format, String> {
    Format::from_str(text, false).map_err(|_| "expected `human` or `json`; name a file to write with `--to`".to_owned())
}

#[derive(Subcommand)]
enum Command {
    /// Train four peers on hand-written digits: no files, no ports, no server
    Demo(Computing<demo::Demo>),
    /// Train the job of a manifest, all its peers in this process
    Train(Computing<train::Train>),
    /// Run the peers of a job on this machine, each as a process with its own database or all in one process
    Up(Computing<up::Up>),
    /// Run one peer of a job, with its own database
    Host(Computing<host::HostArguments>),
    /// Compute gradients for a peer whose database can be reached, until interrupted
    Worker(Computing<worker::WorkerArguments>),
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
    Eval(Computing<eval::Eval>),
    /// Write a trained model as ONNX, and its values as safetensors
    Export(export::Export),
    /// Show what a run's folder holds: the round it reached, its last loss, and whether it goes on
    Status(status::StatusArguments),
    /// Show what data sets hold, as training reads them
    Data {
        #[command(subcommand)]
        command: data::Data,
    },
    /// Check, inspect and differentiate ONNX models
    Model {
        #[command(subcommand)]
        command: model::Model,
    },
    /// Check functions before a job uses them
    Function {
        #[command(subcommand)]
        command: function::Function,
    },
    /// Install and list the engines that compute graphs
    Engine {
        #[command(subcommand)]
        command: engine::Engine,
    },
    /// Measure how fast this machine computes gradients and updates a state in a database
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
    /// Run a graph that a function brought, as told through standard input
    #[command(name = RUN_GRAPH, hide = true)]
    RunGraph,
    /// Become another program that ends with this process's parent
    #[command(name = TIED, hide = true)]
    Tied {
        parent: u32,
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Reads the command line, and ends the process with a message if it is not valid.
pub fn parse() -> Arguments {
    let words: Vec<OsString> = std::env::args_os().collect();
    Arguments::try_parse_from(&words)
        .unwrap_or_else(|error| unknown::advised(error, &Arguments::command(), &words).exit())
}

/// Runs a command and returns the exit status: 0 on success, 1 on failure (clap uses 2 for usage errors).
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { command, global } = arguments;
    if let Command::Compile = command {
        return exit_code(skein_runtime::compile_as_child());
    }
    if let Command::RunGraph = command {
        return exit_code(run_graph_as_child());
    }
    if let Command::Tied { parent, program, arguments } = command {
        complain(&format!("error: {:#}", become_tied(parent, &program, &arguments)));
        return ExitCode::FAILURE;
    }
    let (filter, problem) = log_filter();
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(has_colours());
    // A log whose reader is gone must not end the run, and an error about it would go to the same place.
    tracing_subscriber::registry().with(log.log_internal_errors(false)).with(filter).init();
    problem.iter().for_each(|problem| complain(problem));
    let mut output = Output::new(global.output, global.quiet);
    match dispatch(command, &global, &mut output) {
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

fn dispatch(command: Command, global: &Global, output: &mut Output) -> Result<()> {
    match command {
        Command::Demo(Computing { command, options }) => {
            in_host(&options, async |host| command.run(host, output).await)
        }
        Command::Train(Computing { command, options }) => {
            in_host(&options, async |host| command.run(host, output).await)
        }
        Command::Up(Computing { command, options }) => command.run(&options, global.quiet, output),
        Command::Host(Computing { command, options }) => command.run(options, output),
        Command::Worker(Computing { command, options }) => on_threads(command.run(options, output)),
        Command::Queue { command } => on_this_thread(command.run(output)),
        Command::Identity(identity) => identity.run(output),
        Command::Redis { command } => on_this_thread(command.run(output)),
        Command::Eval(Computing { command, options }) => {
            in_host(&options, async |host| command.run(host, output).await)
        }
        Command::Export(export) => export.run(output),
        Command::Status(status) => status.run(output),
        Command::Data { command } => command.run(output),
        Command::Model { command } => command.run(output),
        Command::Function { command } => on_this_thread(command.run(output)),
        Command::Engine { command } => command.run(output),
        Command::Bench { command } => command.run(output),
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
        Command::Compile | Command::RunGraph | Command::Tied { .. } => Ok(()),
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

fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
