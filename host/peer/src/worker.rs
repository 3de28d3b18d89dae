//! Gradient calls for a peer, by its host and by any `skein worker` that reaches its database.

mod concurrency;
mod pause;

use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::BoxFuture;
use serde::Serialize;
use skein_redis::queue::{Completion, Consumer, Delivery, Pace, Place, Role};
use skein_runtime::gradient::{Batch, Gradient, GradientFunction, Parameters};
use skein_runtime::{Call, Usage};
use skein_store::{Ports, StoreError};
use skein_types::Layout;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use self::concurrency::ConcurrencyLimiter;
use self::pause::Pause;
use crate::bundle::{TaskPayload, decode_batch};
use crate::compute::slot_of;
use crate::pool::{FunctionPool, Purpose};

/// How consumers wait. A released task rests long enough for a shortage to pass, and for less than the wait for a peer.
pub const PACE: Pace =
    Pace { beat: Duration::from_secs(2), rest_min: Duration::from_millis(250), rest_max: Duration::from_secs(5) };
/// How long an idle worker waits before it looks for tasks of workers that went silent. It is also how long leaving may
/// take.
const IDLE: Duration = Duration::from_millis(300);

/// A place at a queue, under a new random name.
///
/// # Errors
/// The operating system provides no random bytes.
pub fn place(role: Role) -> Result<Place> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the operating system provided no random bytes")?;
    let name = format!("{}-{}", std::process::id(), hex::encode(bytes));
    Ok(Place { name, role, pace: PACE })
}

/// A worker at the queue of one peer.
pub struct QueueWorker {
    /// Threads that run functions.
    pub pool: Arc<FunctionPool>,
    /// The job's gradient function.
    pub gradient: GradientFunction,
    /// Names and shapes of the parameters.
    pub layout: Arc<Layout>,
    /// Most samples of a batch: memory grows with them.
    pub batch_size: u32,
    /// Store with the parameters, and with the sum that gradients are added to.
    pub store: Ports,
    /// The worker's place at the queue.
    pub consumer: Consumer,
}

/// Tasks and pauses of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WorkerSummary {
    /// Tasks whose gradient counted.
    pub counted: u64,
    /// Tasks that others had already completed, or whose round had ended.
    pub late: u64,
    /// Tasks that failed, and were released for others.
    pub released: u64,
    /// How often it paused because tasks failed.
    pub pauses: u64,
    /// Why the last task was released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

impl AddAssign for WorkerSummary {
    fn add_assign(&mut self, other: WorkerSummary) {
        let WorkerSummary { counted, late, released, pauses, last_failure } = other;
        self.counted += counted;
        self.late += late;
        self.released += released;
        self.pauses += pauses;
        self.last_failure = last_failure.or(self.last_failure.take());
    }
}

/// State of a worker while it runs.
struct Progress {
    width: ConcurrencyLimiter,
    pause: Pause,
    done: WorkerSummary,
}

/// Result of one task, and the usage of its call if one was made.
struct TaskOutcome {
    delivery: Delivery,
    result: Result<Completion>,
    usage: Option<Usage>,
}

impl QueueWorker {
    /// Works until `stop` is set, then finishes the tasks that it has and leaves.
    ///
    /// # Errors
    /// The database cannot be used.
    pub fn run(self, mut stop: watch::Receiver<bool>) -> BoxFuture<'static, Result<WorkerSummary>> {
        Box::pin(async move {
            let worker = Arc::new(self);
            let width = ConcurrencyLimiter::new(worker.pool.concurrency());
            let mut progress = Progress { width, pause: Pause::default(), done: WorkerSummary::default() };
            let mut running = JoinSet::new();
            // A separate task that is never cancelled takes deliveries: cancelled, it could lose some until another
            // worker misses this one's beats.
            let mut asking = JoinSet::new();
            while !*stop.borrow() || !asking.is_empty() || !running.is_empty() {
                let free = progress.width.get().saturating_sub(running.len());
                let pause = progress.pause.until(Instant::now());
                if asking.is_empty() && free > 0 && pause.is_none() && !*stop.borrow() {
                    let worker = worker.clone();
                    asking.spawn(async move { worker.consumer.next(free, IDLE).await }.in_current_span());
                }
                let pause_ends = async {
                    match pause {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = stop.changed(), if !*stop.borrow() => changed.context("nothing is left that could stop the worker")?,
                    Some(ended) = running.join_next() => worker.finish(ended?, &mut progress).await,
                    Some(deliveries) = asking.join_next() => for delivery in deliveries?? {
                        let worker = worker.clone();
                        running.spawn(async move { worker.carry_out(delivery).await }.in_current_span());
                    },
                    () = pause_ends => {}
                }
            }
            let worker = Arc::into_inner(worker).context("a task of the worker still runs")?;
            worker.consumer.leave().await?;
            Ok(progress.done)
        })
    }

    async fn finish(&self, ended: TaskOutcome, Progress { width, pause, done }: &mut Progress) {
        match ended.result {
            Ok(completion) => {
                // Only calls that succeed count: those that fail early would raise the width, and more would fail.
                if let Some(usage) = &ended.usage {
                    width.observe(usage.memory_bytes_peak as u64, usage.duration);
                    pause.succeeded();
                }
                match completion {
                    Completion::Counted => done.counted += 1,
                    Completion::Duplicate | Completion::Fenced => done.late += 1,
                }
            }
            Err(error) => {
                let task = &ended.delivery.task;
                let reason = format!("{error:#}");
                tracing::warn!(round = task.round, index = task.index, reason, "released a task");
                done.released += 1;
                // If the database is to blame, the task is not: it goes to another worker once its beats are missed.
                let is_of_the_store = error.chain().any(|cause| cause.is::<StoreError>());
                if is_of_the_store || self.consumer.release(&ended.delivery, &reason).await.is_err() {
                    self.consumer.abandon(&ended.delivery);
                }
                if let Some(pause_for) = pause.failed(Instant::now()) {
                    done.pauses += 1;
                    tracing::warn!(
                        failures = pause.failures(),
                        ?pause_for,
                        "this worker pauses because its tasks fail"
                    );
                }
                done.last_failure = Some(reason);
            }
        }
    }

    #[tracing::instrument(
        level = "debug",
        name = "batch",
        skip_all,
        fields(round = delivery.task.round, index = delivery.task.index)
    )]
    async fn carry_out(self: Arc<Self>, delivery: Delivery) -> TaskOutcome {
        let mut usage = None;
        let result = self.compute(&delivery, &mut usage).await;
        TaskOutcome { delivery, result, usage }
    }

    /// Computes the gradient of a task, adds it to the sum, and then completes the task. If a worker dies in between,
    /// the next one finds the batch already accumulated.
    async fn compute(&self, delivery: &Delivery, usage: &mut Option<Usage>) -> Result<Completion> {
        let task = &delivery.task;
        let payload: TaskPayload = serde_json::from_str(&task.payload).context("malformed task payload")?;
        let (round, values) = self.store.state.parameters().await?;
        if task.round <= round {
            self.consumer.discard(delivery).await?;
            return Ok(Completion::Fenced);
        }
        if task.round != round + 1 {
            return Err(StoreError::OutOfOrder { round: task.round, state: round }.into());
        }
        // A task is done only once its gradient is in the sum, so one without a batch fails.
        let bytes = self.consumer.queue().get(&payload.batch).await?;
        let bytes = bytes.with_context(|| format!("the database does not have `{}`", payload.batch))?;
        let parameters = Parameters { layout: self.layout.clone(), values: values.buffer() };
        let batch = decode_batch(&bytes)?;
        ensure!(
            batch.samples <= self.batch_size,
            "a batch of {} samples, `train.batch_size` is {}",
            batch.samples,
            self.batch_size
        );
        let gradient = self.call(parameters, batch, usage).await?;
        let slot = slot_of(&gradient, task.index, payload.batches);
        self.store.sums.accumulate(task.round, slot, gradient.flat()?).await?;
        Ok(self.consumer.complete(delivery).await?)
    }

    /// Calls the function on the pool's threads.
    async fn call(&self, parameters: Parameters, batch: Batch, usage: &mut Option<Usage>) -> Result<Gradient> {
        let function = self.gradient.clone();
        let account = self.pool.account(Purpose::Gradient);
        let call = async move {
            let mut used = None;
            let slot = function.slot().await;
            let call = async {
                let Call { result, usage } = function.compute(&slot, parameters, batch).await;
                used = Some(usage);
                Call { result, usage }
            };
            let result = account.book(call).await;
            (result, used)
        };
        let (result, used) = self.pool.run(call).await?;
        *usage = used;
        Ok(result?)
    }
}
