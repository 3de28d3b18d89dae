//! Runs the same work on parts of vectors, on several threads.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

use crate::error::Error;

/// Fewest values per part: for fewer, a thread costs more than it saves.
const PART_MIN: usize = 1 << 17;

/// Length of the parts of a vector of `len` values, for so many threads; at least 1.
pub(crate) fn part_len(len: usize, threads: usize) -> usize {
    len.div_ceil(threads.max(1)).max(PART_MIN).next_multiple_of(1 << 13)
}

/// Runs all parts, on this thread and one more for each further part, or on as many as the operating system can start.
/// Returns the error of the first part that failed.
pub(crate) fn in_parallel<W>(parts: impl Iterator<Item = W>) -> Result<(), Error>
where
    W: FnOnce() -> Result<(), Error> + Send,
{
    let parts: Vec<W> = parts.collect();
    let helpers = parts.len().saturating_sub(1);
    let parts = Mutex::new(parts.into_iter().enumerate());
    // Parts are taken in order, so all parts before one that failed are done.
    let work = || loop {
        let next = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (index, part) = next?;
        if let Err(error) = part() {
            return Some((index, error));
        }
    };
    let first = thread::scope(|scope| {
        let spawn = |_| Builder::new().spawn_scoped(scope, work).ok();
        let helpers: Vec<_> = (0..helpers).map_while(spawn).collect();
        let own = work();
        let others = helpers.into_iter().map(|helper| match helper.join() {
            Ok(failed) => failed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        { others }.chain([own]).flatten().min_by_key(|(index, _)| *index)
    });
    first.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for parts in [0, 1, 2, 50] {
            let done: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            let work = done.iter().map(|part| {
                || {
                    part.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
            });
            assert_eq!(in_parallel(work), Ok(()));
            assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn the_first_error_by_part_is_returned() {
        for _ in 0..100 {
            let fails = |part: usize| move || if part % 5 == 3 { Err(Error::NonFinite { row: part }) } else { Ok(()) };
            assert_eq!(in_parallel((0..20).map(fails)), Err(Error::NonFinite { row: 3 }));
        }
    }
}
