//! Programs that end when this process ends, even if it is killed.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::anyhow;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The argument with which this program starts itself, to become a program that ends with its parent.
pub const TIED: &str = "run-tied";

/// Returns the command that runs `program` and ends it when the calling thread ends.
/// It begins as this very program, even if another version has taken the place of its file by now.
pub fn tied_to_parent<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(TIED).arg(std::process::id().to_string()).arg(program).args(arguments);
    command
}

/// Becomes `program`, as a child of process `parent` that receives SIGTERM when its parent ends. Returns only on
/// failure, with the reason.
pub fn become_tied(parent: u32, program: &OsStr, arguments: &[std::ffi::OsString]) -> anyhow::Error {
    let asked = set_parent_process_death_signal(Some(Signal::TERM));
    // If the parent ended before the signal was requested, the signal never comes.
    let is_child = getppid().map(Pid::as_raw_nonzero).is_some_and(|id| id.get().unsigned_abs() == parent);
    if asked.is_err() || !is_child {
        return anyhow!("the process that started `{}` has ended", program.display());
    }
    let error = Command::new(program).args(arguments).exec();
    anyhow!("failed to run `{}`: {error}", program.display())
}
