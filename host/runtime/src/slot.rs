//! Slots for calls, which bound how many run at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A slot for one running call. Another call takes its place when the last clone is dropped, and when the engine that
/// computed for the call has stopped.
///
/// Create and use the input and the result of a call, such as a batch and its gradient, while you hold the slot: then
/// they exist only for the calls that run at the same time.
#[derive(Debug, Clone)]
pub struct CallSlot {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl CallSlot {
    /// Waits for a permit.
    pub(crate) async fn of(permits: Arc<Semaphore>) -> CallSlot {
        let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
        CallSlot { _permit: Arc::new(permit) }
    }
}
