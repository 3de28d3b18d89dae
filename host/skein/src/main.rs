//! The `skein` program: parses its arguments and runs the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    skein::cli::run(skein::cli::parse())
}
