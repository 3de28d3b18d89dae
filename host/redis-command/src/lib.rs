//! The grammar of the commands `SKEIN.*`, for the module that carries them out and for those who send them.
//!
//! Each command in [`command`] says once what its arguments are, and in which order. [`read`] and [`write()`] follow the
//! same lines, so they cannot disagree. Keys and blobs are passed on as they are: when a command is written they are
//! bytes, when it is read they are places among its arguments.
//!
//! Numbers are decimal text, a blob is little-endian `f32`, rules and optimizers are the text forms of
//! [`skein_kernels`]. Keys of a list stand behind their number, which has neither a sign nor leading zeros, because the
//! server would not read it otherwise. [`VERSION`] counts changes after which an older side would misread a command.
//!
//! ```
//! use skein_redis_command::command::Average;
//! use skein_redis_command::{read, write};
//!
//! let words = write(Average { destination: &b"mean"[..], sum: b"sum", round: 7 });
//! assert_eq!(words, [&b"SKEIN.AVERAGE"[..], b"mean", b"sum", b"7"]);
//! let average: Average<usize> = read(words.len(), |place| &words[place])?;
//! assert_eq!(average, Average { destination: 1, sum: 2, round: 7 });
//! # Ok::<(), skein_redis_command::SyntaxError>(())
//! ```

pub mod command;

mod form;
mod syntax;
mod value;

use std::borrow::Cow;
use std::ffi::CStr;

pub use form::Form;
pub use syntax::SyntaxError;
pub use value::Value;

use form::{Reader, Writer};

/// Version of the grammar, which `SKEIN.VERSION` returns.
pub const VERSION: u32 = 1;

/// Keys of one list at most: twice as many as a job may have peers.
///
/// Kernels and replies allocate for each of them, with an allocation that ends the server when it fails. Up to here that
/// is about a megabyte for a thread that sorts, and 17 MB for one that compares all pairs. A sorting network for the
/// million arguments that a server takes would be gigabytes.
pub const KEYS_MAX: usize = 1 << 10;

/// Dimensions that a tensor's shape may have.
pub const DIMENSIONS_MAX: usize = 32;

/// A command whose keys and blobs are `A`: their bytes when it is written, their places when it is read.
pub trait Command<A>: Default {
    /// Its name.
    const NAME: &'static CStr;

    /// Goes through the arguments behind the name, in their order.
    ///
    /// # Errors
    /// An argument does not fit, is missing or is too many; only when the command is read.
    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError>;
}

/// The command that has `count` arguments with its name, which `get` returns by their place.
///
/// # Errors
/// The arguments do not fit the command's grammar.
pub fn read<'a, C: Command<usize>>(count: usize, get: impl Fn(usize) -> &'a [u8]) -> Result<C, SyntaxError> {
    let mut command = C::default();
    let mut reader = Reader::new(count, get);
    command.arguments(&mut reader)?;
    reader.end()?;
    Ok(command)
}

/// Places of the keys of such a command.
///
/// # Errors
/// As [`read`].
pub fn key_places<'a, C: Command<usize>>(
    count: usize,
    get: impl Fn(usize) -> &'a [u8],
) -> Result<Vec<usize>, SyntaxError> {
    let mut reader = Reader::new(count, get);
    C::default().arguments(&mut reader)?;
    reader.end()?;
    Ok(reader.into_keys())
}

/// The arguments of a command, its name first.
pub fn write<'a, C: Command<&'a [u8]>>(mut command: C) -> Vec<Cow<'a, [u8]>> {
    let mut writer = Writer::new(C::NAME.to_bytes());
    command.arguments(&mut writer).expect("a writer refuses nothing");
    writer.finish()
}
