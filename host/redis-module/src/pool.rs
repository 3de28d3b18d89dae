//! The module's own threads, which compute while the main thread serves clients.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use crate::budget::{Budget, Share};
use crate::guard::guarded;

/// Most threads that can be configured; more only contend for memory bandwidth.
pub(crate) const THREADS_MAX: usize = 64;
/// Commands that may wait, by default. Each holds its arguments, which are at most one gradient.
pub(crate) const QUEUE_LENGTH: usize = 256;
/// Longest queue that can be configured.
pub(crate) const QUEUE_LENGTH_MAX: usize = 1 << 16;

type Job = Box<dyn FnOnce() + Send>;

/// The threads, and the jobs that wait for one.
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
/// The operating system refuses the first thread.
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
        // One thread suffices for all work, and loading must not fail once one has started.
        if index == 0 {
            started?;
        }
    }
    Ok(())
}

/// The pool of this server.
pub(crate) fn pool() -> &'static Pool {
    POOL.get().expect("loading the module starts the pool")
}

/// The share of threads for one command, whether it runs on the pool or on the server's main thread.
pub(crate) fn share() -> Share<'static> {
    pool().budget.share()
}

impl Pool {
    /// Whether one more command may wait. Only the main thread adds commands, so the answer holds until it does.
    pub(crate) fn accepts(&self) -> bool {
        self.waiting().len() < self.length_max
    }

    /// Number of commands that may wait.
    pub(crate) fn length_max(&self) -> usize {
        self.length_max
    }

    /// Queues `job` for the next free thread.
    pub(crate) fn push(&self, job: Job) {
        self.waiting().push_back(job);
        self.ready.notify_one();
    }

    /// Number of threads, of running commands, and of waiting commands.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        // INFO is also written while the server crashes, perhaps while one of our locks is held.
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
