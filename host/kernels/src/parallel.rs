//! The same work on parts of vectors, on several threads.

use crate::error::Error;

/// Values of a part at least: below that a thread costs more than it does.
const PART_MIN: usize = 1 << 17;

/// Length of the parts of a vector of `len` values, for so many threads; at least 1.
pub(crate) fn part_len(len: usize, threads: usize) -> usize {
    len.div_ceil(threads.max(1)).max(PART_MIN).next_multiple_of(1 << 13)
}

/// Does all parts at the same time, the last of them on this thread; gives the error of the first that has one.
pub(crate) fn in_parallel<W>(parts: impl Iterator<Item = W>) -> Result<(), Error>
where
    W: FnOnce() -> Result<(), Error> + Send,
{
    let mut parts: Vec<W> = parts.collect();
    let Some(own) = parts.pop() else { return Ok(()) };
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.into_iter().map(|part| scope.spawn(part)).collect();
        let own = own();
        let others = others.into_iter().map(|part| match part.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.chain([own]).collect()
    })
}
