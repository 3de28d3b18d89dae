//! A run's folder: its manifest, its last checkpoints and the best one.

use std::ffi::OsStr;
use std::io::{ErrorKind, Result};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use skein_types::{Digest, Layout};

use super::{Checkpoint, CheckpointError, FILE};

/// Name of the manifest in a run's folder.
pub const MANIFEST_FILE: &str = "skein.toml";
/// Name of the checkpoint with the lowest validation loss.
pub const BEST_FILE: &str = "best.safetensors";
/// Checkpoints that are kept by default, the last one included.
pub const KEEP_DEFAULT: NonZeroU32 = NonZeroU32::new(3).expect("three is not zero");

/// The folder of a run, and what is kept in it.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// The folder; it is created if it does not exist.
    pub dir: PathBuf,
    /// Checkpoints of the last rounds that are kept.
    pub keep: NonZeroU32,
    /// The manifest as TOML, with absolute paths.
    pub manifest: String,
}

impl RunFolder {
    /// Path of the last checkpoint.
    pub fn last(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Path of the checkpoint with the lowest validation loss.
    pub fn best(&self) -> PathBuf {
        self.dir.join(BEST_FILE)
    }

    /// Creates the folder and writes the manifest.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(&self) -> std::result::Result<(), CheckpointError> {
        let path = self.dir.join(MANIFEST_FILE);
        let written = std::fs::create_dir_all(&self.dir).and_then(|()| std::fs::write(&path, &self.manifest));
        written.map_err(|source| CheckpointError::File { action: "write", path, source })
    }

    /// Writes the last checkpoint under its name and under the name of its round, and removes those that are no longer
    /// kept.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn save(&self, checkpoint: &Checkpoint, layout: &Layout) -> std::result::Result<(), CheckpointError> {
        let path = self.last();
        checkpoint.save(layout, &path)?;
        self.keep_last(checkpoint.state.round()).map_err(|source| CheckpointError::File {
            action: "keep the last copies of",
            path,
            source,
        })
    }

    /// Keeps the last checkpoint as the best one.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn keep_as_best(&self) -> std::result::Result<(), CheckpointError> {
        let path = self.best();
        link(&self.last(), &path).map_err(|source| CheckpointError::File { action: "write", path, source })
    }

    /// Keeps the last checkpoint, which is of another run, beside those of this one. Returns its path.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn keep_as_ancestor(&self, run: Digest) -> std::result::Result<PathBuf, CheckpointError> {
        let path = self.dir.join(format!("run-{}.safetensors", &run.to_string()[..16]));
        match link(&self.last(), &path) {
            Ok(()) => Ok(path),
            Err(source) => Err(CheckpointError::File { action: "write", path, source }),
        }
    }

    fn keep_last(&self, round: u64) -> Result<()> {
        let oldest = (round + 1).saturating_sub(self.keep.get().into());
        if self.keep.get() > 1 {
            link(&self.last(), &self.dir.join(format!("checkpoint-{round}.safetensors")))?;
        }
        for file in std::fs::read_dir(&self.dir)? {
            let file = file?;
            // Those of later rounds are of a run that was resumed from before them.
            let is_kept = |of: u64| (oldest..=round).contains(&of) && self.keep.get() > 1;
            if round_of(&file.file_name()).is_some_and(|of| !is_kept(of)) {
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// The round in the name of a checkpoint that is kept.
fn round_of(name: &OsStr) -> Option<u64> {
    name.to_str()?.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok()
}

/// Gives a file a second name, in place of the file that had it.
fn link(from: &Path, to: &Path) -> Result<()> {
    let temporary = to.with_extension("linked");
    remove(&temporary)?;
    // Some file systems have no hard links.
    std::fs::hard_link(from, &temporary).or_else(|_| std::fs::copy(from, &temporary).map(drop))?;
    std::fs::rename(&temporary, to)?;
    // Two names of one file are both left by `rename`.
    remove(&temporary)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
