//! What a command is busy with before it has rounds to show.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is done within this time is not worth a word.
const WORTH_SHOWING: Duration = Duration::from_millis(500);

/// What a command is busy with, told by those who do it to those who show it. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<Option<Activity>>>);

#[derive(Debug, Clone)]
struct Activity {
    began: Instant,
    what: String,
    detail: String,
}

/// Something that goes on until this is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Busy(Status);

impl Status {
    /// Says what begins now, as in ``compiling `mine` ``.
    pub fn begin(&self, what: impl Into<String>) -> Busy {
        *self.lock() = Some(Activity { began: Instant::now(), what: what.into(), detail: String::new() });
        Busy(self.clone())
    }

    /// What there is to show: nothing of what has just begun.
    pub fn text(&self, now: Instant) -> Option<String> {
        let activity = self.lock();
        let Activity { began, what, detail } = activity.as_ref()?;
        let is_long = now.saturating_duration_since(*began) >= WORTH_SHOWING;
        is_long.then(|| if detail.is_empty() { what.clone() } else { format!("{what}: {detail}") })
    }

    /// Nothing here panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Option<Activity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    /// Says how far it has come, as in `43 %`.
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
    fn what_takes_a_moment_is_not_shown_and_what_has_ended_no_longer_is() {
        let status = Status::default();
        assert_eq!(status.text(Instant::now()), None);
        let busy = status.begin("compiling `mine`");
        let later = Instant::now() + WORTH_SHOWING;
        assert_eq!(status.text(Instant::now()), None);
        assert_eq!(status.text(later).as_deref(), Some("compiling `mine`"));
        busy.detail("43 %");
        assert_eq!(status.text(later).as_deref(), Some("compiling `mine`: 43 %"));
        drop(busy);
        assert_eq!(status.text(later), None);
    }
}
