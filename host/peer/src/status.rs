//! What a run's folder tells about the run, without its manifest, its data or its database.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use skein_job::identity::Ancestor;

use crate::checkpoint;
use crate::driver::RECORDS_FILE;
use crate::host::config::HOST_FILE;
use crate::lock::is_held;
use crate::report::METRICS_FILE;

/// Files by which the folder of a run is known.
const FILES: [&str; 3] = [checkpoint::FILE, METRICS_FILE, RECORDS_FILE];
/// Largest header of a safetensors file that its readers accept.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The state of a run on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunStatus {
    /// Folder of the run, which holds its checkpoint and metrics.
    pub dir: PathBuf,
    /// Name of the job.
    pub name: Option<String>,
    /// The run id; `None` before the first round.
    pub run: Option<String>,
    /// The job identity; `None` before the first round.
    pub job: Option<String>,
    /// Round of the checkpoint, 0 without one.
    pub round: u64,
    /// Most rounds of the job.
    pub rounds: Option<u64>,
    /// Hash of the checkpoint's state.
    pub state_hash: Option<String>,
    /// Loss of the last round.
    pub loss: Option<f64>,
    /// The last evaluation on the validation samples.
    pub validation: Option<Evaluated>,
    /// The evaluation on the held-out samples, once it was made.
    pub test: Option<Evaluated>,
    /// When the folder's checkpoint or metrics were last written.
    #[serde(skip)]
    pub written: Option<SystemTime>,
    /// Whether a process runs in the folder.
    pub held: bool,
    /// Runs that this one continues under other settings, the oldest first.
    pub lineage: Vec<Ancestor>,
}

/// An evaluation in a line of metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The round whose state was evaluated.
    pub round: Option<u64>,
    /// Mean loss over the evaluated samples.
    pub loss: Option<f64>,
    /// Share of the samples that were classified correctly.
    pub accuracy: Option<f64>,
    /// Number of samples that were evaluated.
    pub samples: Option<u64>,
}

/// What a line of metrics tells; older and newer programs may leave out any of it.
#[derive(Deserialize)]
struct Line {
    loss: Option<f64>,
    validation: Option<Evaluated>,
    test: Option<Evaluated>,
}

/// The run of a folder, or those of its peers if each has a folder in it.
///
/// # Errors
/// The folder cannot be read, is not that of a run, or has a checkpoint that cannot be read.
pub fn runs(dir: &Path) -> Result<Vec<RunStatus>> {
    let failed = || format!("failed to read the folder `{}`", dir.display());
    ensure!(dir.metadata().with_context(failed)?.is_dir(), "`{}` is not a folder", dir.display());
    let is_run = |dir: &Path| FILES.iter().any(|file| dir.join(file).exists());
    if is_run(dir) {
        return Ok(vec![RunStatus::read(dir)?]);
    }
    let mut peers = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("peer-")?.parse::<u32>().ok());
        // A host that has not begun has only its configuration.
        if let Some(number) = number.filter(|_| is_run(&path) || path.join(HOST_FILE).exists()) {
            peers.push((number, path));
        }
    }
    if peers.is_empty() {
        let files = FILES.map(|file| format!("`{file}`")).join(", ");
        bail!(
            "`{}` is not the folder of a run, which has at least one of {files}: name the one of `skein train --out` or \
             `skein up --dir`, or the `dir` of a host",
            dir.display()
        );
    }
    peers.sort();
    peers.iter().map(|(_, path)| RunStatus::read(path)).collect()
}

impl RunStatus {
    fn read(dir: &Path) -> Result<RunStatus> {
        let failed = || format!("failed to read the folder `{}`", dir.display());
        let held = is_held(dir).with_context(failed)?;
        let mut status = RunStatus { dir: dir.to_owned(), held, ..RunStatus::default() };
        let path = dir.join(checkpoint::FILE);
        if let Some(file) = opened(&path)? {
            let metadata = metadata(file).with_context(|| format!("`{}` is not a checkpoint", path.display()))?;
            status.take_metadata(&metadata);
        }
        if let Some(file) = opened(&dir.join(METRICS_FILE))? {
            status.take_metrics(file).with_context(failed)?;
        }
        let times = [checkpoint::FILE, METRICS_FILE].map(|file| dir.join(file).metadata().ok()?.modified().ok());
        status.written = times.into_iter().flatten().max();
        Ok(status)
    }

    fn take_metadata(&mut self, metadata: &HashMap<String, String>) {
        let field = |name: &str| metadata.get(name).cloned();
        self.run = field("run");
        self.job = field("job");
        self.state_hash = field("state_hash");
        self.round = field("round").and_then(|round| round.parse().ok()).unwrap_or_default();
        self.lineage = field("lineage").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let manifest: Option<toml::Table> = field("manifest").and_then(|text| toml::from_str(&text).ok());
        if let Some(manifest) = manifest {
            let of = |table: &str, key: &str| manifest.get(table)?.get(key).cloned();
            self.name = of("application", "name").and_then(|name| Some(name.as_str()?.to_owned()));
            self.rounds = of("train", "rounds").and_then(|rounds| u64::try_from(rounds.as_integer()?).ok());
        }
    }

    fn take_metrics(&mut self, file: File) -> std::io::Result<()> {
        for line in BufReader::new(file).lines() {
            // The last line of a run that was killed, or that goes on, may be cut short.
            let Ok(Line { loss, validation, test }) = serde_json::from_str(&line?) else { continue };
            self.loss = loss.or(self.loss);
            self.validation = validation.or_else(|| self.validation.take());
            self.test = test.or_else(|| self.test.take());
        }
        Ok(())
    }
}

/// A file that may be missing.
fn opened(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).with_context(|| format!("failed to read `{}`", path.display())),
    }
}

/// The metadata of a safetensors file, whose values may be large and are not read.
fn metadata(mut file: File) -> Result<HashMap<String, String>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__", default)]
        metadata: HashMap<String, String>,
    }

    let mut length = [0; 8];
    file.read_exact(&mut length).context("it is shorter than a header")?;
    let length = u64::from_le_bytes(length);
    ensure!(length <= HEADER_BYTES_MAX, "its header has {length} bytes, at most {HEADER_BYTES_MAX} are allowed");
    let header: Header =
        serde_json::from_reader(BufReader::new(file.take(length))).context("its header is malformed")?;
    ensure!(header.metadata.contains_key("round"), "it has no `round` in its metadata");
    Ok(header.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).expect("written");
        }
        dir
    }

    #[test]
    fn the_last_figures_of_the_metrics_count() {
        let lines = "{\"round\":1,\"loss\":2.5,\"validation\":{\"round\":0,\"loss\":2.0,\"accuracy\":0.1,\"samples\":9}}\n\
                     {\"round\":2,\"loss\":1.5,\"validation\":null}\n{\"test\":{\"loss\":1.0}}\n{\"round\":3,\"lo";
        let dir = folder(&[(METRICS_FILE, lines.as_bytes())]);
        let [status] = &runs(dir.path()).expect("a run")[..] else { panic!("one run") };
        assert_eq!(status.loss, Some(1.5));
        assert_eq!(status.validation.as_ref().and_then(|validation| validation.accuracy), Some(0.1));
        assert_eq!(status.test.as_ref().and_then(|test| test.loss), Some(1.0));
        assert_eq!((status.round, &status.run), (0, &None));
        assert!(status.written.is_some());
    }

    #[test]
    fn a_checkpoint_that_is_none_is_refused_by_name() {
        let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        for (content, expected) in [
            (b"short".to_vec(), "shorter than a header"),
            (vec![0xff; 20], "its header has 18446744073709551615 bytes"),
            (header("{"), "its header is malformed"),
            (header("{}"), "it has no `round` in its metadata"),
        ] {
            let dir = folder(&[(checkpoint::FILE, &content)]);
            let error = format!("{:#}", runs(dir.path()).expect_err("no checkpoint"));
            assert!(error.contains(checkpoint::FILE) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_process_that_holds_the_folder_is_seen() {
        let dir = folder(&[(METRICS_FILE, b"")]);
        let held = || runs(dir.path()).expect("a run")[0].held;
        assert!(!held());
        let lock = crate::lock::lock(dir.path()).expect("a folder").expect("free");
        assert!(held());
        drop(lock);
        assert!(!held());
    }
}
