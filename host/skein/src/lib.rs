//! The `skein` program as a library: configuration, data, and the run of a job in one process.
//!
//! ```text
//! manifest ─→ job ─→ training ─→ peer (one task each) ─→ workflow, store, runtime
//!              │         │
//!             data    checkpoint, report, output
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | commands and their arguments |
//! | [`manifest`] | `skein.toml` |
//! | [`data`] | formats, splits, batches |
//! | [`model`] | parameters, how they start, and the graphs that compute them |
//! | [`engines`] | what computes graphs on this machine |
//! | [`job`] | a job made ready to run |
//! | [`workers`] | threads for functions, and the account of what they use |
//! | [`peer`] | one peer's side of a round |
//! | [`worker`] | gradient calls for a peer, in any process |
//! | [`session`] | a run of the peers of this process |
//! | [`training`], [`host`] | all peers in one process, and one peer of many with its own database |
//! | [`redis`] | hardened configurations for databases, and databases as children |
//! | [`checkpoint`] | the state on disk |
//! | [`report`], [`output`] | what a run tells, and how it is shown |

#![warn(clippy::print_stdout, clippy::print_stderr)] // A reader that has gone ends nothing: see `output`.

pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod engines;
pub mod evaluation;
pub mod host;
pub mod job;
pub mod manifest;
pub mod model;
pub mod output;
pub mod peer;
pub mod phases;
pub mod redis;
pub mod report;
pub mod session;
pub mod training;
pub mod worker;
pub mod workers;
