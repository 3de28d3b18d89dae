//! Chores of the project, in Rust: `cargo xtask --help` lists them.

mod accuracy;
mod bench;
mod cluster;
mod configuration;
mod dist;
mod gradients;
mod guests;
mod measure;
mod picture;
mod queue_bench;
mod readme;
mod recovery;
mod references;
mod sandbox_bench;
mod simulate;
mod target;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run every benchmark and print its figures.
    Bench(bench::Bench),
    /// Time gradients of ONNX models on every engine, against PyTorch.
    Gradients(gradients::Gradients),
    /// Compare loss, gradients and running statistics of ONNX models with reference values, on every engine.
    References(references::References),
    /// Train the examples on real data, and compare their accuracy with a bound.
    Accuracy(accuracy::Accuracy),
    /// Time the work queue while its workers are killed.
    QueueBench(queue_bench::QueueBench),
    /// Time how soon peers go on after others are killed, and how soon those take part again.
    Recovery(recovery::Recovery),
    /// One process of `queue-bench`.
    #[command(hide = true)]
    QueueProcess(queue_bench::process::Process),
    /// Measure the sandbox: its cost, and what busy and hostile functions cost the others.
    SandboxBench(sandbox_bench::SandboxBench),
    /// Run many nodes of the protocol in virtual time, with liars, crashes and a network that fails.
    Simulate(simulate::Simulate),
    /// Print sizes and habits of the code.
    Measure(measure::Measure),
    /// Build the program and pack it for machines without a toolchain.
    Dist(dist::Dist),
    /// Run the commands of README and `docs` that need PyTorch, componentize-py or a Wasm target.
    Readme(readme::Readme),
    /// Write the tables of manifest keys in `docs/configuration.md`.
    Configuration,
    /// Draw `docs/round.svg` from `docs/round.txt`.
    Picture,
    /// Rebuild the built-in functions in `guest-functions/dist`.
    Guests {
        /// Change nothing; fail if a component in `dist` differs from what the sources compile to.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Bench(options) => bench::run(&workspace_root(), &options),
        Chore::Gradients(options) => gradients::run(&workspace_root(), &options),
        Chore::References(options) => references::run(&options),
        Chore::Accuracy(options) => accuracy::run(&workspace_root(), &options),
        Chore::QueueBench(options) => queue_bench::run(&workspace_root(), &options),
        Chore::Recovery(options) => recovery::run(&workspace_root(), &options),
        Chore::QueueProcess(process) => queue_bench::process::run(&process),
        Chore::SandboxBench(options) => sandbox_bench::run(&workspace_root(), &options),
        Chore::Simulate(options) => simulate::run(&workspace_root(), &options),
        Chore::Measure(options) => measure::run(&workspace_root(), &options),
        Chore::Dist(options) => dist::run(&workspace_root(), &options),
        Chore::Readme(options) => readme::run(&workspace_root(), &options),
        Chore::Configuration => configuration::run(&workspace_root()),
        Chore::Picture => picture::run(&workspace_root()),
        Chore::Guests { check } => guests::run(check),
    }
}

/// The root folder of the repository.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned()
}

/// The folder that cargo builds a checkout in.
fn target_folder(root: &Path) -> anyhow::Result<PathBuf> {
    target::target_folder(&mut cargo(), root)
}

/// The program of a checkout, as cargo builds it.
fn program(root: &Path) -> anyhow::Result<PathBuf> {
    Ok(target_folder(root)?.join("release/skein"))
}

/// Cargo for other packages, without the outer one's variables for this package: they would rerun build scripts.
fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command
}
