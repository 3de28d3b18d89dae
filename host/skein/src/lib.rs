//! The `skein` program: command line, output, signals and composition.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | commands and their arguments |
//! | [`output`] | output of a command: results, progress, errors |

#![warn(clippy::print_stdout, clippy::print_stderr)] // A closed pipe must not panic: see `output`.

pub mod cli;
pub mod output;
