//! What the kernel tells about a process in `/proc`, whose files do not block.

use std::io;
use std::time::Duration;

use rustix::process::Pid;

/// Memory of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Private memory that can be written, touched or not: what the limit counts.
    pub(crate) data_bytes: usize,
    /// Private memory that was touched.
    pub(crate) touched_bytes: usize,
    /// Most memory that was touched at the same time, files included.
    pub(crate) peak_bytes: usize,
}

impl Memory {
    pub(crate) fn of(process: Pid) -> io::Result<Memory> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()))?;
        let find = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<usize>().ok()
        };
        let kib = |name: &str| find(name).ok_or_else(|| io::Error::other(format!("its status has no {name}")));
        let data_bytes = kib("VmData:")? << 10;
        let touched_bytes = kib("RssAnon:")? << 10;
        Ok(Memory { data_bytes, touched_bytes, peak_bytes: kib("VmHWM:")? << 10 })
    }
}

/// Time between two ticks of the clock in which the kernel tells processor time, the same on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of all threads of a process, rounded up, so that many short processes are not free.
pub(crate) fn processor_time(process: Pid) -> io::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))?;
    // The second field is the program's name, which may contain anything; the time as user is the fourteenth.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks: u32 = fields.take(2).map_while(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * (ticks + 1))
}

/// Whether a process has ended, even if nobody has waited for it.
pub(crate) fn has_ended(process: u32) -> bool {
    let state = |text: String| text.rsplit(')').next()?.split_whitespace().next().map(str::to_owned);
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"));
    text.ok().and_then(state).is_none_or(|state| ["Z", "X"].contains(&state.as_str()))
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_takes() {
        let before = Memory::of(getpid()).expect("its status");
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = Memory::of(getpid()).expect("its status");
        assert!(after.data_bytes >= before.data_bytes + touched.len() / 2, "{before:?} {after:?}");
        assert!(after.touched_bytes >= before.touched_bytes + touched.len() / 2, "{before:?} {after:?}");
        assert!(after.peak_bytes >= after.touched_bytes, "{after:?}");
    }

    #[test]
    fn a_process_has_ended_before_anybody_waits_for_it() {
        assert!(!has_ended(std::process::id()));
        let mut child = std::process::Command::new("/bin/true").spawn().expect("a program of every system");
        while !has_ended(child.id()) {
            std::thread::yield_now();
        }
        assert!(child.wait().expect("it was not waited for").success());
    }

    #[test]
    fn processor_time_is_that_of_the_processs_clock() {
        let clock = || {
            let now = clock_gettime(ClockId::ProcessCPUTime);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        };
        let before = clock();
        let told = processor_time(getpid()).expect("its times");
        let after = clock();
        assert!(told + TICK >= before && told <= after + TICK, "{before:?} {told:?} {after:?}");
    }
}
