//! Buffers of values in the server's memory: aligned, counted by `used_memory`, and used again.
//!
//! A fresh buffer of a large model costs tens of thousands of page faults, so the last few that were retired wait
//! for a successor of the same length. They are freed when the server's memory gets tight or nobody asked for them
//! for a while.

#![expect(unsafe_code, reason = "the server's allocator gives raw memory")]

use std::ffi::c_void;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::api;
use crate::failure::Failure;

/// A cache line and the widest vector register. The server's allocator promises 16 bytes at most.
const ALIGNMENT: usize = 64;
/// Retired buffers that are kept: what one aggregation and one update with Adam produce.
const RETIRED_MAX: usize = 4;
/// Below this the allocator itself reuses memory without the operating system.
const RETIRED_BYTES_MIN: usize = 1 << 18;
/// Runs of the server's cron, ten a second by default, after which an idle buffer is freed.
const RETIRED_AGE_MAX: u32 = 100;
/// Share of `maxmemory` from which nothing is kept.
const TIGHT: f32 = 0.8;

static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
static RETIRED_BYTES: AtomicU64 = AtomicU64::new(0);
static MEMORY_IS_TIGHT: AtomicBool = AtomicBool::new(false);
static RETIRED: Mutex<Vec<(Memory, u32)>> = Mutex::new(Vec::new());

/// Memory of the server for `len` values, all of which are initialised.
#[derive(Debug)]
struct Memory {
    allocation: NonNull<c_void>,
    values: NonNull<f32>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone, and the server's allocator may be called from every thread.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates and lets `fill` initialise all values.
    fn allocate(len: usize, fill: impl FnOnce(*mut f32)) -> Result<Memory, Failure> {
        let bytes = len.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(ALIGNMENT - 1));
        // SAFETY: the function takes every size and gives null where there is no memory.
        let allocation = unsafe { (api().TryAlloc)(bytes.ok_or(Failure::Memory)?) };
        let allocation = NonNull::new(allocation).ok_or(Failure::Memory)?;
        let offset = allocation.cast::<u8>().align_offset(ALIGNMENT);
        // SAFETY: the offset is below the alignment, by which the allocation is larger than the values.
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
    /// Always there until the buffer is dropped.
    memory: Option<Memory>,
}

impl Buffer {
    /// A buffer to be overwritten: zeros, or what a retired one held.
    pub(crate) fn blank(len: usize) -> Result<Buffer, Failure> {
        match Buffer::recycled(len) {
            Some(buffer) => Ok(buffer),
            // SAFETY: the memory is large enough for `len` values, and zero bits are a value.
            None => Memory::allocate(len, |values| unsafe { values.write_bytes(0, len) }).map(Buffer::live),
        }
    }

    /// Values from their little-endian bytes; what is behind the last whole value is left out.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Buffer, Failure> {
        const { assert!(cfg!(target_endian = "little"), "values lie in memory as they are sent") };
        let len = bytes.len() / size_of::<f32>();
        let fill = |values: *mut f32| {
            // SAFETY: both sides have `4 * len` bytes, and the buffer is nobody else's.
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
        self.memory.as_ref().expect("only dropping takes it")
    }

    /// The values of a buffer that nobody else can have yet.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        let memory = self.memory();
        // SAFETY: all values are initialised, and the borrow of the only owner is unique.
        unsafe { std::slice::from_raw_parts_mut(memory.values.as_ptr(), memory.len) }
    }

    /// The values as they lie in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        let memory = self.memory();
        // SAFETY: the values are initialised, and every byte of them is one.
        unsafe { std::slice::from_raw_parts(memory.values.as_ptr().cast(), memory.bytes()) }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let memory = self.memory();
        // SAFETY: all values are initialised, and nobody writes to a shared buffer.
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
        // Freeing returns pages to the operating system, which is no work to do behind a lock.
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

/// Takes note of how full the server's memory is, as a share of `maxmemory`.
pub(crate) fn watch(used: f32) {
    let tight = used > TIGHT;
    MEMORY_IS_TIGHT.store(tight, Ordering::Relaxed);
    if tight {
        let old = std::mem::take(&mut *retired());
        old.into_iter().for_each(|(memory, _)| forget(memory));
    }
}

/// Lets retired buffers grow older by one run of the server's cron.
pub(crate) fn age() {
    let old: Vec<(Memory, u32)> = {
        let mut retired = retired();
        retired.iter_mut().for_each(|(_, age)| *age += 1);
        retired.extract_if(.., |(_, age)| *age > RETIRED_AGE_MAX).collect()
    };
    old.into_iter().for_each(|(memory, _)| forget(memory));
}

/// Bytes of values that are in use, and of those that wait to be used again.
pub(crate) fn bytes() -> (u64, u64) {
    (LIVE_BYTES.load(Ordering::Relaxed), RETIRED_BYTES.load(Ordering::Relaxed))
}
