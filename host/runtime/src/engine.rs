//! The wasmtime engine and its ticker.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Time between two epochs: how often a busy guest yields and its processor time is counted.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Core instances, memories and tables that the pool keeps for each call. Components made by
/// `componentize-py` and `componentize-js` have the most; a Rust guest has two instances and one memory.
const INSTANCES_PER_CALL: u32 = 40;
const MEMORIES_PER_CALL: u32 = 2;
const TABLES_PER_CALL: u32 = 8;

/// An engine whose artifacts depend only on this function, so that the cache and a compiling child process agree with
/// every runtime.
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
        // wasmtime's defaults reject the components of larger languages; these are Spin's values.
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
        // Without debug information a backtrace holds function names at most, and it costs time at every trap.
        .wasm_backtrace_max_frames(None);
    Engine::new(&config)
}

/// Advances the engine's epoch from its own thread, which no busy guest can delay.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Ticker> {
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
