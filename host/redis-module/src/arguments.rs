//! The arguments of a call.

#![expect(unsafe_code, reason = "the server's strings are raw pointers")]

use std::ffi::{CStr, c_int};

use skein_redis_command::{Command, read};

use crate::api::{RawString, api};
use crate::failure::Failure;

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
    /// As [`Arguments::new`], for the `argc` strings at `argv`.
    pub(crate) unsafe fn of_call(argv: *mut *mut RawString, argc: c_int) -> Arguments<'a> {
        match usize::try_from(argc) {
            // SAFETY: the caller vouches for the array.
            Ok(count @ 1..) => Arguments(unsafe { std::slice::from_raw_parts(argv, count) }),
            // A module loaded without arguments gets a null pointer, which a slice must not have.
            _ => Arguments(&[]),
        }
    }

    /// Number of arguments, including the command's name.
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// Parses the arguments as the command `C`.
    ///
    /// # Errors
    /// [`Failure::Syntax`] if they do not fit its grammar.
    pub(crate) fn command<C: Command<usize>>(self) -> Result<C, Failure> {
        read(self.len(), |place| self.get(place)).map_err(|error| Failure::Syntax(error.to_string()))
    }

    /// The bytes of the argument at `index`, which is below [`Arguments::len`].
    pub(crate) fn get(self, index: usize) -> &'a [u8] {
        let mut len = 0;
        // SAFETY: the string is alive for `'a`, and reading it does not touch its reference count.
        unsafe {
            let bytes = (api().StringPtrLen)(self.0[index], &raw mut len);
            std::slice::from_raw_parts(bytes.cast(), len)
        }
    }

    /// The command's name as the client spelled it.
    pub(crate) fn name(self) -> &'a CStr {
        // SAFETY: the server ends its strings in a zero byte, and a command's name contains none.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A slice with a null pointer is undefined behaviour; in an `Option` it reads as `None`.
    #[test]
    fn no_arguments_are_an_empty_slice() {
        // SAFETY: there are no strings.
        let arguments = std::hint::black_box(Some(unsafe { Arguments::of_call(std::ptr::null_mut(), 0) }));
        assert_eq!(arguments.map(Arguments::len), Some(0));
    }
}
