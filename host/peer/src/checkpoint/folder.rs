//! A run's folder: its manifest, its last checkpoints and the best one.

use std::ffi::OsStr;
use std::io::{ErrorKind, Result, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skein_types::{Digest, Layout};

use super::{Checkpoint, CheckpointError, FILE};

/// Name of the manifest in a run's folder; a user's own file has another name.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// First line of that manifest.
const MANIFEST_HEADING: &str = "# The manifest of the run in this folder, written by the program.\n";
/// Name of the file that says what the best checkpoint is.
const BEST_RECORD_FILE: &str = "best.json";
/// Name of the checkpoint with the lowest validation loss.
const BEST_FILE: &str = "best.safetensors";
/// Checkpoints that are kept by default, the last one included.
pub const KEEP_DEFAULT: NonZeroU32 = NonZeroU32::new(3).expect("three is not zero");

/// What the best checkpoint of a folder is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Id of the run that wrote it, as 64 hexadecimal digits.
    pub run: String,
    /// The round after which it was written.
    pub round: u64,
    /// Its loss on the validation samples of all peers.
    pub validation_loss: f64,
}

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
    /// The folder cannot be written, or has a manifest that no run wrote.
    pub fn create(&self) -> std::result::Result<(), CheckpointError> {
        let path = self.dir.join(MANIFEST_FILE);
        if std::fs::read_to_string(&path).is_ok_and(|text| !text.starts_with(MANIFEST_HEADING)) {
            return Err(CheckpointError::Manifest { path });
        }
        let text = format!("{MANIFEST_HEADING}\n{}", self.manifest);
        let written = std::fs::create_dir_all(&self.dir).and_then(|()| std::fs::write(&path, text));
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

    /// Keeps the last checkpoint, which `best` describes, as the best one.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn keep_as_best(&self, best: &Best) -> std::result::Result<(), CheckpointError> {
        let path = self.best();
        let record = self.dir.join(BEST_RECORD_FILE);
        let text = serde_json::to_string(best).expect("text and numbers can be written as JSON");
        let kept = link(&self.last(), &path).and_then(|()| replace(&record, text.as_bytes()));
        kept.map_err(|source| CheckpointError::File { action: "write", path, source })
    }

    /// The validation loss of the best checkpoint, if the run with this id wrote it.
    pub fn best_loss(&self, run: Digest) -> Option<f64> {
        let text = std::fs::read(self.dir.join(BEST_RECORD_FILE)).ok()?;
        let best: Best = serde_json::from_slice(&text).ok()?;
        (best.run == run.to_string() && self.best().exists()).then_some(best.validation_loss)
    }

    /// Keeps the last checkpoint and the best one, which are of another run, beside those of this one. Returns the path of
    /// the last.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn keep_as_ancestor(&self, run: Digest) -> std::result::Result<PathBuf, CheckpointError> {
        let name = &run.to_string()[..16];
        let path = self.dir.join(format!("run-{name}.safetensors"));
        let mut kept = link(&self.last(), &path);
        if kept.is_ok() && self.best().exists() {
            kept = link(&self.best(), &self.dir.join(format!("run-{name}-best.safetensors")));
        }
        match kept {
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

/// Writes a file at once, in place of the one that had its name.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".checkpoint").permissions(permissions).tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The new name has to survive a power failure too.
    std::fs::File::open(dir)?.sync_all()
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
