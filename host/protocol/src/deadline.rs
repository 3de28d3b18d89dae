//! How long to wait for the other peers: learned from earlier arrivals, within the job's bounds.

use std::collections::VecDeque;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rounds that are remembered: enough to ride out a slow one, few enough to follow a change.
const ROUNDS: usize = 16;

/// How many median deviations later than usual a peer may be. With a normal distribution one in ten thousand
/// comes later than six.
const DEVIATIONS: u32 = 6;

/// Bounds of a learned wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WaitBounds {
    /// Shortest wait, however quick the peers are.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub min: Duration,
    /// Longest wait, also used before anything is learned.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max: Duration,
}

impl Default for WaitBounds {
    fn default() -> WaitBounds {
        WaitBounds { min: Duration::from_secs(60), max: Duration::from_secs(600) }
    }
}

/// Learns how long the slowest peer usually takes.
#[derive(Debug, Clone)]
pub struct Deadline {
    wait: WaitBounds,
    arrivals: VecDeque<Duration>,
}

impl Deadline {
    /// Starts without arrivals, so it waits as long as the bounds allow.
    pub fn new(wait: WaitBounds) -> Deadline {
        assert!(wait.min <= wait.max, "`wait.min` is at most `wait.max`");
        Deadline { wait, arrivals: VecDeque::with_capacity(ROUNDS) }
    }

    /// Records when a peer arrived, counted from when this peer was ready: the last one of a round, or one that came
    /// after its end. A wait in vain is not recorded, or each wait would lengthen the next.
    pub fn observe(&mut self, last_arrival: Duration) {
        if self.arrivals.len() == ROUNDS {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(last_arrival);
    }

    /// How long to wait in the next round.
    pub fn wait(&self) -> Duration {
        let Some(median) = median(self.arrivals.iter().copied()) else { return self.wait.max };
        let deviations = self.arrivals.iter().map(|arrival| arrival.abs_diff(median));
        let spread = median_or_zero(deviations);
        (median * 2 + spread * DEVIATIONS).clamp(self.wait.min, self.wait.max)
    }
}

fn median_or_zero(values: impl Iterator<Item = Duration>) -> Duration {
    median(values).unwrap_or_default()
}

fn median(values: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut values: Vec<_> = values.collect();
    values.sort();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: WaitBounds = WaitBounds { min: Duration::from_millis(100), max: Duration::from_secs(10) };

    fn after(arrivals_ms: &[u64]) -> Duration {
        let mut deadline = Deadline::new(BOUNDS);
        arrivals_ms.iter().for_each(|ms| deadline.observe(Duration::from_millis(*ms)));
        deadline.wait()
    }

    #[test]
    fn the_wait_follows_the_arrivals() {
        assert_eq!(after(&[]), BOUNDS.max, "nothing is known");
        assert_eq!(after(&[1; 20]), BOUNDS.min);
        assert_eq!(after(&[300; 20]), Duration::from_millis(600));
        assert_eq!(after(&[300, 300, 9000, 300, 300]), Duration::from_millis(600), "one slow round does not count");
        assert_eq!(after(&[200, 300, 400, 300, 200]), Duration::from_millis(1200), "but spread does");
        assert_eq!(after(&[60_000; 20]), BOUNDS.max);
    }
}
