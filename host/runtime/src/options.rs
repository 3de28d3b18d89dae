//! Settings of an operator and a job: the runtime's options and the limits of each function.

use std::path::PathBuf;
use std::time::Duration;

use crate::compile::Compiler;

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
    /// Longest time to compile one component, and to wait until the one before is compiled.
    pub compile_time_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            cache_dir: None,
            compiler: Compiler::InProcess,
            component_bytes_max: 64 << 20,
            compile_time_max: Duration::from_secs(60),
        }
    }
}

/// Resources that a single call of a function may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in MiB: all linear memories, tables and handles of a call together, with the tensors and errors behind
    /// the handles.
    pub memory_mib: u32,
    /// Processor time, counted in ticks of 10 ms.
    pub cpu: Duration,
    /// Time from the start of the call to its end, waiting for an engine included.
    pub wall: Duration,
    /// Data in MiB that one call into the host may carry.
    pub hostcall_mib: u32,
    /// Handles (tensors, contributions and the like) held at the same time.
    pub handles: u32,
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
        }
    }
}

impl Limits {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_mib as usize * (1 << 20)
    }

    pub(crate) fn hostcall_bytes(&self) -> usize {
        self.hostcall_mib as usize * (1 << 20)
    }
}
