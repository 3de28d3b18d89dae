//! Programs that end when this process ends, however it does.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// What this program calls itself with to become another one that ends with its parent.
pub const BOUND: &str = "run-bound";

/// The command that runs `program` and ends it when the calling thread ends.
///
/// # Errors
/// This program's own file can not be found.
pub fn bound<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Command> {
    let own = std::env::current_exe().context("failed to find this program's own file")?;
    let mut command = Command::new(own);
    command.arg(BOUND).arg(std::process::id().to_string()).arg(program).args(arguments);
    Ok(command)
}

/// Becomes `program`, as a child of process `parent` that is told to end when its parent does. Returns only if it cannot,
/// and then why.
pub fn become_bound(parent: u32, program: &OsStr, arguments: &[std::ffi::OsString]) -> anyhow::Error {
    let asked = set_parent_process_death_signal(Some(Signal::TERM));
    // A parent that ended before it was asked for would never be missed.
    let is_child = getppid().map(Pid::as_raw_nonzero).is_some_and(|id| id.get().unsigned_abs() == parent);
    if asked.is_err() || !is_child {
        return anyhow!("the process that wanted `{}` is gone", program.display());
    }
    let error = Command::new(program).args(arguments).exec();
    anyhow!("failed to run `{}`: {error}", program.display())
}
