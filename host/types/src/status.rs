//! The current activity of a command, before it has rounds to show.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shorter activities are not shown.
const WORTH_SHOWING: Duration = Duration::from_millis(500);

/// The current activity of a command, set by the code that works and read by the code that shows it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<Option<Activity>>>);

#[derive(Debug, Clone)]
struct Activity {
    began: Instant,
    what: String,
    detail: String,
}

/// An activity, which ends when this is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Busy(Status);

impl Status {
    /// Begins an activity, for example ``compiling `mine` ``.
    pub fn begin(&self, what: impl Into<String>) -> Busy {
        *self.lock() = Some(Activity { began: Instant::now(), what: what.into(), detail: String::new() });
        Busy(self.clone())
    }

    /// The text to show at `now`; `None` if no activity has lasted long enough.
    pub fn text(&self, now: Instant) -> Option<String> {
        let activity = self.lock();
        let Activity { began, what, detail } = activity.as_ref()?;
        let is_long = now.saturating_duration_since(*began) >= WORTH_SHOWING;
        is_long.then(|| if detail.is_empty() { what.clone() } else { format!("{what}: {detail}") })
    }

    /// The same with the seconds that the activity has lasted, for where it is updated in place.
    pub fn timed_text(&self, now: Instant) -> Option<String> {
        let text = self.text(now)?;
        let began = self.lock().as_ref()?.began;
        Some(format!("{text} ({} s)", now.saturating_duration_since(began).as_secs()))
    }

    /// Nothing here panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Option<Activity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    /// Sets the progress to show, for example `43 %`.
    pub fn detail(&self, detail: impl Into<String>) {
        if let Some(activity) = &mut *self.0.lock() {
            activity.detail = detail.into();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_activities_are_shown_and_only_until_they_end() {
        let status = Status::default();
        assert_eq!(status.text(Instant::now()), None);
        let busy = status.begin("compiling `mine`");
        let later = Instant::now() + WORTH_SHOWING;
        assert_eq!(status.text(Instant::now()), None);
        assert_eq!(status.text(later).as_deref(), Some("compiling `mine`"));
        busy.detail("43 %");
        assert_eq!(status.text(later).as_deref(), Some("compiling `mine`: 43 %"));
        assert_eq!(status.timed_text(later).as_deref(), Some("compiling `mine`: 43 % (0 s)"));
        assert_eq!(status.timed_text(later + WORTH_SHOWING * 6).as_deref(), Some("compiling `mine`: 43 % (3 s)"));
        drop(busy);
        assert_eq!(status.text(later), None);
        assert_eq!(status.timed_text(later), None);
    }
}
