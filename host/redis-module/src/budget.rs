//! How many threads a command computes on: its own, and what it borrows of a number that all commands share.
//!
//! Each of the pool's threads could start as many again, four thousand on a machine of 64 processors, while a handful
//! use up what bandwidth its memory has. So all commands together have no more helpers than the pool has threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that may compute, and those that do.
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

    /// What one more command may compute on until it drops its share: an equal part of all threads at most, of which
    /// it gets those that are free and in any case its own.
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

/// A command's part of a [`Budget`].
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    helpers: usize,
}

impl Share<'_> {
    /// Threads, the command's own included.
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
    fn a_command_alone_has_all_threads() {
        for threads in [1, 2, 64] {
            let budget = Budget::new(threads);
            assert_eq!(budget.share().threads(), threads);
            assert_eq!(budget.share().threads(), threads, "the first has returned its share");
        }
    }

    #[test]
    fn a_command_that_comes_while_others_run_leaves_something_for_the_next() {
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
            // Commands that come and go in an order of no sense; each leaves when three more have come.
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
