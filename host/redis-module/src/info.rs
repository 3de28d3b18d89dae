//! The section `INFO skein`.

#![expect(unsafe_code, reason = "INFO is written through the server's functions")]

use std::ffi::{CStr, c_int};

use crate::api::{self, RawInfo, api};
use crate::guard::{guarded, panics};
use crate::pool::pool;
use crate::{buffer, counters, work};

/// Writes the section. It takes no lock and allocates nothing: the server may be crashing.
pub(crate) unsafe extern "C" fn write(info: *mut RawInfo, _crashing: c_int) {
    guarded(|| {
        // SAFETY: the server passed the handle for this call; an empty name selects the module's own section.
        if unsafe { (api().InfoAddSection)(info, c"".as_ptr()) } != api::OK {
            return;
        }
        let (threads, running, waiting) = pool().load();
        let (live, retired) = buffer::bytes();
        let fields: [(&CStr, u64); 10] = [
            (c"commands_done", counters::done()),
            (c"commands_failed", counters::failed()),
            (c"values_processed", counters::values()),
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
