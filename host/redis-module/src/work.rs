//! Runs a command's work: at once if it is small or must be, otherwise on a worker while its client waits.
//!
//! A worker computes without the server's lock, from values that never change, into new buffers. Then it takes the lock
//! briefly, checks that its inputs have not changed, and stores the results, even if the client has disconnected. The
//! command is replicated verbatim: from the same values, the kernels compute the same bits on every server.

#![expect(unsafe_code, reason = "blocked clients and the server's lock are raw handles")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::api::{RawBlocked, RawContext, RawString, api};
use crate::arguments::Arguments;
use crate::context::Context;
use crate::counters;
use crate::failure::Failure;
use crate::guard::guarded;
use crate::pool::pool;
use crate::reply::{Reply, send_failure};

/// Work on fewer values is done at once: it takes some ten microseconds, less than a change of threads costs.
const SMALL: usize = 1 << 15;
/// Longest wait for the server's cron, which runs at least once a second.
const TICK_MAX: Duration = Duration::from_secs(2);

static BLOCKED: AtomicU64 = AtomicU64::new(0);

/// The work of a command, after its arguments were read and its inputs found.
pub(crate) trait Work: Send {
    /// Number of values to go through, which decides whether the work is small.
    fn values(&self) -> usize;

    /// Whether the work changes keys.
    fn writes(&self) -> bool {
        true
    }

    /// Computes, without the server's lock.
    fn compute(&mut self, arguments: Arguments<'_>) -> Result<(), Failure>;

    /// Stores the results, under the server's lock. Keeps old values in `self`, to be freed later.
    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure>;
}

/// The outcome of a commit.
pub(crate) enum Turn {
    /// Compute again, then commit again.
    Again,
    /// Finished; keys were changed.
    Written(Reply),
    /// Finished; no key was changed.
    Unchanged(Reply),
}

/// Number of clients that wait for a worker.
pub(crate) fn blocked() -> u64 {
    BLOCKED.load(Ordering::Relaxed)
}

/// Does the work and returns its answer, or `None` if a worker does it and answers.
pub(crate) fn start(
    context: &Context<'_>,
    arguments: Arguments<'_>,
    mut work: Box<dyn Work>,
) -> Option<Result<Reply, Failure>> {
    if work.writes()
        && let Err(failure) = context.admit()
    {
        return Some(Err(failure));
    }
    if work.values() < SMALL || context.must_answer_now() {
        return Some(at_once(context, arguments, &mut *work));
    }
    if !pool().accepts() {
        return Some(Err(Failure::QueueFull { length: pool().length_max() }));
    }
    let client = Client::block(context, arguments);
    pool().push(Box::new(move || in_background(client, work)));
    None
}

fn at_once(context: &Context<'_>, arguments: Arguments<'_>, work: &mut dyn Work) -> Result<Reply, Failure> {
    loop {
        work.compute(arguments)?;
        if let Some(reply) = commit(context, arguments, work)? {
            return Ok(reply);
        }
    }
}

/// Commits, and replicates the command if it changed keys. Returns the answer, or `None` to compute again.
fn commit(context: &Context<'_>, arguments: Arguments<'_>, work: &mut dyn Work) -> Result<Option<Reply>, Failure> {
    let reply = match work.commit(context, arguments)? {
        Turn::Again => return Ok(None),
        Turn::Written(reply) => {
            context.replicate(arguments);
            reply
        }
        Turn::Unchanged(reply) => reply,
    };
    counters::count_values(work.values());
    Ok(Some(reply))
}

fn in_background(mut client: Client, mut work: Box<dyn Work>) {
    let answer = guarded(|| client.serve(&mut *work)).unwrap_or(Err(Failure::Internal));
    client.answer(&answer);
    // The client is answered before large buffers are freed or retired.
    drop(client);
    drop(work);
}

/// A client that waits for a worker. However the worker ends, the client is answered and unblocked.
struct Client {
    blocked: *mut RawBlocked,
    /// The client's own context, in the database that it has selected.
    context: *mut RawContext,
    /// The client's arguments; empty once released, which needs the lock because their counters are not atomic.
    strings: Vec<*mut RawString>,
    answered: bool,
}

// SAFETY: one thread at a time owns the client, and parts that are not thread-safe are touched under the server's lock.
unsafe impl Send for Client {}

/// The server's global lock, held until this is dropped.
struct Lock(*mut RawContext);

impl Lock {
    fn take(context: *mut RawContext) -> Lock {
        // SAFETY: the context is valid, and a worker never holds the lock already.
        unsafe { (api().ThreadSafeContextLock)(context) };
        Lock(context)
    }

    fn context(&self) -> Context<'_> {
        // SAFETY: the lock is held for as long as it is borrowed.
        unsafe { Context::new(self.0) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: this thread holds the lock.
        unsafe { (api().ThreadSafeContextUnlock)(self.0) };
    }
}

impl Client {
    fn block(context: &Context<'_>, arguments: Arguments<'_>) -> Client {
        BLOCKED.fetch_add(1, Ordering::Relaxed);
        let strings = arguments.raw_from(0).to_vec();
        // SAFETY: the lock is held, and the context's flags allow blocking. There are no callbacks: a client that
        // disconnects leaves a handle that may still be answered and unblocked.
        unsafe {
            for string in &strings {
                (api().RetainString)(std::ptr::null_mut(), *string);
                // When a command returns, the server trims the arguments that the command retained. This may move
                // their bytes while a worker reads them. A string that is already trimmed does not move.
                (api().TrimStringAllocation)(*string);
            }
            let blocked = (api().BlockClient)(context.raw(), None, None, None, 0);
            Client { blocked, context: (api().GetThreadSafeContext)(blocked), strings, answered: false }
        }
    }

    fn serve(&mut self, work: &mut dyn Work) -> Result<Reply, Failure> {
        loop {
            // SAFETY: the strings were retained.
            work.compute(unsafe { Arguments::new(&self.strings) })?;
            let lock = self.lock_for(work)?;
            // SAFETY: as above.
            let result = commit(&lock.context(), unsafe { Arguments::new(&self.strings) }, work);
            if !matches!(result, Ok(None)) {
                self.release(&lock);
            }
            if let Some(reply) = result? {
                return Ok(reply);
            }
        }
    }

    /// Takes the lock. If `work` writes, waits until writes may be replicated, and fails on a replica.
    fn lock_for(&self, work: &dyn Work) -> Result<Lock, Failure> {
        loop {
            let seen = ticks();
            let lock = Lock::take(self.context);
            if !work.writes() {
                return Ok(lock);
            }
            if lock.context().is_read_only() {
                return Err(Failure::ReadOnly);
            }
            if !lock.context().is_paused() {
                return Ok(lock);
            }
            drop(lock);
            wait_for_tick(seen);
        }
    }

    fn release(&mut self, _lock: &Lock) {
        for string in self.strings.drain(..) {
            // SAFETY: the lock is held, and the string was retained once.
            unsafe { (api().FreeString)(std::ptr::null_mut(), string) };
        }
    }

    fn answer(&mut self, answer: &Result<Reply, Failure>) {
        counters::count(answer);
        self.answered = true;
        // SAFETY: replies of a blocked client's own context need no lock.
        unsafe {
            match answer {
                Ok(reply) => reply.send(self.context),
                Err(failure) => send_failure(failure, self.context),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(&Err(Failure::Internal));
        }
        if !self.strings.is_empty() {
            let lock = Lock::take(self.context);
            self.release(&lock);
        }
        // An answered client no longer counts as blocked.
        BLOCKED.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: unblocking the client frees data that the context refers to, so the context is freed first.
        unsafe {
            (api().FreeThreadSafeContext)(self.context);
            (api().UnblockClient)(self.blocked, std::ptr::null_mut());
        }
    }
}

static TICKS: Mutex<u64> = Mutex::new(0);
static TICKED: Condvar = Condvar::new();

fn ticks() -> u64 {
    *TICKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that the server's cron ran.
pub(crate) fn tick() {
    *TICKS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    TICKED.notify_all();
}

/// Waits at most [`TICK_MAX`] until the server's cron runs again, which ends expired pauses.
fn wait_for_tick(seen: u64) {
    let ticks = TICKS.lock().unwrap_or_else(PoisonError::into_inner);
    drop(TICKED.wait_timeout_while(ticks, TICK_MAX, |ticks| *ticks == seen));
}
