//! Counters since the module was loaded, for `INFO`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::Failure;
use crate::reply::Reply;

static DONE: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static VALUES: AtomicU64 = AtomicU64::new(0);

/// Counts an answered command, as done or failed.
pub(crate) fn count(answer: &Result<Reply, Failure>) {
    let counter = if answer.is_ok() { &DONE } else { &FAILED };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Adds to the number of processed values.
pub(crate) fn count_values(values: usize) {
    VALUES.fetch_add(values as u64, Ordering::Relaxed);
}

/// Commands that were answered without an error.
pub(crate) fn done() -> u64 {
    DONE.load(Ordering::Relaxed)
}

/// Commands that were answered with an error.
pub(crate) fn failed() -> u64 {
    FAILED.load(Ordering::Relaxed)
}

/// Values that successful commands processed.
pub(crate) fn values() -> u64 {
    VALUES.load(Ordering::Relaxed)
}
