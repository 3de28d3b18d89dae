//! State that all functions share: the engines, the imports of guests, the cache, the permits.

use std::fmt;
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::cache::Cache;
use crate::capability::{State, linker};
use crate::engine::{Ticker, new_engine};
use crate::options::Options;
use crate::run_queue::RunQueue;
use crate::slot::Slots;
use crate::world::World;

/// Everything needed to load and call functions. Cloning shares it.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

pub(crate) struct Shared {
    gradient: WorldEngine,
    aggregate: WorldEngine,
    pub(crate) cache: Option<Cache>,
    pub(crate) options: Options,
    /// One slot per running call: calls wait here instead of finding a pool exhausted, whichever engine's it is.
    pub(crate) slots: Arc<Slots>,
    pub(crate) run_queue: RunQueue,
    _ticker: Ticker,
}

/// What the functions of one world run on.
pub(crate) struct WorldEngine {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
}

impl WorldEngine {
    fn new(world: World, concurrency: usize) -> Result<WorldEngine, StartError> {
        let set_up = || {
            let engine = new_engine(world, concurrency)?;
            let linker = linker(&engine, world)?;
            Ok(WorldEngine { engine, linker })
        };
        set_up().map_err(|error: wasmtime::Error| StartError::Engine(error.into()))
    }
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
    /// The engine cannot be set up on this machine, or the cache's folder cannot be used.
    pub fn start(options: Options) -> Result<Runtime, StartError> {
        let gradient = WorldEngine::new(World::Gradient, options.concurrency)?;
        let aggregate = WorldEngine::new(World::Aggregate, options.concurrency)?;
        let cache =
            options.cache_dir.as_deref().map(|dir| Cache::open(dir, u64::from(options.cache_mib) << 20)).transpose();
        let cache =
            cache.map_err(|source| StartError::Cache { dir: options.cache_dir.clone().unwrap_or_default(), source })?;
        let engines = [&gradient.engine, &aggregate.engine];
        let ticker = Ticker::start(engines.into_iter());
        let ticker = ticker.map_err(|error| StartError::Engine(error.into()))?;
        let slots = Arc::new(Slots::new(&options));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let run_queue = RunQueue::new(processors.min(options.concurrency), engines);
        Ok(Runtime(Arc::new(Shared { gradient, aggregate, cache, options, slots, run_queue, _ticker: ticker })))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Shared {
    pub(crate) fn of_world(&self, world: World) -> &WorldEngine {
        match world {
            World::Gradient => &self.gradient,
            World::Aggregate => &self.aggregate,
        }
    }
}

/// The runtime could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// wasmtime does not run on this machine, or not with so many calls at a time.
    #[error("failed to set up the WebAssembly engine")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The folder of the cache cannot be used.
    #[error("failed to use `{}` as the cache of compiled functions", dir.display())]
    Cache {
        /// The cache's folder, as configured.
        dir: std::path::PathBuf,
        /// Why the folder cannot be used.
        source: std::io::Error,
    },
}
