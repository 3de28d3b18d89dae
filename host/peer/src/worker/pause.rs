//! How long a worker that fails takes no tasks, so that others get them first.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure, which every further one doubles, and the longest one: half of what peers wait for
/// each other by default, since a task may be left to a host that pauses.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Failures in a row, and the pause that they make.
#[derive(Debug, Default)]
pub(super) struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Takes in that a task went well, which ends the pause.
    pub(super) fn succeeded(&mut self) {
        *self = Pause::default();
    }

    /// Takes in a failure and returns how long the worker pauses because of it. A call that fails during a pause began
    /// before it, so it does not make the pause longer.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Duration> {
        if self.until(now).is_some() {
            return None;
        }
        let pause = PAUSE_MIN.saturating_mul(2u32.saturating_pow(self.failures)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
        Some(pause)
    }

    /// When the pause ends, if there is one now.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    /// Failures since a task went well.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_until_a_task_goes_well() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        assert_eq!(pause.until(now), None);
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            let next = pause.failed(now).expect("a new pause");
            assert!(next == (last * 2).clamp(PAUSE_MIN, PAUSE_MAX), "{next:?} follows {last:?}");
            assert_eq!(pause.until(now), Some(now + next));
            now += next;
            assert_eq!(pause.until(now), None, "it is over");
            last = next;
        }
        assert_eq!(last, PAUSE_MAX);
        pause.succeeded();
        assert_eq!(pause.failed(now), Some(PAUSE_MIN));
    }

    #[test]
    fn calls_that_fail_side_by_side_make_one_pause() {
        let (mut pause, now) = (Pause::default(), Instant::now());
        assert_eq!(pause.failed(now), Some(PAUSE_MIN));
        assert_eq!(pause.failed(now + PAUSE_MIN / 2), None);
        assert_eq!(pause.failures(), 1);
        pause.succeeded();
        assert_eq!(pause.until(now), None, "one that went well ends it");
    }
}
