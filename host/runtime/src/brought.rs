//! Graphs that functions bring along: each is compiled and run by a process of its own, which ends with the call.
//!
//! The engines are native code that was never meant for hostile graphs: a few bytes of one can ask for a terabyte, or run
//! for ever. So the graph goes to a child of this process, in a sandbox, whose memory and processor time count as the
//! call's and are limited to what the call has left. Tensors are copied both ways. Whatever the child does, ending
//! included, is the function's doing; the child is believed nothing but the tensors that it returns.

mod process;
mod serve;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skein_engine::{EngineError, Kind, Signature, Tensor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::process::Process;
use crate::clock::CpuClock;
use crate::slot::CallSlot;

pub use self::serve::run_graph_as_child;

/// The argument with which a host starts itself as the process of a graph. The program must then call
/// [`run_graph_as_child`].
pub const RUN_GRAPH: &str = "run-graph";

/// Graphs that a call may hold at the same time, each of which takes a process.
pub(crate) const GRAPHS_PER_CALL: usize = 4;

/// How graphs that a function brings along are run: on the processor, by this engine in child processes.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Path of the program to start with [`RUN_GRAPH`].
    pub program: PathBuf,
    /// The engine.
    pub engine: Kind,
    /// The engine's library or the library's folder; `None` if the engine is built in.
    pub library: Option<PathBuf>,
    /// Threads of each run, at least 1.
    pub threads: usize,
}

/// What the processes of a call may use: what the call has left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) memory_bytes: usize,
    pub(crate) cpu: Duration,
}

/// Why a brought graph was not compiled or run.
pub(crate) enum BroughtError {
    /// The engine's error, or how its process ended: for the function to read.
    Engine(EngineError),
    /// The kernel ended the process at the end of its processor time.
    Cpu,
    /// So many bytes are more than the call has left.
    Memory(usize),
    /// No process could be started.
    Host(String),
}

impl From<EngineError> for BroughtError {
    fn from(error: EngineError) -> BroughtError {
        BroughtError::Engine(error)
    }
}

/// The processes of a call.
#[derive(Debug)]
pub(crate) struct Children {
    /// One clone for each graph that the function holds.
    held: Arc<()>,
    /// One permit for each process, which returns when the process has ended: later than the graph that it ran.
    alive: Arc<Semaphore>,
}

impl Default for Children {
    fn default() -> Children {
        Children { held: Arc::default(), alive: Arc::new(Semaphore::new(GRAPHS_PER_CALL)) }
    }
}

impl Children {
    /// A place for one more graph; `None` if the call holds as many as it may.
    pub(crate) async fn place(&self) -> Option<Place> {
        if Arc::strong_count(&self.held) > GRAPHS_PER_CALL {
            return None;
        }
        let held = self.held.clone();
        // All graphs before those that are held have been dropped, so their processes are ending.
        let alive = self.alive.clone().acquire_owned().await.expect("the semaphore is never closed");
        Some(Place { held, alive })
    }
}

/// A place for a graph.
pub(crate) struct Place {
    held: Arc<()>,
    alive: OwnedSemaphorePermit,
}

/// The call that a process belongs to.
pub(crate) struct Caller {
    /// Kept until the process has ended.
    pub(crate) slot: CallSlot,
    /// Counts the time of the process.
    pub(crate) clock: CpuClock,
    /// What the process may use until the graph is compiled.
    pub(crate) allowed: Allowance,
}

/// A graph that a function brought, in a process of its own.
pub(crate) struct Brought {
    engine: Kind,
    signature: Signature,
    /// Taken out during a run: a run that is abandoned ends the process.
    process: Mutex<Option<Process>>,
    /// Memory of the process.
    process_bytes: AtomicUsize,
    /// Most memory that the process took.
    process_bytes_peak: AtomicUsize,
    _held: Arc<()>,
}

impl Brought {
    /// Starts a process and has it compile the graph.
    pub(crate) async fn load(
        loader: &Loader,
        graph: Vec<u8>,
        place: Place,
        caller: Caller,
    ) -> Result<Brought, BroughtError> {
        let Allowance { memory_bytes, cpu } = caller.allowed;
        let mut process = Process::start(loader, place.alive, caller).await?;
        let cpu = cpu.saturating_sub(process.charged());
        process.limit(Allowance { memory_bytes, cpu }).await?;
        let signature = process.load(graph).await?;
        Ok(Brought {
            engine: loader.engine,
            signature,
            process_bytes: AtomicUsize::new(process.bytes()),
            process_bytes_peak: AtomicUsize::new(process.bytes_peak()),
            process: Mutex::new(Some(process)),
            _held: place.held,
        })
    }

    pub(crate) fn signature(&self) -> Signature {
        self.signature.clone()
    }

    /// Memory that the graph takes: its names here, and its process, as of the end of the last run.
    pub(crate) fn bytes(&self) -> usize {
        let Signature { inputs, outputs } = &self.signature;
        // Each name is kept twice: see `Graph`.
        let names: usize = inputs.iter().chain(outputs).map(|name| 2 * (size_of::<String>() + name.len())).sum();
        names + self.process_bytes.load(Ordering::Relaxed)
    }

    /// Most memory that the process took at the same time, if it has not ended.
    pub(crate) fn bytes_peak(&self) -> usize {
        self.process_bytes_peak.load(Ordering::Relaxed)
    }

    /// Runs the graph and returns all its outputs. If the future is dropped, the process ends.
    pub(crate) async fn run(&self, inputs: &[(&str, Tensor)], allowed: Allowance) -> Result<Vec<Tensor>, BroughtError> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut process) = process else {
            let reason = "its process has ended: load the graph again".to_owned();
            return Err(EngineError::Run { kind: self.engine, reason }.into());
        };
        // What the process takes already was taken from the call before.
        let memory_bytes = allowed.memory_bytes + self.process_bytes.swap(0, Ordering::Relaxed);
        process.limit(Allowance { memory_bytes, ..allowed }).await?;
        let result = process.run(inputs, self.signature.outputs.len()).await;
        if !process.has_ended() {
            self.process_bytes.store(process.bytes(), Ordering::Relaxed);
            self.process_bytes_peak.store(process.bytes_peak(), Ordering::Relaxed);
            *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        }
        result
    }
}
