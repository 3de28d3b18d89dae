//! What `INFO skein` tells.

#![expect(unsafe_code, reason = "INFO is written through the server's functions")]

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::{self, RawInfo, api};
use crate::failure::Failure;
use crate::guard::{guarded, panics};
use crate::pool::pool;
use crate::reply::Reply;
use crate::{buffer, work};

static DONE: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static VALUES: AtomicU64 = AtomicU64::new(0);

/// Counts a command that was answered.
pub(crate) fn count(answer: &Result<Reply, Failure>) {
    let counter = if answer.is_ok() { &DONE } else { &FAILED };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts values that were worked on.
pub(crate) fn count_values(values: usize) {
    VALUES.fetch_add(values as u64, Ordering::Relaxed);
}

/// Writes the section. It takes no lock and allocates nothing: the server may be crashing.
pub(crate) unsafe extern "C" fn write(info: *mut RawInfo, _crashing: c_int) {
    guarded(|| {
        // SAFETY: the server gave the handle for this call; an empty name makes the section that of the module.
        if unsafe { (api().InfoAddSection)(info, c"".as_ptr()) } != api::OK {
            return;
        }
        let (threads, running, waiting) = pool().load();
        let (live, retired) = buffer::bytes();
        let fields: [(&CStr, u64); 10] = [
            (c"commands_done", DONE.load(Ordering::Relaxed)),
            (c"commands_failed", FAILED.load(Ordering::Relaxed)),
            (c"values_processed", VALUES.load(Ordering::Relaxed)),
            (c"threads", threads as u64),
            (c"commands_running", running as u64),
            (c"commands_waiting", waiting as u64),
            (c"clients_blocked", work::blocked()),
            (c"tensor_bytes", live),
            (c"recycled_bytes", retired),
            (c"panics", panics()),
        ];
        for (name, value) in fields {
            // SAFETY: as above, and the name ends in a zero.
            unsafe { (api().InfoAddFieldULongLong)(info, name.as_ptr(), value) };
        }
    });
}
