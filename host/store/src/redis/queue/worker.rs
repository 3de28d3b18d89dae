//! The queue as a worker uses it.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{DELIVERIES_MAX, GROUP, Queue, REPLY_BYTES_MAX, Task, delivery, scripts};
use crate::StoreError;
use crate::redis::failure::Failure;
use crate::redis::link::Link;
use crate::redis::reply::Reply;
use crate::redis::{Options, Scope, own};

/// How many beats a worker may miss before its tasks are taken from it.
const BEATS_MISSED: u32 = 3;

/// A worker's place at the queue.
pub struct Consumer {
    queue: Queue,
    name: String,
    beat: Duration,
    held: Arc<Held>,
    /// Ends the thread that beats when it is dropped. Nobody waits for the thread, which may be waiting for a database.
    _stop: Sender<()>,
}

/// A task that was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub(super) id: String,
    /// The task.
    pub task: Task,
}

/// What became of a task that was said to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// It counts.
    Counted,
    /// It was counted before.
    Duplicate,
    /// It is another worker's by now, or its round is over.
    Fenced,
}

/// Tasks in the hands of a worker.
#[derive(Default)]
struct Held(Mutex<BTreeSet<String>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumer {
    /// Takes a place at the queue under a `name` that no process has had before, and begins to beat once in `beat`.
    ///
    /// # Errors
    /// The database can not be used, or the thread can not be started.
    pub async fn join(options: &Options, scope: Scope, name: String, beat: Duration) -> Result<Consumer, StoreError> {
        let queue = Queue::open(options, scope).await?;
        let held = Arc::<Held>::default();
        // A connection and a runtime of its own: whatever keeps the worker busy, the beat goes on.
        let link = own(options, scope)?.link;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (stop, stopped) = channel::<()>();
        let pulse = Pulse { link, tasks: queue.keys().tasks(), name: name.clone(), held: held.clone() };
        let thread = runtime.and_then(|runtime| {
            std::thread::Builder::new().name("skein-beat".into()).spawn(move || {
                while stopped.recv_timeout(beat) == Err(RecvTimeoutError::Timeout) {
                    runtime.block_on(pulse.beat());
                }
            })
        });
        let address = options.url.to_string();
        thread.map_err(|source| StoreError::Unreachable { address, source })?;
        Ok(Consumer { queue, name, beat, held, _stop: stop })
    }

    /// The queue itself.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Up to `count` tasks: those of workers that went silent before new ones. Waits for one until `wait` is over, and
    /// then gives none.
    ///
    /// # Errors
    /// The database can not be used.
    pub async fn next(&self, count: usize, wait: Duration) -> Result<Vec<Delivery>, StoreError> {
        let deliveries = match self.take(count, wait).await {
            // A database that came back empty has no group any more.
            Err(failure) if failure.code() == Some("NOGROUP") => {
                self.queue.create_group().await?;
                Vec::new()
            }
            taken => taken.map_err(|failure| self.queue.shared.failed(failure, &self.queue.keys().tasks()))?,
        };
        self.held.lock().extend(deliveries.iter().map(|delivery| delivery.id.clone()));
        Ok(deliveries)
    }

    async fn take(&self, count: usize, wait: Duration) -> Result<Vec<Delivery>, Failure> {
        let deliveries = self.claim(count).await?;
        if deliveries.is_empty() { self.read(count, wait).await } else { Ok(deliveries) }
    }

    async fn claim(&self, count: usize) -> Result<Vec<Delivery>, Failure> {
        let keys = self.queue.keys();
        let (tasks, idle) = (keys.tasks(), (self.beat * BEATS_MISSED).as_millis().to_string());
        let (events, dead, script) = (keys.events(), keys.dead(), scripts::claim());
        let (count, prefix) = (count.to_string(), keys.rounds_of_tasks());
        let most = DELIVERIES_MAX.to_string();
        let words = ["EVAL", &script, "3", &tasks, &events, &dead, GROUP, &self.name, &idle, &count, &most, &prefix];
        let reply = self.queue.link().call(&words.map(str::as_bytes), REPLY_BYTES_MAX).await;
        reply.and_then(Reply::array)?.into_iter().map(delivery).collect()
    }

    async fn read(&self, count: usize, wait: Duration) -> Result<Vec<Delivery>, Failure> {
        let (tasks, count, block) = (self.queue.keys().tasks(), count.to_string(), wait.as_millis().max(1).to_string());
        let words =
            ["XREADGROUP", "GROUP", GROUP, &self.name, "COUNT", &count, "BLOCK", &block, "STREAMS", &tasks, ">"];
        let reply = self.queue.link().call(&words.map(str::as_bytes), REPLY_BYTES_MAX).await;
        let mut deliveries = Vec::new();
        for stream in reply.and_then(Reply::array)? {
            let [_, entries] = stream.elements()?;
            for entry in entries.array()? {
                deliveries.push(delivery(entry)?);
            }
        }
        Ok(deliveries)
    }

    /// Says that a task is done, and that its result is where it belongs.
    ///
    /// # Errors
    /// The database can not be used.
    pub async fn complete(&self, delivery: &Delivery) -> Result<Completion, StoreError> {
        let (keys, task) = (self.queue.keys(), &delivery.task);
        let round = keys.round_of_tasks(task.round);
        let mut command = scripts::command(scripts::COMPLETE, &[&keys.tasks(), &round, &keys.events()]);
        command.arg(GROUP).arg(&self.name).arg(&delivery.id).arg(task.round).arg(task.index);
        let completion: String = self.queue.shared.control(&command, &round).await?;
        self.held.lock().remove(&delivery.id);
        Ok(match completion.as_str() {
            "counted" => Completion::Counted,
            "duplicate" => Completion::Duplicate,
            _ => Completion::Fenced,
        })
    }

    /// Gives a task back, for another worker to try; after the last try it is a dead letter with this reason.
    ///
    /// # Errors
    /// The database can not be used.
    pub async fn release(&self, delivery: &Delivery, reason: &str) -> Result<(), StoreError> {
        let keys = self.queue.keys();
        let mut command = scripts::command(&scripts::release(), &[&keys.tasks(), &keys.events(), &keys.dead()]);
        command.arg(GROUP).arg(&self.name).arg(&delivery.id).arg(reason).arg(DELIVERIES_MAX);
        self.queue.shared.control::<()>(command.arg(keys.rounds_of_tasks()), &keys.tasks()).await?;
        self.held.lock().remove(&delivery.id);
        Ok(())
    }

    /// Says nothing more about a task: it goes to another worker when the beats are missed.
    pub fn abandon(&self, delivery: &Delivery) {
        self.held.lock().remove(&delivery.id);
    }

    /// Leaves the queue. Tasks that are still held go to others when the beats are missed.
    ///
    /// # Errors
    /// The database can not be used.
    pub async fn leave(self) -> Result<(), StoreError> {
        let tasks = self.queue.keys().tasks();
        let mut command = scripts::command(scripts::LEAVE, &[&tasks]);
        self.queue.shared.control(command.arg(GROUP).arg(&self.name), &tasks).await
    }
}

/// What the thread needs that beats.
struct Pulse {
    link: Link,
    tasks: String,
    name: String,
    held: Arc<Held>,
}

impl Pulse {
    async fn beat(&self) {
        let ids: Vec<String> = self.held.lock().iter().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let mut command = scripts::command(scripts::BEAT, &[&self.tasks]);
        command.arg(GROUP).arg(&self.name).arg(ids);
        if let Err(failure) = self.link.control::<u32>(&command).await {
            // The next beat tries again; if none gets through, others take the tasks, as they should.
            tracing::warn!(%failure, "failed to tell that this worker is alive");
        }
    }
}
