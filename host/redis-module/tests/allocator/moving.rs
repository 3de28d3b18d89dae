//! A `realloc` that moves what it shrinks, for tests to preload into a server.
//!
//! The standard lets it, and some allocators do. Those of common servers shrink large memory where it is, which hides
//! it when a thread goes on reading what another one shrinks.

#![expect(unsafe_code, reason = "an allocator deals in raw memory")]

use std::ffi::c_void;

/// Memory that is moved at a time.
const CHUNK: usize = 1 << 16;
/// What moved memory is overwritten with.
const GONE: u8 = 0xa5;

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
    fn malloc_usable_size(memory: *mut c_void) -> usize;
}

/// # Safety
/// As the function of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(memory: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the caller gives memory of the same allocator and stops using it; as much is copied as both sides have.
    unsafe {
        if memory.is_null() {
            return malloc(size);
        }
        let moved = malloc(size);
        if !moved.is_null() {
            move_backwards(memory.cast(), moved.cast(), size.min(malloc_usable_size(memory)));
            // A compiler knows that nobody may read what is freed, and would leave out the overwriting.
            free(std::hint::black_box(memory));
        }
        moved
    }
}

/// Moves from the end, so that a reader that started at the beginning meets what is gone already.
///
/// # Safety
/// Both sides have so many bytes, and do not overlap.
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
