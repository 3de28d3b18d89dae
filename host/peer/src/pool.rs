//! Threads that run functions, and a ledger of what the calls used. The runtime bounds how many functions run at the
//! same time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use skein_runtime::{Call, CallError, Usage};
use tokio::task::JoinSet;
use tracing::Instrument;

/// Threads for guests, separate from those that serve peers, so that a busy guest delays no record and no timer.
pub struct FunctionPool {
    threads: Option<tokio::runtime::Runtime>,
    ledger: Arc<Mutex<Ledger>>,
    concurrency: usize,
}

/// How long a thread for engines waits for its next run.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Resources that all calls used together.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ledger {
    /// Calls of the gradient function's `compute`.
    pub gradient_calls: u64,
    /// Calls of the gradient function's `evaluate`.
    pub evaluate_calls: u64,
    /// Calls of the aggregation function.
    pub aggregate_calls: u64,
    /// Calls that were a function's first.
    pub cold_calls: u64,
    /// Peak memory times duration, over all calls.
    pub gb_seconds: f64,
    /// Durations of all calls, summed.
    pub function_ms: f64,
    /// Time during which at least one function ran.
    pub busy_ms: f64,
    #[serde(skip)]
    running: usize,
    #[serde(skip)]
    busy_since: Option<Instant>,
}

/// Purpose of a call, by which the ledger counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The gradient of a batch.
    Gradient,
    /// The evaluation of parameters.
    Evaluate,
    /// The aggregation of a round's contributions.
    Aggregate,
}

impl FunctionPool {
    /// Starts `concurrency` threads.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn start(concurrency: usize) -> std::io::Result<FunctionPool> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(concurrency)
            .thread_name("skein-function")
            // Threads for engines, of which a burst of stopped calls may start more than are needed later.
            .thread_keep_alive(KEEP_ALIVE)
            // Gradients go to a database from the thread that computed them.
            .enable_all()
            .build()?;
        Ok(FunctionPool { threads: Some(threads), ledger: Arc::default(), concurrency })
    }

    /// Number of threads, and so of functions that run at the same time.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Runs `task` on the pool's threads as part of `set`, in the span that is open here.
    pub fn spawn<T: Send + 'static>(&self, set: &mut JoinSet<T>, task: impl Future<Output = T> + Send + 'static) {
        let threads = self.threads.as_ref().expect("the threads are taken in `drop` only");
        set.spawn_on(task.in_current_span(), threads.handle());
    }

    /// Runs `task` on the pool's threads and waits for it.
    ///
    /// # Errors
    /// The task panicked.
    pub async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let mut set = JoinSet::new();
        self.spawn(&mut set, task);
        set.join_next().await.context("one task was spawned")?.context("a call was lost")
    }

    /// A copy of the ledger so far.
    pub fn ledger(&self) -> Ledger {
        lock(&self.ledger).clone()
    }

    /// An account for one call.
    pub fn account(&self, purpose: Purpose) -> Account {
        Account { ledger: self.ledger.clone(), purpose }
    }
}

impl Drop for FunctionPool {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // Guests that still run are dropped at their next tick, without a wait for them.
            threads.shutdown_background();
        }
    }
}

/// Adds one call to the ledger.
pub struct Account {
    ledger: Arc<Mutex<Ledger>>,
    purpose: Purpose,
}

impl Account {
    /// Waits for the call, books it, and returns its result.
    ///
    /// # Errors
    /// The call failed.
    pub async fn book<T>(self, call: impl Future<Output = Call<T>>) -> Result<T, CallError> {
        let running = Running::start(&self.ledger);
        let Call { result, usage } = call.await;
        drop(running);
        lock(&self.ledger).add(self.purpose, &usage);
        result
    }
}

/// A call while it runs; counts as running until it is dropped, even if the call is abandoned.
struct Running<'a>(&'a Mutex<Ledger>);

impl Running<'_> {
    fn start(ledger: &Mutex<Ledger>) -> Running<'_> {
        let mut account = lock(ledger);
        account.running += 1;
        account.busy_since.get_or_insert_with(Instant::now);
        Running(ledger)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut account = lock(self.0);
        account.running -= 1;
        if account.running == 0
            && let Some(since) = account.busy_since.take()
        {
            account.busy_ms += ms(since.elapsed());
        }
    }
}

impl Ledger {
    fn add(&mut self, purpose: Purpose, usage: &Usage) {
        match purpose {
            Purpose::Gradient => self.gradient_calls += 1,
            Purpose::Evaluate => self.evaluate_calls += 1,
            Purpose::Aggregate => self.aggregate_calls += 1,
        }
        self.cold_calls += u64::from(usage.cold);
        self.gb_seconds += usage.gb_seconds();
        self.function_ms += ms(usage.duration);
    }
}

/// Counters are consistent between two statements, so a panic elsewhere does not corrupt them.
fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds with their fraction.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
