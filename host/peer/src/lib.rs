//! One peer of a job: computes, exchanges, aggregates and keeps its state, as the protocol decides.
//!
//! A library: it writes to no terminal and listens for no signal. A [`run::Run`] reports [`events::Event`]s and ends
//! when its shutdown future does, so several jobs run in one process side by side.
//!
//! ```text
//! host, in_process ─→ run ─→ driver (one for each peer) ─→ compute, protocol, store
//!                      │        └─ log, inbox, fetch
//!                      └─ checkpoint, report, events
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`prepare`] | a job made ready: its functions loaded, its graphs compiled |
//! | [`engines`] | the engine that computes graphs on this machine |
//! | [`pool`] | threads for functions, and an account of their use |
//! | [`compute`] | the batches of a round, computed in this process or through the queue |
//! | [`ceilings`] | what an operator lets functions use |
//! | [`bundle`] | what a host and its workers exchange through the database |
//! | [`worker`] | gradient calls for a peer, in any process |
//! | [`driver`] | one peer's side of a round |
//! | [`evaluation`] | loss and accuracy of parameters |
//! | [`run`] | a run of the peers of this process |
//! | [`in_process`], [`host`] | all peers in one process, and one peer of many with its own database |
//! | `greeting` | what hosts tell each other before they share a run |
//! | [`checkpoint`], [`export`] | the state on disk, and the trained model for other programs |
//! | [`events`], [`report`], [`phases`] | what a run reports while it runs and at its end |
//! | [`status`] | what a run's folder tells about it |

pub mod bundle;
pub mod ceilings;
pub mod checkpoint;
pub mod compute;
pub mod driver;
pub mod engines;
pub mod evaluation;
pub mod events;
pub mod export;
mod greeting;
pub mod host;
pub mod in_process;
mod lock;
pub mod phases;
pub mod pool;
pub mod prepare;
pub mod report;
pub mod run;
pub mod status;
pub mod worker;
