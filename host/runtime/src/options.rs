//! Settings of an operator and a job: the runtime's options and the limits of each function.

use std::path::PathBuf;
use std::time::Duration;

use crate::compile::Compiler;
use crate::error::Limit;

/// Bytes of a handle that a guest creates, without the data behind it: its slot in the table, which doubles when it is
/// full, the box of its value, and its entry in the component's own table. A million tensors without elements take 277
/// bytes each of this process.
pub(crate) const HANDLE_BYTES: usize = 320;

/// Options of a [`Runtime`](crate::Runtime).
#[derive(Debug, Clone)]
pub struct Options {
    /// Calls that run at the same time; further ones wait. At least 1.
    pub concurrency: usize,
    /// Folder of compiled artifacts; `None`: every start compiles anew.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Largest component that is accepted, in bytes. 64 MiB holds Python's whole interpreter several times.
    pub component_bytes_max: usize,
    /// Longest processor time to compile one component. From start to end it may take ten times as long, since compiling
    /// gives way to calls; a load waits as long again until the one before is compiled.
    pub compile_time_max: Duration,
    /// Memory in MiB that compiling one component may take in a child process. Python's interpreter takes a quarter of
    /// the default.
    pub compile_memory_mib: u32,
    /// Memory in MiB that calls, the engines that compute for them and the compiler may take together; `None`: as much as
    /// the calls that run at the same time may take each.
    pub memory_mib: Option<u32>,
    /// Size of the cache: when its artifacts take more, those that were not used for longest are removed.
    pub cache_mib: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            cache_dir: None,
            compiler: Compiler::InProcess,
            component_bytes_max: 64 << 20,
            compile_time_max: Duration::from_secs(60),
            compile_memory_mib: 2048,
            memory_mib: None,
            cache_mib: 2048,
        }
    }
}

/// Resources that a single call of a function may use, and how many calls may run and wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in MiB: all linear memories, tables and handles of a call together, with the tensors and errors behind
    /// the handles.
    pub memory_mib: u32,
    /// Processor time of the guest, of its calls into the host, and of engines that compute for it. It is compared at
    /// every tick, at least every 10 ms, and after each run of an engine.
    pub cpu: Duration,
    /// Time from the start of the call to its end, waiting for an engine included. The time in which the call waits for
    /// a processor that others use does not count.
    pub wall: Duration,
    /// Data in MiB that one call into the host may carry.
    pub hostcall_mib: u32,
    /// Handles (tensors, contributions and the like) held at the same time.
    pub handles: u32,
    /// Calls of the function that run at the same time. [`Options::concurrency`] bounds those of all functions.
    pub concurrency: u32,
    /// Calls of the function that may wait for a slot; see [`CallError::Busy`](crate::CallError::Busy).
    pub queue: u32,
    /// How long a call may wait for a slot.
    pub queue_wait: Duration,
}

impl Default for Limits {
    /// Enough for the built-in functions and a Python guest, little enough to notice one that misbehaves.
    fn default() -> Limits {
        Limits {
            memory_mib: 256,
            cpu: Duration::from_secs(10),
            wall: Duration::from_secs(30),
            hostcall_mib: 64,
            handles: 10_000,
            concurrency: u32::MAX,
            queue: 1000,
            queue_wait: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The value of a limit, as a manifest has it.
    pub(crate) fn bound(&self, limit: Limit) -> String {
        match limit {
            Limit::Memory => self.memory_mib.to_string(),
            Limit::Cpu => format!("{:?}", self.cpu),
            Limit::Wall => format!("{:?}", self.wall),
            Limit::Handles => self.handles.to_string(),
            Limit::Hostcall => self.hostcall_mib.to_string(),
            Limit::Queue => self.queue.to_string(),
            Limit::QueueWait => format!("{:?}", self.queue_wait),
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_mib as usize * (1 << 20)
    }

    /// Handles that a call may hold, and which limit that is: each takes memory, some of which nobody counts.
    pub(crate) fn handles_max(&self) -> (usize, Limit) {
        let in_memory = self.memory_bytes() / HANDLE_BYTES;
        let handles = self.handles as usize;
        if handles <= in_memory { (handles, Limit::Handles) } else { (in_memory, Limit::Memory) }
    }

    pub(crate) fn hostcall_bytes(&self) -> usize {
        self.hostcall_mib as usize * (1 << 20)
    }
}
