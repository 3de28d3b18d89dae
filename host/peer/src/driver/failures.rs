//! Failures that repeat themselves: reported at once and then ever more rarely.
//!
//! Another owner's database may refuse this host for days, and is asked again every second all that time.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after a failure is first reported, which every further report doubles, and the longest one.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The failures of one thing, as they were last reported.
#[derive(Debug, Default)]
pub(super) struct Failures {
    last: Option<Report>,
    /// How often it failed since it last worked, in whatever way.
    total: u64,
}

#[derive(Debug)]
struct Report {
    what: String,
    /// How often it failed in this way, reported or not.
    count: u64,
    pause: Duration,
    /// When the same is reported again.
    next: Instant,
}

impl Failures {
    /// It failed; returns how often it has failed in this way by now if that is to be reported.
    pub(super) fn failed(&mut self, what: String, now: Instant) -> Option<u64> {
        self.total += 1;
        let Some(report) = self.last.as_mut().filter(|report| report.what == what) else {
            self.last = Some(Report { what, count: 1, pause: PAUSE_MIN, next: now + PAUSE_MIN });
            return Some(1);
        };
        report.count += 1;
        if now < report.next {
            return None;
        }
        report.pause = (report.pause * 2).min(PAUSE_MAX);
        report.next = now + report.pause;
        Some(report.count)
    }

    /// It works; returns how often it failed before, if it did.
    pub(super) fn recovered(&mut self) -> Option<u64> {
        let Failures { total, .. } = std::mem::take(self);
        (total > 0).then_some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_reported_at_once_and_then_ever_more_rarely() {
        let begin = Instant::now();
        let mut failures = Failures::default();
        let report = (0..200).filter_map(|second| {
            let count = failures.failed("refused".to_owned(), begin + Duration::from_secs(second))?;
            assert_eq!(count, second + 1, "those between are counted");
            Some(second)
        });
        assert_eq!(report.collect::<Vec<_>>(), [0, 2, 6, 14, 30, 62, 122, 182]);
    }

    #[test]
    fn other_failures_and_new_ones_are_reported_at_once() {
        let now = Instant::now();
        let mut failures = Failures::default();
        assert_eq!(failures.recovered(), None);
        assert_eq!(failures.failed("refused".to_owned(), now), Some(1));
        assert_eq!(failures.failed("refused".to_owned(), now), None);
        assert_eq!(failures.failed("unreachable".to_owned(), now), Some(1));
        assert_eq!(failures.recovered(), Some(3));
        assert_eq!(failures.failed("unreachable".to_owned(), now), Some(1));
    }
}
