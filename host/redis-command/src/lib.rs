//! The grammar of the commands `SKEIN.*`, for the module that executes them and for clients that send them.
//!
//! Each command in [`command`] lists its arguments once, in order. [`read`] and [`write()`] follow the same list, so
//! they cannot disagree. Keys and blobs are passed through: as bytes when a command is written, as places among its
//! arguments when it is read.
//!
//! Numbers are decimal text, a blob is little-endian `f32`, and rules and optimizers are the text forms of
//! [`skein_kernels`]. A list of keys follows its number, which has neither a sign nor leading zeros because the server
//! cannot read it otherwise. [`VERSION`] counts changes after which an older side would misread a command.
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

/// Most keys of one list: twice as many as a job may have peers.
///
/// Kernels and replies allocate memory for each key, and the server ends if that allocation fails. For so many keys, a
/// thread that sorts needs about a megabyte, and one that compares all pairs 17 MB. A sorting network for the million
/// arguments that a server accepts would take gigabytes.
pub const KEYS_MAX: usize = 1 << 10;

/// Most dimensions of a tensor's shape.
pub const DIMENSIONS_MAX: usize = 32;

/// A command whose keys and blobs are `A`: their bytes when it is written, their places when it is read.
pub trait Command<A>: Default {
    /// Name of the command, `SKEIN.` and upper-case letters.
    const NAME: &'static CStr;

    /// Passes the arguments after the name to `form`, in order.
    ///
    /// # Errors
    /// If the command is read: an argument is invalid, missing or superfluous.
    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError>;
}

/// Reads a command from `count` arguments, its name included; `get` returns the argument at a place.
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

/// Places of the keys among the arguments of the command `C`.
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
    command.arguments(&mut writer).expect("a writer never fails");
    writer.finish()
}
