//! The border that no panic crosses: the server is written in C, and unwinding into it would end the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs `work`; a panic is counted and becomes `None`.
///
/// What a panicking call leaves behind is either dropped with it or whole at every moment, so it may be seen again.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    if let Err(payload) = result {
        PANICS.fetch_add(1, Ordering::Relaxed);
        // Dropping what a panic carries may panic in its turn.
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
    fn a_panic_is_counted_and_goes_no_further() {
        let before = panics();
        assert_eq!(guarded(|| 7), Some(7));
        assert_eq!(guarded(|| -> u8 { panic!("inside") }), None);
        assert_eq!(panics(), before + 1);
    }
}
