//! How many calls a worker runs at the same time: as many as fit into memory and raise the throughput.
//!
//! Memory is the bound: the free memory has to hold a call's peak, times the calls. Below it, throughput decides: more
//! calls are kept if more are done per second, so a machine whose cores are busy elsewhere takes a smaller share.

use std::time::Duration;

/// Share of the free memory that calls may take.
const MEMORY_SHARE: f64 = 0.75;
/// Factor by which more calls at a time have to raise the calls per second to be kept.
const GAIN: f64 = 1.1;
/// Calls after which a settled width tries to grow: the machine may have become free.
const TRY_AGAIN: usize = 128;

/// The number of calls at the same time, learned from their memory and duration.
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    max: usize,
    width: usize,
    phase: Phase,
    /// Calls since the width changed, and how long they took together.
    calls: usize,
    time: Duration,
    memory_peak: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// It has just grown from `from` calls at a time, which did `rate` calls per second.
    Trying {
        from: usize,
        rate: f64,
    },
    Settled,
}

impl ConcurrencyLimiter {
    /// A width of at most `max`. It begins with one call, whose memory shows how many may follow.
    pub(super) fn new(max: usize) -> ConcurrencyLimiter {
        let phase = Phase::Trying { from: 1, rate: 0.0 };
        ConcurrencyLimiter { max, width: 1, phase, calls: 0, time: Duration::ZERO, memory_peak: 1 }
    }

    pub(super) fn get(&self) -> usize {
        self.width
    }

    /// Records the peak memory and the duration of a call.
    pub(super) fn observe(&mut self, memory_bytes_peak: u64, duration: Duration) {
        self.decide(memory_bytes_peak, duration, free_memory().unwrap_or(u64::MAX));
    }

    fn decide(&mut self, memory_bytes_peak: u64, duration: Duration, free: u64) {
        self.memory_peak = self.memory_peak.max(memory_bytes_peak);
        self.calls += 1;
        self.time += duration;
        // Without the current calls, their memory would be free.
        let free = free.saturating_add(self.memory_peak.saturating_mul(self.width as u64));
        let fits = (free as f64 * MEMORY_SHARE / self.memory_peak as f64) as usize;
        let max = self.max.min(fits).max(1);
        if self.width > max {
            return self.change(max, Phase::Settled);
        }
        if self.calls < self.width {
            return;
        }
        let rate = (self.width * self.calls) as f64 / self.time.as_secs_f64().max(1e-9);
        let wider = (2 * self.width).min(max);
        match self.phase {
            Phase::Trying { from, rate: before } if rate < GAIN * before => self.change(from, Phase::Settled),
            Phase::Settled if self.calls < TRY_AGAIN => {}
            _ if wider > self.width => self.change(wider, Phase::Trying { from: self.width, rate }),
            _ => self.change(self.width, Phase::Settled),
        }
    }

    fn change(&mut self, width: usize, phase: Phase) {
        self.width = width;
        self.phase = phase;
        self.calls = 0;
        self.time = Duration::ZERO;
    }
}

/// Free memory of this machine, or of this process's control group if that is less.
fn free_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = machine.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024;
    let number = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group = number("memory.max").zip(number("memory.current")).map(|(max, used)| max.saturating_sub(used));
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The width after `calls` calls, on a machine whose `cores` share the work and that has `free` MiB.
    fn after(calls: usize, max: usize, cores: f64, free: u64, peak: u64) -> usize {
        let mut width = ConcurrencyLimiter::new(max);
        for _ in 0..calls {
            let slowdown = (width.get() as f64 / cores).max(1.0);
            // Running calls already have their memory.
            let left = free.saturating_sub(peak * width.get() as u64);
            width.decide(peak * MIB, Duration::from_secs_f64(0.1 * slowdown), left * MIB);
            assert!((1..=max).contains(&width.get()));
        }
        width.get()
    }

    #[test]
    fn a_worker_grows_to_what_the_machine_allows() {
        assert_eq!(after(0, 8, 8.0, 10_000, 100), 1, "nothing is known yet");
        assert_eq!(after(50, 8, 8.0, 10_000, 100), 8);
        assert_eq!(after(50, 6, 6.0, 10_000, 100), 6, "not only powers of two");
        assert_eq!(after(50, 8, 2.0, 10_000, 100), 2, "more calls at a time do not raise the throughput");
        assert_eq!(after(50, 8, 1.0, 10_000, 100), 1);
        assert_eq!(after(50, 1, 1.0, 10_000, 100), 1);
    }

    #[test]
    fn memory_bounds_the_calls() {
        assert_eq!(after(50, 8, 8.0, 400, 100), 3, "three quarters of it");
        assert_eq!(after(50, 8, 8.0, 100, 100), 1, "one call always runs");
        let mut width = ConcurrencyLimiter::new(4);
        for _ in 0..20 {
            width.decide(100 * MIB, Duration::from_millis(100 * width.get() as u64 / 4 + 1), 10_000 * MIB);
        }
        width.decide(100 * MIB, Duration::from_millis(100), 0);
        assert!(width.get() < 4, "others took the memory");
    }

    #[test]
    fn a_settled_worker_tries_again() {
        let mut width = ConcurrencyLimiter::new(4);
        let mut settle = |cores: f64, calls: usize| {
            for _ in 0..calls {
                let slowdown = (width.get() as f64 / cores).max(1.0);
                width.decide(MIB, Duration::from_secs_f64(0.1 * slowdown), 10_000 * MIB);
            }
            width.get()
        };
        assert_eq!(settle(1.0, 20), 1);
        assert_eq!(settle(4.0, 2 * TRY_AGAIN), 4, "the machine became free");
    }
}
