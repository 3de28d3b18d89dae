//! Where cargo puts what it builds: the variable `CARGO_TARGET_DIR` and cargo's configuration decide.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The folder for builds of the workspace in `root`, as the command `cargo` answers.
pub(crate) fn target_folder(cargo: &mut Command, root: &Path) -> Result<PathBuf> {
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root);
    let output = cargo.stderr(Stdio::inherit()).output().context("failed to run `cargo metadata`")?;
    ensure!(output.status.success(), "`cargo metadata` failed in `{}`", root.display());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("`cargo metadata` printed no JSON")?;
    let folder = metadata["target_directory"].as_str().context("`cargo metadata` printed no `target_directory`")?;
    Ok(folder.into())
}
