//! Arguments of a call, and reading them in order.

#![expect(unsafe_code, reason = "the server's strings are raw pointers")]

use std::ffi::{CStr, c_int};
use std::str::FromStr;

use crate::api::{RawString, api};
use crate::failure::Failure;

/// Keys of one list at most: twice as many as a job may have peers. The kernels and replies allocate for each of them,
/// with an allocation that ends the process when it fails; up to here that is about a megabyte for a thread. A sorting
/// network for the million arguments that a server takes would be gigabytes.
pub(crate) const KEYS_MAX: usize = 1 << 10;

/// The arguments of one call; the command's name is the first.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a>(&'a [*mut RawString]);

impl<'a> Arguments<'a> {
    /// # Safety
    /// The strings stay alive and unchanged for `'a`.
    pub(crate) unsafe fn new(strings: &'a [*mut RawString]) -> Arguments<'a> {
        Arguments(strings)
    }

    /// # Safety
    /// As [`Arguments::new`] for the `argc` strings at `argv`.
    pub(crate) unsafe fn of_call(argv: *mut *mut RawString, argc: c_int) -> Arguments<'a> {
        match usize::try_from(argc) {
            // SAFETY: the caller vouches for the array.
            Ok(count @ 1..) => Arguments(unsafe { std::slice::from_raw_parts(argv, count) }),
            // A module that is loaded without arguments gets a null pointer to none, which no slice may have.
            _ => Arguments(&[]),
        }
    }

    /// How many there are, the command's name included.
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// The argument at `index`, which was there when the call was read.
    pub(crate) fn get(self, index: usize) -> &'a [u8] {
        let mut len = 0;
        // SAFETY: the string is alive for `'a`, and reading it touches no counter.
        unsafe {
            let bytes = (api().StringPtrLen)(self.0[index], &raw mut len);
            std::slice::from_raw_parts(bytes.cast(), len)
        }
    }

    /// The command's name as the client spelled it.
    pub(crate) fn name(self) -> &'a CStr {
        // SAFETY: the server's strings end in a zero behind their last byte, and a command's name holds none.
        unsafe { CStr::from_ptr((api().StringPtrLen)(self.0[0], std::ptr::null_mut())) }
    }

    /// The server's string at `index`.
    pub(crate) fn raw(self, index: usize) -> *mut RawString {
        self.0[index]
    }

    /// The server's strings from `index` on.
    pub(crate) fn raw_from(self, index: usize) -> &'a [*mut RawString] {
        &self.0[index..]
    }
}

/// Reads arguments one after the other.
pub(crate) struct Reader<'a> {
    arguments: Arguments<'a>,
    next: usize,
}

impl<'a> Reader<'a> {
    /// Begins behind the command's name.
    pub(crate) fn new(arguments: Arguments<'a>) -> Reader<'a> {
        Reader { arguments, next: 1 }
    }

    /// Where the next argument is; for keys and blobs, which are kept by their index.
    pub(crate) fn place(&mut self, what: &str) -> Result<usize, Failure> {
        if self.next == self.arguments.len() {
            return Err(Failure::Syntax(format!("`{what}` is missing")));
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Places of `count` arguments.
    pub(crate) fn places(&mut self, count: usize, what: &str) -> Result<std::ops::Range<usize>, Failure> {
        if count > self.left() {
            return Err(Failure::Syntax(format!("there are fewer than {count} of `{what}`")));
        }
        self.next += count;
        Ok(self.next - count..self.next)
    }

    /// Places of keys behind their count, which is read as the server reads it.
    ///
    /// An access list is held against the keys that the server finds, by the same count. Where it cannot read one, or
    /// reads zero, it finds no keys of the whole command and lets it pass.
    pub(crate) fn counted_keys(&mut self, count: &str, what: &str) -> Result<std::ops::Range<usize>, Failure> {
        let text = self.arguments.get(self.place(count)?);
        let keys = key_count(text).ok_or_else(|| {
            Failure::Syntax(format!("`{count}` is not a number from 1 to {KEYS_MAX} without sign and leading zeros"))
        })?;
        self.places(keys, what)
    }

    /// The next argument as text.
    pub(crate) fn text(&mut self, what: &str) -> Result<&'a str, Failure> {
        let place = self.place(what)?;
        std::str::from_utf8(self.arguments.get(place)).map_err(|_| Failure::Syntax(format!("`{what}` is not text")))
    }

    /// The next argument as a number.
    pub(crate) fn number<T: FromStr>(&mut self, what: &str) -> Result<T, Failure> {
        self.text(what)?.parse().map_err(|_| Failure::Syntax(format!("`{what}` is not a number that fits")))
    }

    /// A version or a round, which has to fit the integers of replies.
    pub(crate) fn version(&mut self, what: &str) -> Result<u64, Failure> {
        let version: u64 = self.number(what)?;
        i64::try_from(version).map(|_| version).map_err(|_| Failure::Syntax(format!("`{what}` is 2^63 or more")))
    }

    /// A finite number.
    pub(crate) fn finite(&mut self, what: &str) -> Result<f32, Failure> {
        let value: f32 = self.number(what)?;
        value.is_finite().then_some(value).ok_or_else(|| Failure::Syntax(format!("`{what}` is not finite")))
    }

    /// `count` numbers.
    pub(crate) fn numbers<T: FromStr>(&mut self, count: usize, what: &str) -> Result<Vec<T>, Failure> {
        if count > self.left() {
            return Err(Failure::Syntax(format!("there are fewer than {count} of `{what}`")));
        }
        (0..count).map(|_| self.number(what)).collect()
    }

    /// A word that has to stand here.
    pub(crate) fn word(&mut self, word: &str) -> Result<(), Failure> {
        match self.text(word)?.eq_ignore_ascii_case(word) {
            true => Ok(()),
            false => Err(Failure::Syntax(format!("`{word}` is expected"))),
        }
    }

    /// How many arguments are left.
    pub(crate) fn left(&self) -> usize {
        self.arguments.len() - self.next
    }

    /// Refuses arguments that nothing reads.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        match self.left() {
            0 => Ok(()),
            left => Err(Failure::Syntax(format!("there are {left} arguments too many"))),
        }
    }
}

/// A count of keys that is not too large, in the only spelling that the server takes.
fn key_count(text: &[u8]) -> Option<usize> {
    let canonical = text.first().is_some_and(|digit| *digit != b'0') && text.iter().all(u8::is_ascii_digit);
    let count = std::str::from_utf8(text).ok().filter(|_| canonical)?;
    count.parse().ok().filter(|count| *count <= KEYS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_keys_has_one_spelling() {
        for (text, count) in [("1", 1), ("9", 9), ("10", 10), ("1024", 1024)] {
            assert_eq!(key_count(text.as_bytes()), Some(count));
        }
        for text in
            ["", "0", "-0", "-1", "+1", "01", "00", " 1", "1 ", "1\0", "1.0", "1025", "18446744073709551617", "\u{661}"]
        {
            assert_eq!(key_count(text.as_bytes()), None, "{text:?}");
        }
    }

    /// A slice whose pointer is null is read as no slice at all, among the lesser things that may become of it.
    #[test]
    fn no_arguments_are_a_slice_of_none() {
        // SAFETY: there are no strings.
        let arguments = std::hint::black_box(Some(unsafe { Arguments::of_call(std::ptr::null_mut(), 0) }));
        assert_eq!(arguments.map(Arguments::len), Some(0));
    }
}
