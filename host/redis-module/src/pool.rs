//! The module's own threads, which compute while the server serves.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use crate::budget::{Budget, Share};
use crate::guard::guarded;

/// Threads at most; more only contend for memory bandwidth.
pub(crate) const THREADS_MAX: usize = 64;
/// Commands that may wait unless the module is told otherwise. Each holds its arguments, a gradient at most.
pub(crate) const QUEUE_LENGTH: usize = 256;
/// Commands that the module may be told to let wait.
pub(crate) const QUEUE_LENGTH_MAX: usize = 1 << 16;

type Job = Box<dyn FnOnce() + Send>;

/// Threads and the work that waits for one.
pub(crate) struct Pool {
    waiting: Mutex<VecDeque<Job>>,
    ready: Condvar,
    length_max: usize,
    running: AtomicUsize,
    threads: usize,
    budget: Budget,
}

static POOL: OnceLock<Pool> = OnceLock::new();

/// Starts the threads, which live as long as the server: a module with types is never unloaded.
///
/// # Errors
/// The operating system gives no thread at all.
pub(crate) fn start(threads: usize, length_max: usize) -> io::Result<()> {
    let pool = POOL.get_or_init(|| Pool {
        waiting: Mutex::default(),
        ready: Condvar::new(),
        length_max,
        running: AtomicUsize::new(0),
        threads,
        budget: Budget::new(threads),
    });
    for index in 0..threads {
        let started = thread::Builder::new().name(format!("skein-{index}")).spawn(|| pool.serve());
        // With one thread all work gets done; loading may not fail once there is one.
        if index == 0 {
            started?;
        }
    }
    Ok(())
}

/// The threads of this server.
pub(crate) fn pool() -> &'static Pool {
    POOL.get().expect("the pool is started when the module is loaded")
}

/// What a command may compute on, on a thread of the pool or on the server's own.
pub(crate) fn share() -> Share<'static> {
    pool().budget.share()
}

impl Pool {
    /// Whether one more command may wait. Only the main thread adds any, so the answer holds until it does.
    pub(crate) fn accepts(&self) -> bool {
        self.waiting().len() < self.length_max
    }

    /// Commands that may wait.
    pub(crate) fn length_max(&self) -> usize {
        self.length_max
    }

    /// Has `job` done by the next free thread.
    pub(crate) fn push(&self, job: Job) {
        self.waiting().push_back(job);
        self.ready.notify_one();
    }

    /// Threads, commands that are worked on, and commands that wait.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        // INFO is also written while the server crashes, maybe within one of our own locks.
        let waiting = self.waiting.try_lock().map_or(0, |waiting| waiting.len());
        (self.threads, self.running.load(Ordering::Relaxed), waiting)
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        loop {
            let job = {
                let mut waiting = self.waiting();
                loop {
                    match waiting.pop_front() {
                        Some(job) => break job,
                        None => waiting = self.ready.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                    }
                }
            };
            self.running.fetch_add(1, Ordering::Relaxed);
            guarded(job);
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
