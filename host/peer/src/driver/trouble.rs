//! Trouble that repeats itself, told at once and then ever more rarely.
//!
//! Another owner's database may refuse this host for days, and is asked again every second all that time.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first time that trouble is told, which every further time doubles, and the longest one.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The trouble with one thing, as it was last told.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<Told>);

#[derive(Debug)]
struct Told {
    what: String,
    /// How often the same came, told or not.
    count: u64,
    pause: Duration,
    /// When the same is told again.
    next: Instant,
}

impl Trouble {
    /// Trouble came; returns how often the same has come by now if it is to be told.
    pub(super) fn came(&mut self, what: String, now: Instant) -> Option<u64> {
        let Some(told) = self.0.as_mut().filter(|told| told.what == what) else {
            self.0 = Some(Told { what, count: 1, pause: PAUSE_MIN, next: now + PAUSE_MIN });
            return Some(1);
        };
        told.count += 1;
        if now < told.next {
            return None;
        }
        told.pause = (told.pause * 2).min(PAUSE_MAX);
        told.next = now + told.pause;
        Some(told.count)
    }

    /// The trouble is over; returns how often it came if there was any.
    pub(super) fn ended(&mut self) -> Option<u64> {
        self.0.take().map(|told| told.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_at_once_and_then_ever_more_rarely() {
        let begin = Instant::now();
        let mut trouble = Trouble::default();
        let told = (0..200).filter_map(|second| {
            let count = trouble.came("refused".to_owned(), begin + Duration::from_secs(second))?;
            assert_eq!(count, second + 1, "those between are counted");
            Some(second)
        });
        assert_eq!(told.collect::<Vec<_>>(), [0, 2, 6, 14, 30, 62, 122, 182]);
    }

    #[test]
    fn other_trouble_and_new_trouble_is_told_at_once() {
        let now = Instant::now();
        let mut trouble = Trouble::default();
        assert_eq!(trouble.ended(), None);
        assert_eq!(trouble.came("refused".to_owned(), now), Some(1));
        assert_eq!(trouble.came("refused".to_owned(), now), None);
        assert_eq!(trouble.came("unreachable".to_owned(), now), Some(1));
        assert_eq!(trouble.ended(), Some(1));
        assert_eq!(trouble.came("unreachable".to_owned(), now), Some(1));
    }
}
