//! Slots for calls, which bound how many run at the same time and how much memory they take.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Limit;
use crate::options::{Limits, Options};

/// A slot for one running call. Another call takes its place when the last clone is dropped, and when the engine that
/// computed for the call has stopped.
///
/// Create and use the input and the result of a call, such as a batch and its gradient, while you hold the slot: then
/// they exist only for the calls that run at the same time.
#[derive(Debug, Clone)]
pub struct CallSlot {
    _permits: Arc<[OwnedSemaphorePermit]>,
}

/// What the slots of all functions are taken from.
#[derive(Debug)]
pub(crate) struct Slots {
    calls: Arc<Semaphore>,
    memory: Option<TotalMemory>,
}

/// Memory that calls, engines and the compiler share; a permit is a MiB.
#[derive(Debug)]
struct TotalMemory {
    mib: u32,
    free: Arc<Semaphore>,
}

/// Slots of one function.
#[derive(Debug)]
pub(crate) struct FunctionSlots {
    own: Arc<Semaphore>,
    shared: Arc<Slots>,
    /// Memory that a call may take, with its engine.
    mib: u32,
    waiting: AtomicU32,
}

impl Slots {
    pub(crate) fn new(options: &Options) -> Slots {
        let total = |mib: u32| TotalMemory { mib, free: Arc::new(Semaphore::new(mib as usize)) };
        Slots { calls: Arc::new(Semaphore::new(options.concurrency)), memory: options.memory_mib.map(total) }
    }

    /// Memory in MiB that all calls may take together, if it is bounded.
    pub(crate) fn memory_mib(&self) -> Option<u32> {
        self.memory.as_ref().map(|total| total.mib)
    }

    /// Waits for memory, at most for all there is.
    pub(crate) async fn reserve(&self, mib: u32) -> Option<OwnedSemaphorePermit> {
        let total = self.memory.as_ref()?;
        Some(total.free.clone().acquire_many_owned(mib.min(total.mib)).await.expect(NEVER_CLOSED))
    }
}

/// Nothing closes the semaphores.
const NEVER_CLOSED: &str = "the semaphore is never closed";

impl FunctionSlots {
    /// Slots of a function each of whose calls may take `mib` of memory.
    pub(crate) fn new(shared: Arc<Slots>, limits: &Limits, mib: u32) -> FunctionSlots {
        let own = usize::try_from(limits.concurrency).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        FunctionSlots { own: Arc::new(Semaphore::new(own)), shared, mib, waiting: AtomicU32::new(0) }
    }

    /// Waits for a slot; slots are granted in the order of requests.
    pub(crate) async fn slot(&self) -> CallSlot {
        // Every call takes its permits in this order, and one that has the last of them waits for nothing more.
        let own = self.own.clone().acquire_owned().await.expect(NEVER_CLOSED);
        let memory = self.shared.reserve(self.mib).await;
        let call = self.shared.calls.clone().acquire_owned().await.expect(NEVER_CLOSED);
        CallSlot { _permits: [own, call].into_iter().chain(memory).collect() }
    }

    /// Waits for a slot, unless too many calls wait already, and not longer than the limit.
    pub(crate) async fn slot_within(&self, limits: &Limits) -> Result<CallSlot, Limit> {
        let mut slot = pin!(self.slot());
        if let Some(slot) = slot.as_mut().now_or_never() {
            return Ok(slot);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= limits.queue {
            return Err(Limit::Queue);
        }
        tokio::time::timeout(limits.queue_wait, slot).await.map_err(|_| Limit::QueueWait)
    }
}

/// Counts a call among those that wait until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
