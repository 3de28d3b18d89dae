//! Replies as values, so that a command returns one and its caller sends it.

#![expect(unsafe_code, reason = "replies go through the server's functions")]

use std::ffi::{CString, c_long};
use std::ops::Range;
use std::sync::Arc;

use crate::api::{RawContext, api};
use crate::failure::Failure;
use crate::tensor::Tensor;

/// The answer of a command.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// `+OK`, for a command that has nothing else to return.
    Ok,
    /// The key is empty.
    Nil,
    /// A signed 64-bit integer, such as a count or a version.
    Integer(i64),
    /// Bytes of any content, as a bulk string.
    Bulk(Vec<u8>),
    /// Some values of a tensor, as little-endian bytes.
    Values(Arc<Tensor>, Range<usize>),
    /// Several replies, which may be nested.
    Array(Vec<Reply>),
}

impl Reply {
    /// A version or a count.
    pub(crate) fn count(count: u64) -> Reply {
        Reply::Integer(count.cast_signed())
    }

    /// A number with enough digits to be read back bit for bit.
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

/// Sends an error reply.
///
/// # Safety
/// As for [`Reply::send`].
pub(crate) unsafe fn send_failure(failure: &Failure, context: *mut RawContext) {
    // Client text in a message is escaped. If a zero byte is left, the text is cut there, after the code.
    let text = failure.to_string();
    let text = CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default();
    // SAFETY: the caller's promise, and the text ends in a zero.
    unsafe { (api().ReplyWithError)(context, text.as_ptr()) };
}
