//! Child processes, for work that a hostile function decides: how they start, and what they give up before that work
//! reaches them.
//!
//! A child is this very program, started with one argument. It inherits no environment, lowers its own limits, and enters a
//! [`Sandbox`].

pub(crate) mod proc;
mod sandbox;

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;

pub(crate) use self::sandbox::Sandbox;

/// Most bytes of a child's error output that an error repeats.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 4096;
/// Stack of a child's first thread: stacks that grow by themselves do not count as data.
const STACK_BYTES_MAX: u64 = 64 << 20;
/// Files that a child may have open: its pipes, and those that it opens for a moment as it starts.
const FILES_MAX: u64 = 64;

/// A command that runs `program argument` as a child, which may use so many threads, and is killed when it is dropped.
pub(crate) fn command(program: &Path, argument: &str, threads: usize) -> Command {
    let mut command = Command::new(program);
    command
        .arg(argument)
        // It needs no other variables: its work comes through a pipe. This process's variables may include a database's
        // password.
        .env_clear()
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Warns, once, that children run without a part of their sandbox.
pub(crate) fn warn_of_lack(lack: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::warn!(lack, "child processes run without a part of their sandbox"));
}

/// Limits this process, a child, to these resources, and to few files that it cannot write.
pub(crate) fn confine(more: &[(Resource, u64)]) -> io::Result<()> {
    // Where there is no such file, the kernel chooses by size alone, which leads to this process as well.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let all =
        [(Resource::Nofile, FILES_MAX), (Resource::Fsize, 0), (Resource::Core, 0), (Resource::Stack, STACK_BYTES_MAX)];
    for (resource, bound) in all.iter().chain(more) {
        // The host may have been started with a lower limit, which cannot be raised.
        let bound = getrlimit(*resource).maximum.map_or(*bound, |maximum| maximum.min(*bound));
        setrlimit(*resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    Ok(())
}
