//! Stops runs of engines, from another thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Hook = Box<dyn Fn() + Send>;

/// Stops the runs that were started with it, and refuses later ones. Clones share it.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_stopped: AtomicBool,
    /// Interrupts the current run, if the engine can be interrupted from another thread.
    hook: Mutex<Option<Hook>>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_stopped()).finish()
    }
}

impl Stop {
    /// Stops the current run as soon as its engine can, without waiting for it.
    pub fn stop(&self) {
        // Set before the hook is looked for: a run that has not yet left its hook sees the flag instead.
        self.0.is_stopped.store(true, Ordering::SeqCst);
        if let Some(interrupt) = &*self.hook() {
            interrupt();
        }
    }

    /// Whether [`stop`](Stop::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::SeqCst)
    }

    /// Calls `run`, which `interrupt` stops; `None` if it is too late to begin.
    pub(crate) fn interrupting<T>(&self, interrupt: Hook, run: impl FnOnce() -> T) -> Option<T> {
        *self.hook() = Some(interrupt);
        let result = (!self.is_stopped()).then(run);
        *self.hook() = None;
        result
    }

    fn hook(&self) -> MutexGuard<'_, Option<Hook>> {
        self.0.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
