//! One peer of a job: computes, exchanges, aggregates and keeps its state, as the protocol decides.
//!
//! A library: it writes to no terminal and listens for no signal. A [`run::Run`] tells what happens by
//! [`events::Event`]s and ends when its shutdown future does, so several jobs run in one process side by side.
//!
//! ```text
//! host, in_process ─→ run ─→ driver (one for each peer) ─→ compute, protocol, store
//!                      │        └─ log, neighbours
//!                      └─ checkpoint, report, events
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`prepare`] | a job made ready: its functions loaded, its graphs compiled |
//! | [`engines`] | what computes graphs on this machine |
//! | [`pool`] | threads for functions, and the account of what they use |
//! | [`compute`] | the batches of a round, computed in this process or through the queue |
//! | [`bundle`] | what a host and its workers tell each other |
//! | [`worker`] | gradient calls for a peer, in any process |
//! | [`driver`] | one peer's side of a round |
//! | [`evaluation`] | how good parameters are |
//! | [`run`] | a run of the peers of this process |
//! | [`in_process`], [`host`] | all peers in one process, and one peer of many with its own database |
//! | [`checkpoint`], [`export`] | the state on disk, and the trained model for other programs |
//! | [`events`], [`report`], [`phases`] | what a run tells while it goes on and at its end |

pub mod bundle;
pub mod checkpoint;
pub mod compute;
pub mod driver;
pub mod engines;
pub mod evaluation;
pub mod events;
pub mod export;
pub mod host;
pub mod in_process;
pub mod phases;
pub mod pool;
pub mod prepare;
pub mod report;
pub mod run;
pub mod worker;
