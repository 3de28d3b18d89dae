//! The queue as its consumers use it: workers, and the host itself.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use skein_store::StoreError;
use tokio::time::Instant;

use super::{GROUP, HOST_TRIES_MAX, Queue, REPLY_BYTES_MAX, Task, WORKERS_MAX, delivery, scripts};
use crate::transport::Client;
use crate::transport::Failure;
use crate::transport::Reply;
use crate::{Options, Scope, own};

/// How many beats a consumer may miss before its tasks are taken from it.
const BEATS_MISSED: u32 = 3;

/// Name, role and intervals of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A name that no process has used before, without spaces.
    pub name: String,
    /// Worker or host, which decides what a failure means.
    pub role: Role,
    /// Intervals of beats and rests.
    pub pace: Pace,
}

/// What a failure of a consumer means for the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The peer's host. A task that it fails at after all workers is dead.
    Host,
    /// Any other process. A task that it fails at is left to others.
    Worker,
}

/// Intervals of beats and rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Interval between two beats. After three missed beats the consumer's tasks go to others.
    pub beat: Duration,
    /// How long a task rests after its first failure; every further failure doubles it.
    pub rest_min: Duration,
    /// The longest that a task rests.
    pub rest_max: Duration,
}

impl Place {
    /// The name of the consumer in the database, which begins with its role.
    fn full_name(&self) -> String {
        let role = match self.role {
            Role::Host => "host",
            Role::Worker => "worker",
        };
        format!("{role}:{}", self.name)
    }
}

impl Pace {
    /// How long a consumer may be silent before its tasks go to others, in milliseconds.
    fn silence(&self) -> String {
        (self.beat * BEATS_MISSED).as_millis().max(1).to_string()
    }
}

/// A consumer of the queue.
pub struct Consumer {
    queue: Queue,
    name: String,
    pace: Pace,
    held: Arc<Held>,
    /// Ends the beating thread when dropped. The thread is not joined, since it may be waiting for the database.
    _stop: Sender<()>,
}

/// A task that was delivered to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub(super) id: String,
    /// The task to work on, as it was posted.
    pub task: Task,
}

/// The result of completing a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The task is counted now.
    Counted,
    /// The task was counted before.
    Duplicate,
    /// Another consumer holds the task by now, it was posted anew, or its round has ended.
    Fenced,
}

/// Ids of the tasks that a consumer holds.
#[derive(Default)]
struct Held(Mutex<BTreeSet<String>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumer {
    /// Joins the queue and begins to beat.
    ///
    /// # Errors
    /// The database cannot be used, or the thread cannot be started.
    pub fn join(options: &Options, scope: Scope, place: Place) -> BoxFuture<'_, Result<Consumer, StoreError>> {
        Box::pin(async move {
            let queue = Queue::open(options, scope).await?;
            let name = place.full_name();
            let pace = place.pace;
            let held = Arc::<Held>::default();
            // A separate connection and runtime: beats continue whatever keeps the worker busy.
            let client = own(options, scope)?.client;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (stop, stopped) = channel::<()>();
            let keys = [queue.keys().tasks(), queue.keys().workers()];
            let pulse = Pulse { client, keys, name: name.clone(), silence: pace.silence(), held: held.clone() };
            let thread = runtime.and_then(|runtime| {
                std::thread::Builder::new().name("skein-beat".into()).spawn(move || {
                    while stopped.recv_timeout(pace.beat) == Err(RecvTimeoutError::Timeout) {
                        runtime.block_on(pulse.beat());
                    }
                })
            });
            let address = options.url.to_string();
            thread.map_err(|source| StoreError::Unreachable { address, source })?;
            Ok(Consumer { queue, name, pace, held, _stop: stop })
        })
    }

    /// The queue that this consumer has joined.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Returns up to `count` tasks: those that have rested and those of silent consumers before new ones. Waits up to
    /// `wait` for one, then returns an empty list.
    ///
    /// # Errors
    /// The database cannot be used.
    pub fn next(&self, count: usize, wait: Duration) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            loop {
                let deliveries = match self.take(count, until).await {
                    // A database that restarted empty has no group any more.
                    Err(failure) if failure.code() == Some("NOGROUP") => {
                        self.queue.create_group().await?;
                        Vec::new()
                    }
                    taken => taken.map_err(|failure| self.queue.shared.failed(failure, &self.queue.keys().tasks()))?,
                };
                // A consumer that did not beat in time finds its own tasks among those of the silent.
                let mut held = self.held.lock();
                let new: Vec<_> = deliveries.into_iter().filter(|delivery| held.insert(delivery.id.clone())).collect();
                if !new.is_empty() || Instant::now() >= until {
                    return Ok(new);
                }
            }
        })
    }

    /// Tries once to claim tasks, then waits for new ones, at most until claiming is worth another try.
    async fn take(&self, count: usize, until: Instant) -> Result<Vec<Delivery>, Failure> {
        let (deliveries, due) = self.claim(count).await?;
        if !deliveries.is_empty() {
            return Ok(deliveries);
        }
        let left = until.saturating_duration_since(Instant::now());
        self.read(count, left.min(due).min(self.pace.beat)).await
    }

    /// Returns tasks of others that may be taken now, and the time after which more may follow.
    async fn claim(&self, count: usize) -> Result<(Vec<Delivery>, Duration), Failure> {
        let keys = self.queue.keys();
        let Pace { rest_min, rest_max, .. } = self.pace;
        let tasks = keys.tasks();
        let workers = keys.workers();
        let script = scripts::claim();
        let rounds = keys.rounds_of_tasks();
        let silence = self.pace.silence();
        let workers_max = WORKERS_MAX.to_string();
        let count = count.to_string();
        let [rest_min, rest_max] = [rest_min, rest_max].map(|rest| rest.as_millis().to_string());
        let head = ["EVAL", &script, "2", &tasks, &workers, GROUP, &self.name, &rounds, &silence, &workers_max];
        let words = [&head[..], &[&count, &rest_min, &rest_max]].concat();
        let words: Vec<&[u8]> = words.into_iter().map(str::as_bytes).collect();
        let reply = self.queue.client().call(&words, REPLY_BYTES_MAX).await;
        let [entries, due] = reply?.elements()?;
        let deliveries = entries.array()?.into_iter().map(delivery).collect::<Result<_, _>>()?;
        Ok((deliveries, Duration::from_millis(due.integer()?)))
    }

    async fn read(&self, count: usize, wait: Duration) -> Result<Vec<Delivery>, Failure> {
        let tasks = self.queue.keys().tasks();
        let count = count.to_string();
        let block = wait.as_millis().max(1).to_string();
        let words =
            ["XREADGROUP", "GROUP", GROUP, &self.name, "COUNT", &count, "BLOCK", &block, "STREAMS", &tasks, ">"];
        let reply = self.queue.client().call(&words.map(str::as_bytes), REPLY_BYTES_MAX).await;
        let mut deliveries = Vec::new();
        for stream in reply.and_then(Reply::array)? {
            let [_, entries] = stream.elements()?;
            for entry in entries.array()? {
                deliveries.push(delivery(entry)?);
            }
        }
        Ok(deliveries)
    }

    /// Reports that a task is done and its result is stored.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn complete(&self, delivery: &Delivery) -> Result<Completion, StoreError> {
        let keys = self.queue.keys();
        let task = &delivery.task;
        let round = keys.round_of_tasks(task.round);
        let keys = [keys.tasks(), round.clone(), keys.events(), keys.dead()];
        let mut command = scripts::command(&scripts::complete(), &keys.each_ref().map(String::as_str));
        command.arg(GROUP).arg(&self.name).arg(&delivery.id).arg(task.round).arg(task.index);
        let completion: String = self.queue.shared.control(&command, &round).await?;
        self.held.lock().remove(&delivery.id);
        Ok(match completion.as_str() {
            "counted" => Completion::Counted,
            "duplicate" => Completion::Duplicate,
            _ => Completion::Fenced,
        })
    }

    /// Lets a failed task rest, for others to try. If this is the host, it has failed often enough and no worker is
    /// left to try, the task becomes a dead letter with this reason.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn release(&self, delivery: &Delivery, reason: &str) -> Result<(), StoreError> {
        let keys = self.queue.keys();
        let tasks = keys.tasks();
        let all = [&tasks, &keys.workers(), &keys.events(), &keys.dead()];
        let mut command = scripts::command(&scripts::release(), &all.map(String::as_str));
        command.arg(GROUP).arg(&self.name).arg(keys.rounds_of_tasks()).arg(self.pace.silence()).arg(WORKERS_MAX);
        command.arg(&delivery.id).arg(reason).arg(HOST_TRIES_MAX);
        self.queue.shared.control::<String>(&command, &tasks).await?;
        self.held.lock().remove(&delivery.id);
        Ok(())
    }

    /// Drops a task whose round has ended.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn discard(&self, delivery: &Delivery) -> Result<(), StoreError> {
        let keys = self.queue.keys();
        let task = &delivery.task;
        let round = keys.round_of_tasks(task.round);
        let mut command = scripts::command(scripts::DISCARD, &[&keys.tasks(), &round]);
        command.arg(GROUP).arg(&self.name).arg(&delivery.id).arg(task.index);
        self.queue.shared.control::<()>(&command, &round).await?;
        self.held.lock().remove(&delivery.id);
        Ok(())
    }

    /// Stops beating for a task, which goes to another consumer once enough beats are missed.
    pub fn abandon(&self, delivery: &Delivery) {
        self.held.lock().remove(&delivery.id);
    }

    /// Leaves the queue. Tasks still held go to others once enough beats are missed.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn leave(self) -> Result<(), StoreError> {
        let tasks = self.queue.keys().tasks();
        let workers = self.queue.keys().workers();
        let mut command = scripts::command(scripts::LEAVE, &[&tasks, &workers]);
        self.queue.shared.control(command.arg(GROUP).arg(&self.name), &tasks).await
    }
}

/// The state of the beating thread.
struct Pulse {
    client: Client,
    /// Keys of the tasks and of the workers.
    keys: [String; 2],
    name: String,
    silence: String,
    held: Arc<Held>,
}

impl Pulse {
    async fn beat(&self) {
        let ids: Vec<String> = self.held.lock().iter().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let mut command = scripts::command(&scripts::beat(), &self.keys.each_ref().map(String::as_str));
        command.arg(GROUP).arg(&self.name).arg(&self.silence).arg(ids);
        if let Err(failure) = self.client.control::<u32>(&command).await {
            // The next beat tries again; if none arrives, others take the tasks, as they should.
            tracing::warn!(%failure, "failed to send a beat");
        }
    }
}
