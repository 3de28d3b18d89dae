//! Chores of the project, in Rust: `cargo xtask --help` lists them.

mod guests;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Rebuild the built-in functions in `guest-functions/dist`.
    Guests {
        /// Change nothing; fail if a component in `dist` is not what the sources give.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Guests { check } => guests::run(check),
    }
}
