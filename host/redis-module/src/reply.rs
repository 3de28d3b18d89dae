//! Replies as values, so that a command decides on one first and somebody else sends it.

#![expect(unsafe_code, reason = "replies go through the server's functions")]

use std::ffi::{CString, c_long};
use std::ops::Range;
use std::sync::Arc;

use crate::api::{RawContext, api};
use crate::failure::Failure;
use crate::tensor::Tensor;

/// What a command answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// `+OK`
    Ok,
    /// Nothing is there.
    Nil,
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Some values of a tensor, as they lie in memory.
    Values(Arc<Tensor>, Range<usize>),
    /// Several replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// A version or a count.
    pub(crate) fn count(count: u64) -> Reply {
        Reply::Integer(count.cast_signed())
    }

    /// A number with all its digits.
    pub(crate) fn exact(number: f64) -> Reply {
        Reply::Bulk(format!("{number:?}").into_bytes())
    }

    /// Sends the reply.
    ///
    /// # Safety
    /// `context` is that of the current call, or one of a blocked client that no other thread uses.
    pub(crate) unsafe fn send(&self, context: *mut RawContext) {
        let bulk = |bytes: &[u8]| {
            // SAFETY: the caller's promise; the server copies the bytes.
            unsafe { (api().ReplyWithStringBuffer)(context, bytes.as_ptr().cast(), bytes.len()) };
        };
        // SAFETY: the caller's promise, and the text ends in a zero.
        unsafe {
            match self {
                Reply::Ok => _ = (api().ReplyWithSimpleString)(context, c"OK".as_ptr()),
                Reply::Nil => _ = (api().ReplyWithNull)(context),
                Reply::Integer(integer) => _ = (api().ReplyWithLongLong)(context, *integer),
                Reply::Bulk(bytes) => bulk(bytes),
                Reply::Values(tensor, range) => {
                    bulk(&tensor.values.bytes()[range.start * size_of::<f32>()..range.end * size_of::<f32>()]);
                }
                Reply::Array(replies) => {
                    (api().ReplyWithArray)(context, replies.len() as c_long);
                    replies.iter().for_each(|reply| reply.send(context));
                }
            }
        }
    }
}

/// Sends a refusal.
///
/// # Safety
/// As for [`Reply::send`].
pub(crate) unsafe fn send_failure(failure: &Failure, context: *mut RawContext) {
    // What a message repeats of a client's text is escaped. Should a zero be left, the code word is in front of it.
    let text = failure.to_string();
    let text = CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default();
    // SAFETY: the caller's promise, and the text ends in a zero.
    unsafe { (api().ReplyWithError)(context, text.as_ptr()) };
}
