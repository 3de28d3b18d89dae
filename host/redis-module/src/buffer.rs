//! Buffers of values in the server's memory: aligned, counted by `used_memory`, and reused.
//!
//! A fresh buffer for a large model costs tens of thousands of page faults, so the last few retired buffers are kept
//! for reuse at the same length. They are freed when the server's memory gets tight or after a while without use.

#![expect(unsafe_code, reason = "the server's allocator returns raw memory")]

use std::ffi::c_void;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::api;
use crate::failure::Failure;

/// A cache line and the widest vector register. The server's allocator guarantees at most 16 bytes.
const ALIGNMENT: usize = 64;
/// Retired buffers that are kept: as many as one aggregation and one update with Adam produce.
const RETIRED_MAX: usize = 4;
/// Smaller buffers are not kept: the allocator itself reuses their memory without the operating system.
const RETIRED_BYTES_MIN: usize = 1 << 18;
/// Runs of the server's cron, ten a second by default, after which an idle buffer is freed.
const RETIRED_AGE_MAX: u32 = 100;
/// Share of `maxmemory` above which no retired buffer is kept.
const TIGHT: f32 = 0.8;

static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
static RETIRED_BYTES: AtomicU64 = AtomicU64::new(0);
static MEMORY_IS_TIGHT: AtomicBool = AtomicBool::new(false);
static RETIRED: Mutex<Vec<(Memory, u32)>> = Mutex::new(Vec::new());

/// Server memory for `len` values, all of them initialised.
#[derive(Debug)]
struct Memory {
    allocation: NonNull<c_void>,
    values: NonNull<f32>,
    len: usize,
}

// SAFETY: only this value owns the memory, and the server's allocator may be called from every thread.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates, and calls `fill` to initialise all values.
    fn allocate(len: usize, fill: impl FnOnce(*mut f32)) -> Result<Memory, Failure> {
        let bytes = len.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(ALIGNMENT - 1));
        // SAFETY: the function accepts every size and returns null if there is no memory.
        let allocation = unsafe { (api().TryAlloc)(bytes.ok_or(Failure::Memory)?) };
        let allocation = NonNull::new(allocation).ok_or(Failure::Memory)?;
        let offset = allocation.cast::<u8>().align_offset(ALIGNMENT);
        // SAFETY: the offset is at most `ALIGNMENT - 1`, and the allocation has that many bytes beyond the values.
        let values = unsafe { allocation.cast::<u8>().add(offset) }.cast::<f32>();
        fill(values.as_ptr());
        Ok(Memory { allocation, values, len })
    }

    fn bytes(&self) -> usize {
        self.len * size_of::<f32>()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the allocation came from the same allocator and is freed once.
        unsafe { (api().Free)(self.allocation.as_ptr()) };
    }
}

/// Values, aligned to a cache line.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// `Some` until the buffer is dropped.
    memory: Option<Memory>,
}

impl Buffer {
    /// A buffer to overwrite: it holds zeros or the values of a retired one.
    pub(crate) fn blank(len: usize) -> Result<Buffer, Failure> {
        match Buffer::recycled(len) {
            Some(buffer) => Ok(buffer),
            // SAFETY: the memory is large enough for `len` values, and zero bits are a valid value.
            None => Memory::allocate(len, |values| unsafe { values.write_bytes(0, len) }).map(Buffer::live),
        }
    }

    /// Values from their little-endian bytes; bytes after the last whole value are ignored.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Buffer, Failure> {
        const { assert!(cfg!(target_endian = "little"), "values are copied as they are sent: in little-endian order") };
        let len = bytes.len() / size_of::<f32>();
        let fill = |values: *mut f32| {
            // SAFETY: both sides have `4 * len` bytes, and the buffer is not shared yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), values.cast(), len * size_of::<f32>()) };
        };
        match Buffer::recycled(len) {
            Some(mut buffer) => {
                fill(buffer.values_mut().as_mut_ptr());
                Ok(buffer)
            }
            None => Memory::allocate(len, fill).map(Buffer::live),
        }
    }

    fn recycled(len: usize) -> Option<Buffer> {
        let mut retired = retired();
        let at = retired.iter().position(|(memory, _)| memory.len == len)?;
        let (memory, _) = retired.remove(at);
        RETIRED_BYTES.fetch_sub(memory.bytes() as u64, Ordering::Relaxed);
        Some(Buffer::live(memory))
    }

    fn live(memory: Memory) -> Buffer {
        LIVE_BYTES.fetch_add(memory.bytes() as u64, Ordering::Relaxed);
        Buffer { memory: Some(memory) }
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("only `drop` takes the memory")
    }

    /// The values of a buffer that is not shared yet.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        let memory = self.memory();
        // SAFETY: all values are initialised, and the owner is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(memory.values.as_ptr(), memory.len) }
    }

    /// The values as little-endian bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let memory = self.memory();
        // SAFETY: the values are initialised, and any byte is a valid `u8`.
        unsafe { std::slice::from_raw_parts(memory.values.as_ptr().cast(), memory.bytes()) }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let memory = self.memory();
        // SAFETY: all values are initialised, and a shared buffer is never written to.
        unsafe { std::slice::from_raw_parts(memory.values.as_ptr(), memory.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        LIVE_BYTES.fetch_sub(memory.bytes() as u64, Ordering::Relaxed);
        if memory.bytes() < RETIRED_BYTES_MIN || MEMORY_IS_TIGHT.load(Ordering::Relaxed) {
            return;
        }
        RETIRED_BYTES.fetch_add(memory.bytes() as u64, Ordering::Relaxed);
        let mut retired = retired();
        retired.push((memory, 0));
        let oldest = (retired.len() > RETIRED_MAX).then(|| retired.remove(0));
        // Freeing returns pages to the operating system, which takes too long under a lock.
        std::mem::drop(retired);
        oldest.into_iter().for_each(|(memory, _)| forget(memory));
    }
}

fn retired() -> MutexGuard<'static, Vec<(Memory, u32)>> {
    RETIRED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(memory: Memory) {
    RETIRED_BYTES.fetch_sub(memory.bytes() as u64, Ordering::Relaxed);
}

/// Records how full the server's memory is, as a share of `maxmemory`; above [`TIGHT`], frees retired buffers.
pub(crate) fn watch(used: f32) {
    let tight = used > TIGHT;
    MEMORY_IS_TIGHT.store(tight, Ordering::Relaxed);
    if tight {
        let old = std::mem::take(&mut *retired());
        old.into_iter().for_each(|(memory, _)| forget(memory));
    }
}

/// Ages retired buffers by one run of the server's cron, and frees those that are too old.
pub(crate) fn age() {
    let old: Vec<(Memory, u32)> = {
        let mut retired = retired();
        retired.iter_mut().for_each(|(_, age)| *age += 1);
        retired.extract_if(.., |(_, age)| *age > RETIRED_AGE_MAX).collect()
    };
    old.into_iter().for_each(|(memory, _)| forget(memory));
}

/// Bytes of buffers in use, and of retired buffers.
pub(crate) fn bytes() -> (u64, u64) {
    (LIVE_BYTES.load(Ordering::Relaxed), RETIRED_BYTES.load(Ordering::Relaxed))
}
