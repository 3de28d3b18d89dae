//! How many threads a command computes on: its own, and helpers from a budget that all commands share.
//!
//! Without it, each of the pool's threads could start as many again, four thousand on a machine with 64 processors,
//! while a few saturate its memory bandwidth. So all commands together have fewer helpers than the pool has threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that may compute, and how many are lent to commands.
pub(crate) struct Budget {
    threads: usize,
    lent: Mutex<Lent>,
}

#[derive(Default)]
struct Lent {
    commands: usize,
    helpers: usize,
}

impl Budget {
    pub(crate) fn new(threads: usize) -> Budget {
        Budget { threads, lent: Mutex::default() }
    }

    /// Threads for one more command, until it drops the share: its own, and free helpers up to an equal part of all
    /// threads.
    pub(crate) fn share(&self) -> Share<'_> {
        let mut lent = self.lent();
        lent.commands += 1;
        let equal = (self.threads / lent.commands).saturating_sub(1);
        let free = self.threads.saturating_sub(lent.commands + lent.helpers);
        let helpers = equal.min(free);
        lent.helpers += helpers;
        Share { budget: self, helpers }
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a [`Budget`] that one command has.
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    helpers: usize,
}

impl Share<'_> {
    /// Number of threads, including the command's own.
    pub(crate) fn threads(&self) -> usize {
        1 + self.helpers
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut lent = self.budget.lent();
        lent.commands -= 1;
        lent.helpers -= self.helpers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_command_gets_all_threads() {
        for threads in [1, 2, 64] {
            let budget = Budget::new(threads);
            assert_eq!(budget.share().threads(), threads);
            assert_eq!(budget.share().threads(), threads, "the first has returned its share");
        }
    }

    #[test]
    fn a_later_command_leaves_threads_for_the_next() {
        let budget = Budget::new(8);
        let first = budget.share();
        let second = budget.share();
        assert_eq!((first.threads(), second.threads()), (8, 1));
        drop(first);
        let shares = [budget.share(), budget.share(), budget.share()];
        assert_eq!(shares.each_ref().map(Share::threads), [4, 2, 1]);
    }

    #[test]
    fn there_are_never_more_helpers_than_threads() {
        for threads in 1..20 {
            let budget = Budget::new(threads);
            // Each turn starts a command. On three turns of four the oldest ends, once more than three run.
            let mut shares = std::collections::VecDeque::new();
            for turn in 0..100 {
                shares.push_back(budget.share());
                if turn % 4 != 0 && shares.len() > 3 {
                    shares.pop_front();
                }
                let helpers: usize = shares.iter().map(|share: &Share<'_>| share.threads() - 1).sum();
                assert!(helpers < threads, "{helpers} helpers of {threads} threads");
            }
        }
    }
}
