//! The wasmtime engine and its ticker.

use std::num::NonZeroUsize;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::world::World;

/// Longest time between two epochs: how often a busy guest yields at least, and its processor time is counted.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Core instances, memories and tables that the pool keeps for each call; Spin's values. A Python guest takes some 14
/// instances and one more for each native library, a Rust guest two instances and one memory.
pub(crate) const INSTANCES_PER_CALL: u32 = 200;
pub(crate) const MEMORIES_PER_CALL: u32 = 32;
pub(crate) const TABLES_PER_CALL: u32 = 64;

/// Bytes of each memory and of each table that stay resident between calls, as far as a call wrote them: the next call
/// takes no page faults for them. A small function writes less; a call that uses all memories and tables keeps 9 MiB.
const KEPT_MEMORY_BYTES: usize = 256 << 10;
const KEPT_TABLE_BYTES: usize = 16 << 10;

/// What a call takes of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShare {
    /// Instances of core modules.
    pub core_instances: u64,
    /// Linear memories of all of them.
    pub memories: u64,
    /// Tables of all of them.
    pub tables: u64,
}

impl PoolShare {
    /// Most that a call may take. A component that needs more is refused when it is loaded.
    pub const MAX: PoolShare = PoolShare {
        core_instances: INSTANCES_PER_CALL as u64,
        memories: MEMORIES_PER_CALL as u64,
        tables: TABLES_PER_CALL as u64,
    };

    /// What all calls of an engine take together at the moment; `None` if it has no pool.
    pub(crate) fn of_all_calls(engine: &Engine) -> Option<PoolShare> {
        let metrics = engine.pooling_allocator_metrics()?;
        Some(PoolShare {
            core_instances: metrics.core_instances(),
            memories: metrics.memories() as u64,
            tables: metrics.tables() as u64,
        })
    }
}

/// Frames that a trap keeps. The innermost come first; those of a panic's own functions are some ten.
const FRAMES_MAX: usize = 32;

/// The settings of a world's engine, without a pool. Artifacts depend on nothing else, so that the cache and a compiling
/// child process agree with every runtime.
pub(crate) fn config(world: World) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        // Every peer has to get the same bits from the same instructions.
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        // An aggregate is part of the state, which peers compare. The bits of a NaN differ between processors.
        .cranelift_nan_canonicalization(world == World::Aggregate)
        // Names of functions, for the message of a trap.
        .wasm_backtrace_max_frames(NonZeroUsize::new(FRAMES_MAX));
    config
}

/// The engine of a world, with a pool for so many calls at a time.
pub(crate) fn new_engine(world: World, concurrency: usize) -> wasmtime::Result<Engine> {
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
        .max_memories_per_module(MEMORIES_PER_CALL)
        .max_tables_per_module(TABLES_PER_CALL)
        // wasmtime's defaults reject the components of larger languages; these are Spin's values.
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .table_elements(100_000)
        .max_memory_size(4 << 30);
    // Only where the kernel tells which pages were written: otherwise so many bytes would be cleared after every call.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(KEPT_MEMORY_BYTES)
            .table_keep_resident(KEPT_TABLE_BYTES);
    }
    let mut config = config(world);
    Engine::new(config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)))
}

/// Advances the epochs of engines from its own thread, which no busy guest can delay.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start<'a>(engines: impl Iterator<Item = &'a Engine>) -> std::io::Result<Ticker> {
        let (stop, stopped) = channel::<()>();
        let engines: Vec<_> = engines.map(Engine::weak).collect();
        let thread = std::thread::Builder::new().name("skein-ticker".into()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                engines.iter().filter_map(EngineWeak::upgrade).for_each(|engine| engine.increment_epoch());
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
