//! Stops panics before they reach the server, which is written in C: unwinding into it would end the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs `work`. A panic is counted and returned as `None`.
///
/// State that a panicking call touched is either dropped with it or consistent at every moment, so it stays usable.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    if let Err(payload) = result {
        PANICS.fetch_add(1, Ordering::Relaxed);
        // Dropping a panic's payload may panic again.
        std::mem::forget(payload);
        return None;
    }
    result.ok()
}

/// Panics since the module was loaded.
pub(crate) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_contained() {
        let before = panics();
        assert_eq!(guarded(|| 7), Some(7));
        assert_eq!(guarded(|| -> u8 { panic!("inside") }), None);
        assert_eq!(panics(), before + 1);
    }
}
