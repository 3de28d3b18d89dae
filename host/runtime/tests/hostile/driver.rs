//! Drives the process that calls functions: what each case must lead to, and what must hold after it.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use skein_engine::Kind;

use super::cgroup::Cgroup;
use super::found::engines;
use super::protocol::{Bounds, DRIVEN, Network, Outcome, Reply, Request, Setup};

/// Memory of the process that calls functions, its compiling children included.
const MEMORY_BYTES: u64 = 1 << 30;
/// What a compiling child may take of it.
const COMPILE_MEMORY_MIB: u32 = 512;
/// How much more resident memory the process may have after a case's last time than after its first.
const GROWTH_BYTES_MAX: u64 = 50 << 20;
/// Within which the memory of a case must be free again, while good calls are made.
const SETTLED: Duration = Duration::from_secs(20);
/// Times that each case runs, one after the other in one process.
const ROUNDS: usize = 3;
/// The limit of compiling where a component must not be compiled, in milliseconds.
pub(crate) const SHORT_MS: u64 = 500;
/// The same where it is not the limit that a case is about: a busy machine must not hit it first.
pub(crate) const LONG_MS: u64 = 60_000;
/// The wall limit of calls that only it ends, in milliseconds.
pub(crate) const WALL_MS: u64 = 1000;

/// Limits that a busy machine does not hit before the one that a case is about.
pub(crate) const BOUNDS: Bounds =
    Bounds { memory_mib: 64, cpu_ms: LONG_MS, wall_ms: LONG_MS, hostcall_mib: 64, handles: 10_000 };
/// Limits of a guest that never ends by itself.
pub(crate) const BRIEF: Bounds = Bounds { cpu_ms: 200, ..BOUNDS };

/// Longest error: what a call printed is at most 64 KiB, and characters that are not printable may take more.
const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// Name of the function of every case, which its error names.
pub(crate) const NAME: &str = "hostile";

/// The folder of a test, with the components that it calls and the cache.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(tempfile::tempdir().expect("a folder"))
    }

    /// Writes a component.
    pub(crate) fn component(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("the folder is writable");
        path
    }

    /// The folder of compiled functions.
    pub(crate) fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }
}

/// A component of the repository.
pub(crate) fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist").join(name)
}

/// A call of the probe.
pub(crate) fn probe(behaviour: &str, bounds: Bounds) -> Request {
    let request = gradient(&dist("gradient-probe.wasm"), bounds);
    Request { behaviour: behaviour.into(), ..request }
}

/// A call of a gradient function.
pub(crate) fn gradient(component: &Path, bounds: Bounds) -> Request {
    Request {
        name: NAME.into(),
        component: component.to_owned(),
        aggregates: false,
        behaviour: String::new(),
        number: 4,
        bounds,
        network: None,
        loader: None,
        at_once: 1,
        distinct: false,
    }
}

/// A call of an aggregation function.
pub(crate) fn aggregation(component: &Path, bounds: Bounds) -> Request {
    Request { aggregates: true, ..gradient(component, bounds) }
}

/// The small convolutional network on each engine of this machine.
pub(crate) fn networks() -> Vec<Network> {
    let network = |kind: Kind| Network { engine: kind.name().into(), model: String::new() };
    engines().into_iter().map(network).collect()
}

/// What a call must lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected<'a> {
    /// It hits this limit.
    Limit(&'a str),
    /// It traps, for a reason with these words.
    Trap(&'a str),
    /// Its component or its call has this kind of error, with these words.
    Error { kind: &'a str, words: &'a str },
    /// It returns a result.
    Result,
}

impl Expected<'_> {
    pub(crate) fn is_met(self, outcome: &Outcome) -> bool {
        if outcome.message.len() > MESSAGE_BYTES_MAX {
            return false;
        }
        let is_named = outcome.message.contains(&format!("`{NAME}`"));
        match self {
            Expected::Limit(limit) => {
                let is_shown = outcome.message.contains(&format!("`{limit} = "));
                outcome.kind == "limit" && outcome.limit.as_deref() == Some(limit) && is_named && is_shown
            }
            Expected::Trap(words) => outcome.kind == "trap" && is_named && outcome.message.contains(words),
            Expected::Error { kind, words } => outcome.kind == kind && is_named && outcome.message.contains(words),
            Expected::Result => outcome.kind == "returned",
        }
    }
}

/// The process that calls functions.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    replies: Receiver<String>,
    cgroup: Option<Cgroup>,
}

impl Process {
    /// Starts the process, with a cache in the place.
    pub(crate) fn start(place: &Place, compile_ms: u64) -> Process {
        Process::set_up(place, compile_ms, false)
    }

    /// Starts the process; instead of compiling, its children tell their environment.
    pub(crate) fn with_telling_children(place: &Place) -> Process {
        Process::set_up(place, LONG_MS, true)
    }

    fn set_up(place: &Place, compile_ms: u64, telling: bool) -> Process {
        let cgroup = Cgroup::new(MEMORY_BYTES);
        let setup = Setup {
            cgroup: cgroup.as_ref().map(|group| group.folder().to_owned()),
            memory_bytes: MEMORY_BYTES,
            cache: place.cache(),
            telling,
            compile_ms,
            compile_memory_mib: COMPILE_MEMORY_MIB,
        };
        let mut child = Command::new("/proc/self/exe")
            .arg(DRIVEN)
            .env("SKEIN_REDIS_PASSWORD", "a secret")
            // By default the allocator keeps freed memory for each thread, which looks like growth at first.
            .env("MALLOC_ARENA_MAX", "1")
            // It keeps freed megabytes too, once it has seen some being freed: the second call then seems to grow.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs again");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (send, replies) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut process = Process { child, input, replies, cgroup };
        process.send(&serde_json::to_string(&setup).expect("a setup"));
        process
    }

    /// What bounds the memory of the process, in words.
    pub(crate) fn bound() -> String {
        let group = Cgroup::new(MEMORY_BYTES);
        let by = group.as_ref().map_or("limit of the data of each process (`prlimit --data`)", Cgroup::name);
        format!("memory is bounded to {} MiB by a {by}", MEMORY_BYTES >> 20)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn send(&mut self, line: &str) {
        let sent = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        sent.unwrap_or_else(|error| panic!("the process has ended: {error}"));
    }

    /// Sends a request without waiting for its reply.
    pub(crate) fn begin(&mut self, request: &Request) {
        self.send(&serde_json::to_string(request).expect("a request"));
    }

    /// The reply to the last request, if it is there within a millisecond.
    pub(crate) fn poll(&mut self) -> Option<Reply> {
        let line = self.replies.recv_timeout(Duration::from_millis(1)).ok()?;
        Some(serde_json::from_str(&line).expect("a reply"))
    }

    /// Waits for the reply to the last request.
    pub(crate) fn finish(&mut self) -> Reply {
        // Longer than any limit: only a host that hangs takes this long.
        match self.replies.recv_timeout(2 * Duration::from_millis(LONG_MS)) {
            Ok(line) => serde_json::from_str(&line).expect("a reply"),
            Err(_) => panic!("no reply; the process: {:?}", self.child.try_wait()),
        }
    }

    pub(crate) fn call(&mut self, request: &Request) -> Reply {
        self.begin(request);
        self.finish()
    }

    /// Runs a case three times. After each the process answers a good call; at the end it has not grown, and was never
    /// short of memory.
    pub(crate) fn check(&mut self, case: &str, request: &Request, expected: Expected<'_>) {
        let begun = Instant::now();
        let resident = self.check_each(case, request, |outcome| {
            assert!(expected.is_met(outcome), "{case}: expected {expected:?}, got {outcome:?}");
        });
        println!("  {case}: {:.2} s, resident memory in MiB {resident:?}", begun.elapsed().as_secs_f64());
    }

    /// The same with a check of each outcome; returns the resident memory in MiB after each time.
    pub(crate) fn check_each(&mut self, case: &str, request: &Request, check: impl Fn(&Outcome)) -> Vec<u64> {
        let mut resident = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let reply = self.call(request);
            reply.outcomes.iter().for_each(&check);
            resident.push(reply.resident_bytes);
            self.check_good(case);
        }
        // A run of an engine that was stopped may still be ending, and releases its memory then.
        let mut last = resident[ROUNDS - 1];
        let begun = Instant::now();
        while last > resident[0] + GROWTH_BYTES_MAX && begun.elapsed() < SETTLED {
            last = self.check_good(case);
        }
        let growth = last.saturating_sub(resident[0]);
        let mib: Vec<u64> = resident.iter().map(|bytes| bytes >> 20).collect();
        assert!(growth <= GROWTH_BYTES_MAX, "{case}: resident memory in MiB after each call: {mib:?}");
        self.check_memory(case);
        mib
    }

    /// A good call returns its result. Returns the resident memory after it, in bytes.
    pub(crate) fn check_good(&mut self, case: &str) -> u64 {
        let good = Request { name: "good".into(), ..probe("zeros", BOUNDS) };
        let reply = self.call(&good);
        assert!(Expected::Result.is_met(&reply.outcomes[0]), "a good call after {case}: {:?}", reply.outcomes[0]);
        reply.resident_bytes
    }

    /// The kernel has ended no process of the group, the compiling one included.
    pub(crate) fn check_memory(&self, case: &str) {
        if let Some(group) = &self.cgroup {
            assert_eq!(group.killed(), 0, "{case}: processes were killed for memory");
            let peak = group.peak_bytes().unwrap_or_default();
            assert!(peak < MEMORY_BYTES, "{case}: {peak} bytes were in use");
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cgroup.as_ref().and_then(Cgroup::peak_bytes) {
            Some(peak) => write!(f, "at most {} MiB in use at a time, all processes together", peak >> 20),
            None => f.write_str("each process below its limit"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
