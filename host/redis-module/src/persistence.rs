//! The callbacks of a native type: saving, loading, rewriting, copying, digesting, freeing.
//!
//! Saving may run in a forked child, which does not have our threads, so it takes no lock. Loading trusts nothing: it
//! refuses inconsistent data, and allocates values only as large as the data that the server has read.

#![expect(unsafe_code, reason = "the server calls a type's functions with raw pointers")]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use skein_redis_command::Command;
use skein_redis_command::command::Set;

use crate::api::{self, RawContext, RawDigest, RawIo, RawString, RawType, TypeMethods, api};
use crate::buffer::Buffer;
use crate::guard::guarded;

/// Version of the format in which values are saved, written before each value.
const FORMAT: u64 = 1;
/// Bytes that count as one unit of effort to free; from 64 units on, the server frees in the background.
const BYTES_PER_EFFORT: usize = 1 << 12;

/// A value of a native type.
pub(crate) trait Value: Sized {
    /// The native type of the value.
    fn kind() -> &'static Kind;
    /// Writes the value; takes no lock.
    fn save(&self, output: &mut Output);
    /// Reads a value from untrusted data.
    fn load(input: &mut Input) -> Result<Self, Damaged>;
    /// Writes the command that creates the value.
    fn rewrite(&self, rewrite: &mut Rewrite);
    /// Memory that the value uses, in bytes.
    fn memory(&self) -> usize;
    /// Adds everything that distinguishes the value from others.
    fn digest(&self, digest: &mut Digesting);
    /// An equal value that changes independently.
    fn copy(&self) -> Self;
}

/// A native type: its name, and the server's handle once it is registered.
#[derive(Debug)]
pub(crate) struct Kind {
    name: &'static CStr,
    raw: AtomicPtr<RawType>,
}

impl Kind {
    /// A type with a name of exactly nine letters.
    pub(crate) const fn new(name: &'static CStr) -> Kind {
        Kind { name, raw: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The server's handle, null before [`register`].
    pub(crate) fn raw(&self) -> *mut RawType {
        self.raw.load(Ordering::Acquire)
    }
}

/// Saved data that are inconsistent or of another format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// The stream that a value is saved to.
pub(crate) struct Output(*mut RawIo);

impl Output {
    pub(crate) fn number(&mut self, number: u64) {
        // SAFETY: the server passed the handle for this call.
        unsafe { (api().SaveUnsigned)(self.0, number) };
    }

    pub(crate) fn double(&mut self, number: f64) {
        // SAFETY: as above.
        unsafe { (api().SaveDouble)(self.0, number) };
    }

    pub(crate) fn values(&mut self, values: &Buffer) {
        let bytes = values.bytes();
        // SAFETY: as above, and the bytes are ours during the call.
        unsafe { (api().SaveStringBuffer)(self.0, bytes.as_ptr().cast(), bytes.len()) };
    }
}

/// The stream that a value is loaded from.
pub(crate) struct Input(*mut RawIo);

impl Input {
    /// A number of at most `most`.
    ///
    /// # Errors
    /// [`Damaged`] if the number is greater or missing.
    pub(crate) fn number_up_to(&mut self, most: u64) -> Result<u64, Damaged> {
        // SAFETY: the server passed the handle for this call.
        let number = unsafe { (api().LoadUnsigned)(self.0) };
        self.check()?;
        if number <= most { Ok(number) } else { Err(Damaged) }
    }

    pub(crate) fn double(&mut self) -> Result<f64, Damaged> {
        // SAFETY: as above.
        let number = unsafe { (api().LoadDouble)(self.0) };
        self.check().map(|()| number)
    }

    pub(crate) fn values(&mut self) -> Result<Buffer, Damaged> {
        let mut len = 0;
        // SAFETY: as above; the server returns memory that is ours to free, or null.
        let bytes = unsafe { (api().LoadStringBuffer)(self.0, &raw mut len) };
        if bytes.is_null() {
            return Err(Damaged);
        }
        // SAFETY: the server read `len` bytes into this memory.
        let values = Buffer::of_bytes(unsafe { std::slice::from_raw_parts(bytes.cast(), len) });
        // SAFETY: the memory came from the server's allocator, and is no longer borrowed.
        unsafe { (api().Free)(bytes.cast()) };
        self.check()?;
        if len.is_multiple_of(size_of::<f32>()) { values.map_err(|_| Damaged) } else { Err(Damaged) }
    }

    fn check(&self) -> Result<(), Damaged> {
        // SAFETY: the server passed the handle for this call.
        if unsafe { (api().IsIOError)(self.0) } == 0 { Ok(()) } else { Err(Damaged) }
    }
}

/// The running digest of a value.
pub(crate) struct Digesting(*mut RawDigest);

impl Digesting {
    pub(crate) fn number(&mut self, number: u64) {
        // SAFETY: the server passed the handle for this call.
        unsafe { (api().DigestAddLongLong)(self.0, number.cast_signed()) };
    }

    pub(crate) fn values(&mut self, values: &Buffer) {
        let bytes = values.bytes();
        // SAFETY: as above, and the bytes are ours during the call.
        unsafe { (api().DigestAddStringBuffer)(self.0, bytes.as_ptr().cast(), bytes.len()) };
    }
}

/// A command log that is being rewritten, at one key.
pub(crate) struct Rewrite {
    io: *mut RawIo,
    key: *mut RawString,
    value: *const c_void,
    kind: *mut RawType,
}

impl Rewrite {
    /// Writes `SKEIN.SET`, which restores a whole tensor: version, values and shape.
    pub(crate) fn tensor(&mut self, version: u64, bytes: &[u8], shape: &[u32]) {
        let shape: Vec<String> = shape.iter().map(u32::to_string).collect();
        let version = version.cast_signed();
        let strings: Vec<*mut RawString> = shape.iter().map(|text| create_string(text.as_bytes())).collect();
        // SAFETY: the format names a string, a number, a buffer with its length and a vector with its length.
        unsafe {
            (api().EmitAOF)(
                self.io,
                <Set<usize> as Command<usize>>::NAME.as_ptr(),
                c"slbv".as_ptr(),
                self.key,
                version,
                bytes.as_ptr(),
                bytes.len(),
                strings.as_ptr(),
                strings.len(),
            );
        }
        strings.into_iter().for_each(free_string);
    }

    /// Writes `command`, which takes the value in its saved form.
    pub(crate) fn serialized(&mut self, command: &CStr) {
        // SAFETY: the value is of type `kind`; the string is ours to free.
        unsafe {
            let payload = (api().SaveDataTypeToString)(std::ptr::null_mut(), self.value, self.kind);
            if !payload.is_null() {
                (api().EmitAOF)(self.io, command.as_ptr(), c"ss".as_ptr(), self.key, payload);
                free_string(payload);
            }
        }
    }
}

fn create_string(text: &[u8]) -> *mut RawString {
    // SAFETY: the bytes are ours during the call, and the string belongs to no context.
    unsafe { (api().CreateString)(std::ptr::null_mut(), text.as_ptr().cast(), text.len()) }
}

fn free_string(string: *mut RawString) {
    // SAFETY: the string is ours, and the server's lock is held while a log is written.
    unsafe { (api().FreeString)(std::ptr::null_mut(), string) };
}

/// Hands a value over to the server, which frees it with [`free`].
pub(crate) fn into_raw<V: Value>(value: V) -> *mut c_void {
    Box::into_raw(Box::new(value)).cast()
}

/// Reads a value that [`Rewrite::serialized`] wrote.
///
/// # Safety
/// `payload` is a string of the server, whose lock is held.
pub(crate) unsafe fn deserialize<V: Value>(payload: *mut RawString) -> Option<V> {
    // SAFETY: the caller vouches for the string; a value that comes back was made by `load::<V>`.
    unsafe {
        let value = (api().LoadDataTypeFromString)(payload, V::kind().raw());
        (!value.is_null()).then(|| *Box::from_raw(value.cast::<V>()))
    }
}

/// Registers the type with the server. Returns `false` if the server refuses it.
///
/// # Safety
/// `context` is that of the module's entry point.
pub(crate) unsafe fn register<V: Value>(context: *mut RawContext) -> bool {
    let methods = TypeMethods {
        version: api::TYPE_METHODS_VERSION,
        rdb_load: load::<V>,
        rdb_save: save::<V>,
        aof_rewrite: rewrite::<V>,
        mem_usage: memory::<V>,
        digest: digest::<V>,
        free: free::<V>,
        aux_load: std::ptr::null(),
        aux_save: std::ptr::null(),
        aux_save_triggers: 0,
        free_effort: free_effort::<V>,
        unlink: std::ptr::null(),
        copy: copy::<V>,
        defrag: std::ptr::null(),
    };
    let kind = V::kind();
    // SAFETY: the server copies the table during the call.
    let raw = unsafe { (api().CreateDataType)(context, kind.name.as_ptr(), FORMAT as c_int, &raw const methods) };
    if raw.is_null() {
        return false;
    }
    kind.raw.store(raw, Ordering::Release);
    true
}

/// # Safety
/// The server passes a value that it got from [`into_raw`] or [`load`], and permits no other access to it for `'a`.
unsafe fn value<'a, V: Value>(value: *const c_void) -> &'a V {
    // SAFETY: the caller's promise.
    unsafe { &*value.cast::<V>() }
}

unsafe extern "C" fn load<V: Value>(io: *mut RawIo, _encoding: c_int) -> *mut c_void {
    let mut input = Input(io);
    let loaded = guarded(|| {
        input.number_up_to(FORMAT).and_then(|format| if format == FORMAT { V::load(&mut input) } else { Err(Damaged) })
    });
    match loaded {
        Some(Ok(value)) => into_raw(value),
        _ => {
            // SAFETY: the level and the text are constants without format directives.
            unsafe { (api().LogIOError)(io, c"warning".as_ptr(), c"skein: refused a damaged value".as_ptr()) };
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn save<V: Value>(io: *mut RawIo, raw: *mut c_void) {
    let mut output = Output(io);
    output.number(FORMAT);
    // SAFETY: the server's promise, see `value`.
    guarded(|| unsafe { value::<V>(raw) }.save(&mut output));
}

unsafe extern "C" fn rewrite<V: Value>(io: *mut RawIo, key: *mut RawString, raw: *mut c_void) {
    let mut rewrite = Rewrite { io, key, value: raw, kind: V::kind().raw() };
    // SAFETY: the server's promise, see `value`.
    guarded(|| unsafe { value::<V>(raw) }.rewrite(&mut rewrite));
}

unsafe extern "C" fn memory<V: Value>(raw: *const c_void) -> usize {
    // SAFETY: the server's promise, see `value`.
    guarded(|| unsafe { value::<V>(raw) }.memory()).unwrap_or(0)
}

unsafe extern "C" fn digest<V: Value>(raw_digest: *mut RawDigest, raw: *mut c_void) {
    let mut digest = Digesting(raw_digest);
    // SAFETY: the server's promise, see `value`.
    guarded(|| unsafe { value::<V>(raw) }.digest(&mut digest));
    // SAFETY: the server passed the handle for this call.
    unsafe { (api().DigestEndSequence)(raw_digest) };
}

unsafe extern "C" fn free<V: Value>(raw: *mut c_void) {
    // SAFETY: the server gives up its only pointer to the value.
    guarded(|| drop(unsafe { Box::from_raw(raw.cast::<V>()) }));
}

unsafe extern "C" fn free_effort<V: Value>(_key: *mut RawString, raw: *const c_void) -> usize {
    // SAFETY: the server's promise, see `value`.
    guarded(|| 1 + unsafe { value::<V>(raw) }.memory() / BYTES_PER_EFFORT).unwrap_or(1)
}

unsafe extern "C" fn copy<V: Value>(_from: *mut RawString, _to: *mut RawString, raw: *const c_void) -> *mut c_void {
    // SAFETY: the server's promise, see `value`.
    guarded(|| into_raw(unsafe { value::<V>(raw) }.copy())).unwrap_or(std::ptr::null_mut())
}
