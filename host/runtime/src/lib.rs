//! Runs functions: WebAssembly components of the worlds in `wit/`, sandboxed, limited and metered.
//!
//! A [`Runtime`] compiles a component once ([`Runtime::gradient_function`], [`Runtime::aggregate_function`]) and
//! instantiates it anew for every call, which costs microseconds and leaves nothing behind. The only crate that uses
//! wasmtime. [`Runtime::check_function`] tells all about one function, and why it would be refused.
//!
//! What a guest cannot do, and the module that prevents it:
//!
//! | harm | bound | module |
//! |---|---|---|
//! | compile forever, or to gigabytes | size cap, one child process at a time, with limits, that is killed | `compile` |
//! | break the compiler | the child process has no files, no network and few system calls | `child` |
//! | smuggle in native code | precompiled artifacts are refused, cached ones are authenticated | `admission`, `cache` |
//! | loop | processor time by the clock of its thread, wall time from outside | `invoke`, `clock` |
//! | crowd out others | turns on the processors, calls that run and wait, memory of all calls | `run_queue`, `slot` |
//! | bring a graph that breaks its engine | the graph runs in a child process with limits, in a sandbox | `brought`, `child` |
//! | keep an engine busy | the run is stopped with the call, and keeps its slot until it has ended | `capability` |
//! | eat memory | one total over memories, tables, handles and the tensors behind them | `meter` |
//! | flood the host with data or handles | bytes per host call, handles per call | `invoke` |
//! | pass an engine inputs that crash it | names and shapes are checked, failures are errors | [`graphs`] |
//! | return rubbish | names, shapes, types and finiteness are checked | [`gradient`], [`aggregate`] |
//! | make peers differ | clocks, random numbers and NaNs of an aggregation function are the same on all | `capability` |
//!
//! Calls run on the tokio runtime that polls them, which needs as many threads as there are processors. Busy guests
//! yield at every tick; still, run a control plane on another runtime.

pub mod aggregate;
pub mod gradient;
pub mod graphs;

mod admission;
mod brought;
mod cache;
mod capability;
mod check;
mod child;
mod clock;
mod compile;
mod engine;
mod error;
mod function;
mod interfaces;
mod invoke;
mod meter;
mod options;
mod parameters;
mod run_queue;
mod runtime;
mod slot;
mod world;

pub use admission::{Origin, digest};
pub use check::{Checked, Import, Refusal};
pub use compile::{Compiler, compile_as_child};
pub use engine::PoolShare;
pub use error::{CallError, Hit, Limit, LoadError, Trap};
pub use function::Function;
pub use invoke::{Call, FunctionInfo, Usage};
pub use options::{Limits, Options};
pub use runtime::{Runtime, StartError};
pub use skein_engine::Tensor;
pub use slot::CallSlot;
pub use world::World;
