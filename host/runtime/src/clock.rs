//! Processor time of a call: that of the threads that poll it, and of the engines that compute for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The processor time that a call has used. Clones share it.
///
/// A call runs on one thread at a time, so the counters need no order between them: the executor that moves a call to
/// another thread orders all that the call did before.
#[derive(Debug, Clone, Default)]
pub(crate) struct CpuClock(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    /// Nanoseconds of all polls that are over, and of engines.
    used: AtomicU64,
    /// The polling thread's clock when the current poll began.
    began: AtomicU64,
    /// Whether the guest has yielded in this poll, although it could run on.
    has_yielded: AtomicBool,
}

impl CpuClock {
    /// Runs one poll of the call and counts the time that this thread's processor spent on it.
    pub(crate) fn count<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.0.began.store(thread_nanos(), Ordering::Relaxed);
        let result = poll();
        self.0.used.fetch_add(self.of_this_poll(), Ordering::Relaxed);
        result
    }

    /// Adds the time of an engine: `threads` processors for `duration`.
    pub(crate) fn charge(&self, duration: Duration, threads: usize) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.used.fetch_add(nanos.saturating_mul(threads as u64), Ordering::Relaxed);
    }

    /// Notes that the guest yields.
    pub(crate) fn note_yield(&self) {
        self.0.has_yielded.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has yielded since this was last called.
    pub(crate) fn take_yield(&self) -> bool {
        self.0.has_yielded.swap(false, Ordering::Relaxed)
    }

    /// The time used by all polls that are over.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.0.used.load(Ordering::Relaxed))
    }

    /// The time used so far. Call it within [`count`](Self::count) only, on the thread that polls.
    pub(crate) fn used_within_poll(&self) -> Duration {
        self.used() + Duration::from_nanos(self.of_this_poll())
    }

    fn of_this_poll(&self) -> u64 {
        thread_nanos().saturating_sub(self.0.began.load(Ordering::Relaxed))
    }
}

/// A run of an engine that the call waits for. If the call ends first, it is charged with the time until then.
pub(crate) struct EngineRun {
    clock: CpuClock,
    threads: usize,
    began: Option<Instant>,
}

impl EngineRun {
    pub(crate) fn begin(clock: CpuClock, threads: usize) -> EngineRun {
        EngineRun { clock, threads, began: Some(Instant::now()) }
    }

    /// Charges the call with the time of a run that is over.
    pub(crate) fn end(mut self, duration: Duration) {
        self.began = None;
        self.clock.charge(duration, self.threads);
    }
}

impl Drop for EngineRun {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            self.clock.charge(began.elapsed(), self.threads);
        }
    }
}

/// Processor time of this thread since it started.
fn thread_nanos() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
