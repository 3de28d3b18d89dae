//! The `skein` program: the command line, what it shows, the signals it obeys, and what is wired to what.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | commands and their arguments |
//! | [`output`] | what a command shows: results, progress, errors |

#![warn(clippy::print_stdout, clippy::print_stderr)] // A reader that has gone ends nothing: see `output`.

pub mod cli;
pub mod output;
