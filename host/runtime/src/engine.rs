//! The wasmtime engine, its ticker, and the runtime that owns both.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::cache::Cache;
use crate::capability::Linkers;
use crate::options::Options;

/// Time between two epochs: how often a busy guest yields and its processor time is counted.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Core instances, memories and tables that the pool keeps for each call. Components made by
/// `componentize-py` and `componentize-js` have the most; a Rust guest has two instances and one memory.
const INSTANCES_PER_CALL: u32 = 40;
const MEMORIES_PER_CALL: u32 = 2;
const TABLES_PER_CALL: u32 = 8;

/// The worlds in `wit/` that functions implement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum World {
    /// One batch to one gradient.
    Gradient,
    /// The contributions of a round to one vector.
    Aggregate,
}

impl World {
    /// The interface that a function of this world exports.
    pub(crate) fn export(self) -> &'static str {
        match self {
            World::Gradient => "skein:train/gradients@0.1.0",
            World::Aggregate => "skein:train/aggregation@0.1.0",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            World::Gradient => "gradient",
            World::Aggregate => "aggregate",
        })
    }
}

/// Where a function's compiled artifact came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was compiled now.
    Compiled,
    /// An earlier start had compiled it.
    Cached,
}

/// Everything needed to load and call functions. Cloning shares it.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) linkers: Linkers,
    pub(crate) cache: Option<Cache>,
    pub(crate) options: Options,
    /// One permit a running call: calls wait here instead of finding the pool exhausted.
    pub(crate) permits: Semaphore,
    _ticker: Ticker,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Starts the runtime: reserves the pool and starts the ticker's thread.
    ///
    /// # Errors
    /// The engine can not be set up on this machine, or the cache's folder can not be used.
    pub fn start(options: Options) -> Result<Runtime, StartError> {
        let engine = new_engine(options.concurrency).map_err(|error| StartError::Engine(error.into()))?;
        let linkers = Linkers::new(&engine).map_err(|error| StartError::Engine(error.into()))?;
        let cache = options.cache_dir.as_deref().map(|dir| Cache::open(dir, &engine)).transpose();
        let cache =
            cache.map_err(|source| StartError::Cache { dir: options.cache_dir.clone().unwrap_or_default(), source })?;
        let ticker = Ticker::start(&engine).map_err(|error| StartError::Engine(error.into()))?;
        let permits = Semaphore::new(options.concurrency);
        Ok(Runtime(Arc::new(Shared { engine, linkers, cache, options, permits, _ticker: ticker })))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

/// The runtime could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// wasmtime does not run here, or not with so many calls at a time.
    #[error("failed to set up the WebAssembly engine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The folder of the cache can not be used.
    #[error("failed to use `{}` as the cache of compiled functions", dir.display())]
    Cache {
        /// The folder.
        dir: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// An engine whose artifacts depend on nothing but this function, so that the cache and a compiling child
/// process agree with every runtime.
pub(crate) fn new_engine(concurrency: usize) -> wasmtime::Result<Engine> {
    let calls = u32::try_from(concurrency).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(INSTANCES_PER_CALL))
        .total_memories(calls.saturating_mul(MEMORIES_PER_CALL))
        .total_tables(calls.saturating_mul(TABLES_PER_CALL))
        .total_stacks(calls)
        .max_core_instances_per_component(INSTANCES_PER_CALL)
        .max_memories_per_component(MEMORIES_PER_CALL)
        .max_tables_per_component(TABLES_PER_CALL)
        // wasmtime's own defaults reject the components of larger languages; these are what Spin ships.
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .table_elements(100_000)
        .max_memory_size(4 << 30);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .memory_init_cow(true)
        // Every peer has to get the same bits from the same instructions.
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        // Without debug information a backtrace is function names at most, and it costs at every trap.
        .wasm_backtrace_max_frames(None);
    Engine::new(&config)
}

/// Advances the engine's epoch from a thread of its own, which no busy guest can hold up.
struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: &Engine) -> std::io::Result<Ticker> {
        let (stop, stopped) = channel::<()>();
        let engine = engine.weak();
        let thread = std::thread::Builder::new().name("skein-ticker".into()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread only ever waits for the channel that was just closed.
            let _ = thread.join();
        }
    }
}
