//! The pause of a worker whose tasks fail, so that others get them first.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure, which every further one doubles, and the longest one: half of the default minimum
/// wait for a peer, since a task may be left to a host that pauses.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Consecutive failures, and the pause that they cause.
#[derive(Debug, Default)]
pub(super) struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    /// A task succeeded, which ends the pause.
    pub(super) fn succeeded(&mut self) {
        *self = Pause::default();
    }

    /// A task failed; returns how long the worker pauses. A call that fails during a pause began before it, so it does
    /// not extend the pause, and `None` is returned.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Duration> {
        if self.until(now).is_some() {
            return None;
        }
        let pause = PAUSE_MIN.saturating_mul(2u32.saturating_pow(self.failures)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
        Some(pause)
    }

    /// When the pause ends; `None` if the worker does not pause at `now`.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_until_a_task_succeeds() {
        let mut pause = Pause::default();
        let mut now = Instant::now();
        assert_eq!(pause.until(now), None);
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            let next = pause.failed(now).expect("a new pause");
            assert!(next == (last * 2).clamp(PAUSE_MIN, PAUSE_MAX), "{next:?} follows {last:?}");
            assert_eq!(pause.until(now), Some(now + next));
            now += next;
            assert_eq!(pause.until(now), None, "the pause has ended");
            last = next;
        }
        assert_eq!(last, PAUSE_MAX);
        pause.succeeded();
        assert_eq!(pause.failed(now), Some(PAUSE_MIN));
    }

    #[test]
    fn calls_that_fail_side_by_side_make_one_pause() {
        let mut pause = Pause::default();
        let now = Instant::now();
        assert_eq!(pause.failed(now), Some(PAUSE_MIN));
        assert_eq!(pause.failed(now + PAUSE_MIN / 2), None);
        assert_eq!(pause.failures(), 1);
        pause.succeeded();
        assert_eq!(pause.until(now), None, "a success ends it");
    }
}
