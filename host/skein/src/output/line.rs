//! The text of one line of progress, fitted to a terminal.

use std::time::Duration;

use skein_peer::events::{Until, Waiting};

/// Columns of the usual terminal. A narrower one cuts the end of a line.
pub(super) const COLUMNS: usize = 80;
/// Width of the bar, in columns.
const BAR: usize = 10;

/// Progress of a run after a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Round {
    pub(super) round: u64,
    pub(super) rounds: u64,
    pub(super) loss: f64,
    pub(super) accuracy: Option<f64>,
    pub(super) present: usize,
    pub(super) expected: usize,
    pub(super) per_second: f64,
}

impl Round {
    /// The line for a terminal.
    pub(super) fn bar(&self) -> String {
        let accuracy = self.accuracy.map_or_else(String::new, |accuracy| format!("  accuracy {accuracy:.3}"));
        format!(
            "{}  {}{accuracy}  {}/s  {} left",
            self.head(),
            loss(self.loss),
            rate(self.per_second),
            duration(self.left())
        )
    }

    /// The bar and the round number, also shown while the run waits.
    pub(super) fn head(&self) -> String {
        let full = (self.round * BAR as u64).checked_div(self.rounds).map_or(BAR, |full| (full as usize).min(BAR));
        format!("{}{} {}/{}", "█".repeat(full), "░".repeat(BAR - full), self.round, self.rounds)
    }

    /// The line for a file or a pipe.
    pub(super) fn plain(&self) -> String {
        let Round { round, rounds, loss, present, expected, per_second, .. } = self;
        let accuracy = self.accuracy.map_or_else(String::new, |a| format!("  validation accuracy {a:.3}"));
        let left = two_units(self.left());
        format!(
            "round {round}/{rounds}  loss {loss:.4}  {present}/{expected} peers  {per_second:.1} rounds/s  \
             {left} left{accuracy}"
        )
    }

    fn left(&self) -> Duration {
        let seconds = self.rounds.saturating_sub(self.round) as f64 / self.per_second.max(1e-9);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Which peers a run waits for and how long, with as many names as fit into `columns`.
pub(super) fn waiting(waiting: &Waiting, columns: usize) -> String {
    let Waiting { peers, of, since, until } = waiting;
    let peers: Vec<String> = peers.iter().map(|peer| format!("{peer:?}")).collect();
    let times = match until {
        Until::AtMost(until) => format!("({}, at most {} more)", duration(*since), duration(*until)),
        Until::Needs(needed) => format!("({}, needs {needed} of {of} to go on)", duration(*since)),
    };
    let with = |names: usize| {
        let colon = if names == 0 { "" } else { ": " };
        let dots = if 0 < names && names < peers.len() { ", …" } else { "" };
        format!("waiting for {} of {of}{colon}{}{dots} {times}", peers.len(), peers[..names].join(", "))
    };
    let fitting = (1..=peers.len()).rev().map(with).find(|text| text.chars().count() <= columns);
    fitting.unwrap_or_else(|| with(0))
}

/// A loss, in at most 13 columns.
fn loss(loss: f64) -> String {
    if loss.abs() < 100.0 { format!("loss {loss:.4}") } else { format!("loss {loss:.1e}") }
}

fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// A duration in its largest unit: two or three digits.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        // At most four digits keep the column; a longer wait is as good as forever.
        _ => format!("{} d", (seconds / 86_400).min(9999)),
    }
}

/// A duration in its two largest units, such as `3 min 20 s`.
fn two_units(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = minutes / 60;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {:02} s", seconds % 60),
        3600..86_400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{} d {:02} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use skein_types::PeerId;

    use super::*;

    fn columns(text: &str) -> usize {
        text.chars().count()
    }

    /// Shown as `c3e7a1b0` and up.
    fn peer(number: usize) -> PeerId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&(0xc3e7_a1b0 + number as u32).to_be_bytes());
        PeerId(key)
    }

    const LONGEST: Round = Round {
        round: 999_999,
        rounds: 1_000_000,
        loss: -99.99994,
        accuracy: Some(0.9994),
        present: 499,
        expected: 500,
        per_second: 12_345.6,
    };

    #[test]
    fn the_longest_line_of_a_round_fits_the_usual_terminal() {
        let bar = LONGEST.bar();
        assert_eq!(bar, "█████████░ 999999/1000000  loss -99.9999  accuracy 0.999  12346/s  0 s left");
        for (loss, per_second, expected) in [(-1e300, 1e-9, 78), (1e-9, 0.123, 77), (f64::NAN, 10_000.0, 70)] {
            let bar = Round { round: 1, loss, per_second, ..LONGEST }.bar();
            assert!(columns(&bar) <= expected && expected <= COLUMNS, "{} columns: {bar}", columns(&bar));
        }
    }

    #[test]
    fn a_plain_line_tells_the_time_left_in_units_for_people() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 00 s"),
            (200, "3 min 20 s"),
            (3599, "59 min 59 s"),
            (3840, "1 h 04 min"),
            (86_399, "23 h 59 min"),
            (180_000, "2 d 02 h"),
        ] {
            assert_eq!(two_units(Duration::from_secs(seconds)), expected);
        }
        let round = Round { round: 100, rounds: 3940, per_second: 1.0, accuracy: None, ..LONGEST };
        assert_eq!(round.plain(), "round 100/3940  loss -99.9999  499/500 peers  1.0 rounds/s  1 h 04 min left");
    }

    #[test]
    fn a_job_without_rounds_has_a_full_bar() {
        assert!(Round { round: 0, rounds: 0, ..LONGEST }.head().starts_with(&"█".repeat(BAR)));
        assert!(Round { round: 0, ..LONGEST }.head().starts_with(&"░".repeat(BAR)));
    }

    #[test]
    fn a_wait_names_as_many_peers_as_fit() {
        let seconds = Duration::from_secs;
        let peers = |count: usize| (0..count).map(peer).collect();
        let one = Waiting { peers: peers(1), of: 4, since: seconds(12), until: Until::AtMost(seconds(48)) };
        assert_eq!(super::waiting(&one, COLUMNS), "waiting for 1 of 4: c3e7a1b0 (12 s, at most 48 s more)");
        assert_eq!(super::waiting(&one, 50), "waiting for 1 of 4 (12 s, at most 48 s more)");
        let three = Waiting { peers: peers(3), of: 4, since: seconds(150), until: Until::AtMost(seconds(0)) };
        assert_eq!(
            super::waiting(&three, COLUMNS),
            "waiting for 3 of 4: c3e7a1b0, c3e7a1b1, c3e7a1b2 (2 min, at most 0 s more)"
        );
        assert_eq!(super::waiting(&three, 60), "waiting for 3 of 4: c3e7a1b0, … (2 min, at most 0 s more)");
        let all = Waiting { peers: peers(499), of: 500, since: seconds(9000), until: Until::AtMost(Duration::MAX) };
        assert_eq!(super::waiting(&all, 0), "waiting for 499 of 500 (2 h, at most 9999 d more)");
        for columns_max in 50..200 {
            assert!(columns(&super::waiting(&all, columns_max)) <= columns_max);
        }
        let none = Waiting { peers: vec![], of: 4, since: seconds(1), until: Until::AtMost(seconds(1)) };
        assert_eq!(super::waiting(&none, COLUMNS), "waiting for 0 of 4 (1 s, at most 1 s more)");
    }
}
