//! The work queue: the batches of a round as tasks that any worker of the peer may take.
//!
//! A stream with one consumer group delivers every task to one consumer at a time. A consumer sends beats from a
//! separate thread; a task whose consumer falls silent goes to another.
//!
//! A worker that failed at a task does not get it again. The task rests before another worker gets it, longer after
//! every failure. Once three workers have failed at it or fallen silent over it, only the host takes it. The host gives
//! up a task only after it has failed itself and no worker is left that may try: no worker can bury a task.
//!
//! Every change is one atomic step of the database, so a task counts once however often it was carried out:
//!
//! | step | what it does |
//! |---|---|
//! | post | adds tasks that were never posted |
//! | claim | takes tasks that have rested, and those of silent consumers |
//! | beat | keeps the consumer's own tasks from being taken |
//! | complete | counts a task that no other consumer holds; the last one wakes the waiting host |
//! | release | lets a failed task rest; makes it a dead letter if the host is the last to fail |
//! | discard | drops a task whose round has ended |
//! | redrive | posts a dead letter again |
//!
//! Tasks name keys; the stream never carries values.

mod scripts;
mod worker;

use std::time::Duration;

use futures_util::future::BoxFuture;
use skein_store::StoreError;
use skein_types::{Digest, PeerId};

use super::{START_WAIT, Scope, UNSCOPED, own, reached};
use crate::keys::{FORMAT, Keys};
use crate::store::shared::RedisBase;
use crate::transport::Client;
use crate::transport::Failure;
use crate::transport::Reply;
use crate::transport::options::Options;

pub use worker::{Completion, Consumer, Delivery, Pace, Place, Role};

/// The consumer group of all workers.
const GROUP: &str = "workers";
/// Workers that may fail at a task, or fall silent over it, before only the host takes it: after three, a fourth is
/// unlikely to succeed.
const WORKERS_MAX: u32 = 3;
/// Failures of the host before it gives up a task: two, since a shortage of memory may pass.
const HOST_TRIES_MAX: u32 = 2;
/// Largest reply about tasks, which carry names only.
const REPLY_BYTES_MAX: usize = 4 << 20;
/// Largest blob: a component, a model or a batch.
const BLOB_BYTES_MAX: usize = 1 << 30;
/// Tasks posted in one step: few enough that other clients do not wait long for the database.
const POST_MAX: usize = 500;

/// The work queue of one peer, as its host uses it.
pub struct Queue {
    shared: RedisBase,
}

/// One task of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The round, from 1.
    pub round: u64,
    /// Index within the round, from 0.
    pub index: u32,
    /// Instructions for the worker, which name keys and hold no values.
    pub payload: String,
}

/// Tasks counted in a round: both numbers are the same unless a task was counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Tasks whose state is `counted`.
    pub tasks: u64,
    /// How often a task was counted.
    pub count: u64,
}

/// How the tasks of a round ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All tasks were counted.
    Done,
    /// One of the tasks is a dead letter: the host failed at it, and no worker was left to try it.
    Dead {
        /// Index of the task.
        index: u32,
        /// Why the host failed at it.
        reason: String,
    },
}

/// A task that the host failed at when no worker was left to try it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Id in the stream of dead letters.
    pub id: String,
    /// The task that was given up.
    pub task: Task,
    /// Why the host failed at it.
    pub reason: String,
}

/// The key that holds the scope of the queue, for workers that know only the address of the database.
pub(crate) const SCOPE_KEY: &str = "skein:scope";

/// Reads which queue a database has, for workers that know only its address.
pub struct ScopeReader {
    shared: RedisBase,
}

impl ScopeReader {
    /// Connects to a database.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn open(options: &Options) -> Result<ScopeReader, StoreError> {
        Ok(ScopeReader { shared: reached(options, UNSCOPED, START_WAIT).await? })
    }

    /// Returns the scope of the queue; `None` if no host has ever advertised one.
    ///
    /// # Errors
    /// The database cannot be used, or its host is another version of this program.
    pub async fn read(&self) -> Result<Option<Scope>, StoreError> {
        let shared = &self.shared;
        let text: Option<String> = shared.control(redis::cmd("GET").arg(SCOPE_KEY), SCOPE_KEY).await?;
        let Some(text) = text else { return Ok(None) };
        match text.split(' ').collect::<Vec<_>>()[..] {
            [format, run, peer, values] if format == FORMAT.to_string() => {
                let scope = parse_scope(run, peer, values);
                scope.map(Some).ok_or_else(|| shared.corrupt(SCOPE_KEY.to_owned()))
            }
            _ => match other_format(&text) {
                Some(theirs) => {
                    let reason = format!(
                        "its host uses format {theirs} of the keys, this worker format {FORMAT}: start the worker with the \
                         host's program"
                    );
                    Err(StoreError::Unfit { address: shared.client().address().to_string(), reason })
                }
                None => Err(shared.corrupt(SCOPE_KEY.to_owned())),
            },
        }
    }
}

/// The format of the keys of the host that wrote a scope, if it is not this program's.
pub(crate) fn other_format(scope: &str) -> Option<u32> {
    let first = scope.split(' ').next()?;
    // Format 1 began with the 64 digits of a digest.
    let theirs = if first.len() == 64 { 1 } else { first.parse().ok()? };
    (theirs != FORMAT).then_some(theirs)
}

fn parse_scope(run: &str, peer: &str, values: &str) -> Option<Scope> {
    let peer: Digest = peer.parse().ok()?;
    Some(Scope { run: run.parse().ok()?, peer: PeerId(peer.0), values: values.parse().ok()? })
}

impl Queue {
    /// Makes this the queue that a [`ScopeReader`] finds.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn advertise(&self, scope: Scope) -> Result<(), StoreError> {
        let text = format!("{FORMAT} {} {} {}", scope.run, scope.peer, scope.values);
        self.shared.control(redis::cmd("SET").arg(SCOPE_KEY).arg(text), SCOPE_KEY).await
    }

    /// Opens the queue in the database of a peer.
    ///
    /// # Errors
    /// The database cannot be used.
    pub fn open(options: &Options, scope: Scope) -> BoxFuture<'_, Result<Queue, StoreError>> {
        Box::pin(async move {
            let queue = Queue { shared: RedisBase::new(own(options, scope)?) };
            queue.create_group().await?;
            Ok(queue)
        })
    }

    async fn create_group(&self) -> Result<(), StoreError> {
        let tasks = self.keys().tasks();
        let mut command = redis::cmd("XGROUP");
        // From the first task on: tasks posted before the group existed have to be done too.
        command.arg("CREATE").arg(&tasks).arg(GROUP).arg("0").arg("MKSTREAM");
        match self.client().control::<redis::Value>(&command).await {
            Err(failure) if failure.code() != Some("BUSYGROUP") => Err(self.shared.failed(failure, &tasks)),
            _ => Ok(()),
        }
    }

    fn client(&self) -> &Client {
        self.shared.client()
    }

    fn keys(&self) -> &Keys {
        self.shared.keys()
    }

    /// Keeps bytes under a name; if `round` is given, until that round is pruned.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn put(&self, round: Option<u64>, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let key = self.keys().blob(name);
        if let Some(round) = round {
            self.shared.track_for_pruning(round, &[&key]).await?;
        }
        let reply = self.client().call(&[b"SET", key.as_bytes(), bytes], 64).await;
        reply.map(drop).map_err(|failure| self.shared.failed(failure, &key))
    }

    /// Returns the bytes under a name; `None` if nothing is kept there.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.keys().blob(name);
        let reply = self.client().call(&[b"GET", key.as_bytes()], BLOB_BYTES_MAX).await;
        match reply.and_then(|reply| if reply == Reply::Nil { Ok(None) } else { reply.bytes().map(Some) }) {
            Ok(bytes) => Ok(bytes),
            Err(failure) => Err(self.shared.failed(failure, &key)),
        }
    }

    /// Posts tasks of `round`, which has `want` in all. A task that was posted before is not posted again.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn post(&self, round: u64, want: u32, tasks: &[Task]) -> Result<(), StoreError> {
        let round_key = self.keys().round_of_tasks(round);
        self.shared.track_for_pruning(round, &[&round_key]).await?;
        for tasks in tasks.chunks(POST_MAX) {
            let mut command = scripts::command(scripts::POST, &[&self.keys().tasks(), &round_key]);
            command.arg(round).arg(want);
            tasks.iter().for_each(|task| {
                command.arg(task.index).arg(&task.payload);
            });
            self.shared.control::<()>(&command, &round_key).await?;
        }
        Ok(())
    }

    /// Waits until all tasks of `round` are done, or one of them is a dead letter. Returns `None` if `wait` passes
    /// without an event.
    ///
    /// # Errors
    /// The database cannot be used, or has lost the tasks ([`StoreError::Incomplete`]).
    pub async fn wait(&self, round: u64, wait: Duration) -> Result<Option<Outcome>, StoreError> {
        let events = self.keys().events();
        let round_key = self.keys().round_of_tasks(round);
        // The end of the stream of events is read before the tasks, so that no event is missed.
        let mut last = self.last_event().await?;
        loop {
            let look = scripts::command(scripts::LOOK, &[&round_key]);
            let look: [Option<String>; 4] = self.shared.control(&look, &round_key).await?;
            match look {
                [_, _, Some(index), reason] => {
                    let index = index.parse().map_err(|_| self.shared.corrupt(round_key.clone()))?;
                    return Ok(Some(Outcome::Dead { index, reason: reason.unwrap_or_default() }));
                }
                [Some(want), Some(done), ..] if want == done => return Ok(Some(Outcome::Done)),
                [Some(_), ..] => {}
                [None, ..] => return Err(StoreError::Incomplete { round }),
            }
            let block = wait.as_millis().max(1).to_string();
            let arguments: [&[u8]; 6] =
                [b"XREAD", b"BLOCK", block.as_bytes(), b"STREAMS", events.as_bytes(), last.as_bytes()];
            let reply = self.client().call(&arguments, REPLY_BYTES_MAX).await;
            let failed = |failure| self.shared.failed(failure, &events);
            let streams = reply.and_then(Reply::array).map_err(failed)?;
            if streams.is_empty() {
                return Ok(None);
            }
            for stream in streams {
                let [_, entries] = stream.elements().map_err(failed)?;
                if let Some(entry) = entries.array().map_err(failed)?.pop() {
                    let [id, _] = entry.elements().map_err(failed)?;
                    last = id.text().map_err(failed)?.to_owned();
                }
            }
        }
    }

    /// Returns how many tasks of a round are counted.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn counted(&self, round: u64) -> Result<Counted, StoreError> {
        let key = self.keys().round_of_tasks(round);
        let fields: std::collections::HashMap<String, String> =
            self.shared.control(redis::cmd("HGETALL").arg(&key), &key).await?;
        // The field of a task is its index; other fields hold names and reasons, which may be any text.
        let is_counted = |(field, state): &(&String, &String)| field.parse::<u32>().is_ok() && *state == "counted";
        let tasks = fields.iter().filter(is_counted).count() as u64;
        let count = fields.get("done").and_then(|done| done.parse().ok()).unwrap_or_default();
        Ok(Counted { tasks, count })
    }

    async fn last_event(&self) -> Result<String, StoreError> {
        let key = self.keys().events();
        let command = redis::cmd("XREVRANGE").arg(&key).arg("+").arg("-").arg("COUNT").arg(1).take();
        let entries: Vec<(String, Vec<String>)> = self.shared.control(&command, &key).await?;
        Ok(entries.into_iter().next().map_or_else(|| "0".to_owned(), |(id, _)| id))
    }

    /// Returns the dead letters, oldest first.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let key = self.keys().dead();
        let command = redis::cmd("XRANGE").arg(&key).arg("-").arg("+").take();
        let entries: Vec<(String, Vec<(String, String)>)> = self.shared.control(&command, &key).await?;
        let letter = |(id, fields): (String, Vec<(String, String)>)| {
            let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
            let task = Task {
                round: field("round")?.parse().ok()?,
                index: field("index")?.parse().ok()?,
                payload: field("note")?,
            };
            Some(DeadLetter { id, task, reason: field("reason")? })
        };
        entries.into_iter().map(|entry| letter(entry).ok_or_else(|| self.shared.corrupt(key.clone()))).collect()
    }

    /// Posts a dead letter again, with no record of earlier tries. Returns `false` if it is not a dead letter any more.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn redrive(&self, letter: &DeadLetter) -> Result<bool, StoreError> {
        let keys = [self.keys().tasks(), self.keys().round_of_tasks(letter.task.round), self.keys().dead()];
        let mut command = scripts::command(&scripts::redrive(), &[&keys[0], &keys[1], &keys[2]]);
        command.arg(&letter.id);
        Ok(self.shared.control::<u32>(&command, &keys[2]).await? == 1)
    }
}

/// Parses an entry of a stream of tasks: its id and its fields.
fn delivery(entry: Reply) -> Result<Delivery, Failure> {
    let [id, fields] = entry.elements()?;
    let fields = fields.array()?;
    let field = |name: &str| {
        let pair = fields.chunks_exact(2).find(|pair| pair[0].text().is_ok_and(|field| field == name));
        pair.map(|pair| &pair[1]).ok_or_else(|| Failure::Garbled(format!("a task without `{name}`")))
    };
    let task = Task {
        round: field("round")?.parse()?,
        index: field("index")?.parse()?,
        payload: field("note")?.text()?.to_owned(),
    };
    Ok(Delivery { id: id.text()?.to_owned(), task })
}
