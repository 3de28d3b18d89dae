//! The lock of a run's folder, which one process holds while it writes there.
//!
//! The lock is on the folder itself, so it leaves no file behind, and it ends with the process that holds it.

use std::fs::{File, TryLockError};
use std::io::Result;
use std::path::Path;
use std::time::Duration;

/// How often a lock is tried, and how long it rests between two tries: far longer than a look takes.
const LOOKS_MAX: u32 = 20;
const LOOK: Duration = Duration::from_millis(10);

/// Locks a folder until the file is dropped; `None` if another process holds it. Blocks for a fifth of a second at most.
///
/// # Errors
/// The folder cannot be opened or locked.
pub(crate) fn lock(dir: &Path) -> Result<Option<File>> {
    let folder = File::open(dir)?;
    // `skein status` holds a lock for an instant.
    let mut locked = folder.try_lock();
    for _ in 0..LOOKS_MAX {
        if locked.is_ok() {
            break;
        }
        std::thread::sleep(LOOK);
        locked = folder.try_lock();
    }
    is_free(locked).map(|is_free| is_free.then_some(folder))
}

/// Whether a process holds the lock of a folder. A process that asks for the lock in the same instant tries again.
///
/// # Errors
/// The folder cannot be opened or locked.
pub(crate) fn is_held(dir: &Path) -> Result<bool> {
    let folder = File::open(dir)?;
    // A shared lock, so that two that only look do not see each other.
    let locked = folder.try_lock_shared();
    is_free(locked).map(|is_free| !is_free)
}

fn is_free(locked: std::result::Result<(), TryLockError>) -> Result<bool> {
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
