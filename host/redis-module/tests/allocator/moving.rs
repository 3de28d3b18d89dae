//! A `realloc` that moves memory when it shrinks it, which tests preload into a server.
//!
//! The C standard permits this, and some allocators do it. Those of common servers shrink large memory in place, which
//! hides the bug of one thread reading memory that another one shrinks.

#![expect(unsafe_code, reason = "an allocator handles raw memory")]

use std::ffi::c_void;

/// Bytes that are moved at a time.
const CHUNK: usize = 1 << 16;
/// The byte that overwrites moved memory.
const GONE: u8 = 0xa5;

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
    fn malloc_usable_size(memory: *mut c_void) -> usize;
}

/// # Safety
/// As for C's `realloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(memory: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller passes memory of the same allocator and stops using it; the copy fits into both sides.
    unsafe {
        if memory.is_null() {
            return malloc(size);
        }
        let moved = malloc(size);
        if !moved.is_null() {
            move_backwards(memory.cast(), moved.cast(), size.min(malloc_usable_size(memory)));
            // Otherwise the compiler would drop the overwriting, since freed memory is not read.
            free(std::hint::black_box(memory));
        }
        moved
    }
}

/// Moves from the end, so that a reader that started at the beginning meets overwritten memory.
///
/// # Safety
/// Both sides have at least `bytes` bytes, and do not overlap.
unsafe fn move_backwards(from: *mut u8, to: *mut u8, bytes: usize) {
    for start in (0..bytes).step_by(CHUNK).rev() {
        let chunk = CHUNK.min(bytes - start);
        // SAFETY: the chunk is within both sides.
        unsafe {
            to.add(start).copy_from_nonoverlapping(from.add(start), chunk);
            from.add(start).write_bytes(GONE, chunk);
        }
    }
}
