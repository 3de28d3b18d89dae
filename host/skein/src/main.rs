//! The `skein` program: parses its arguments and runs the command.

use std::process::ExitCode;

use clap::Parser;
use skein::cli::Arguments;

fn main() -> ExitCode {
    skein::cli::run(Arguments::parse())
}
