//! The files that a peer keeps beside its checkpoint: its log, and its last contributions.
//!
//! `records.log` is a line with the format, the run id and the peer's key (32 bytes each), and a sequence of entries: the
//! length of an entry (4 bytes, little endian), the first 8 bytes of its BLAKE3 hash, and the entry. They are on disk before
//! anyone can see a consequence of them. `contribution-<round>.f32` holds values as little-endian floats. A folder is locked
//! while it is open: two hosts with one key would sign two records for one slot.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use skein_protocol::node::Entry;
use skein_types::{Digest, PeerId};

use crate::lock::lock;

/// Name of the file with the log.
pub(crate) const LOG_FILE: &str = "records.log";
/// Size above which the log is rewritten with the entries that still matter, unless these alone are a quarter of it.
const LOG_BYTES_MAX: u64 = 1 << 20;
const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 8;
/// First line of the log: the format and its version. A program reads the version that it writes.
const FORMAT: &[u8] = b"skein-records-4\n";
const HEAD_BYTES: usize = FORMAT.len() + 64;
/// Prefixes of unfinished files' names; the last is that of checkpoints.
const TEMPORARY: [&str; 3] = [".records", ".contribution", ".checkpoint"];

/// The folder of one peer.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    head: Vec<u8>,
    log: Mutex<LogFile>,
    /// Open as long as the folder is in use, for its lock.
    _lock: File,
}

/// The log's file, at its end.
#[derive(Debug)]
struct LogFile {
    file: File,
    /// Size above which it is rewritten.
    full: u64,
}

impl Folder {
    /// Opens the folder of the peer `me` in `run`, which is created if it does not exist, and reads its log. Entries that a
    /// crash cut short at the end of the log had no consequence, and are dropped.
    ///
    /// # Errors
    /// Another process uses the folder, its files cannot be read or written, or the log is damaged or not of this peer.
    pub(super) fn open(dir: &Path, me: PeerId, run: Digest) -> Result<(Folder, Vec<Entry>)> {
        std::fs::create_dir_all(dir).with_context(|| format!("failed to create the folder `{}`", dir.display()))?;
        let path = dir.join(LOG_FILE);
        let failed = || format!("failed to open the records in `{}`", path.display());
        let Some(lock) = lock(dir).with_context(failed)? else {
            bail!("another host runs in `{}`: stop it, or choose another `dir`", dir.display())
        };
        // Files that a killed process left half written: no other process writes here.
        for file in std::fs::read_dir(dir).with_context(failed)? {
            let file = file.with_context(failed)?;
            let name = file.file_name();
            let is_left = TEMPORARY.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
            if is_left {
                std::fs::remove_file(file.path()).with_context(failed)?;
            }
        }
        let mut log =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(failed)?;
        let bytes = std::fs::read(&path).with_context(failed)?;
        let head = [FORMAT, &run.0[..], &me.0].concat();
        let parsed = parse(&bytes, &head);
        let (entries, whole) = parsed.with_context(|| format!("the records in `{}` cannot be used", path.display()))?;
        if whole < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - whole, "dropped a record that was cut short");
            log.set_len(whole as u64).with_context(failed)?;
        }
        log.seek(SeekFrom::End(0)).with_context(failed)?;
        if whole == 0 {
            log.write_all(&head).with_context(failed)?;
        }
        // The file's name has to survive a power failure as well as its content.
        log.sync_all().and_then(|()| lock.sync_all()).with_context(failed)?;
        let log = Mutex::new(LogFile { file: log, full: LOG_BYTES_MAX });
        Ok((Folder { dir: dir.to_owned(), head, log, _lock: lock }, entries))
    }

    /// Whether the log is to be rewritten.
    pub(super) fn is_full(&self) -> bool {
        let mut log = self.lock();
        let full = log.full;
        log.file.stream_position().is_ok_and(|end| end > full)
    }

    fn lock(&self) -> MutexGuard<'_, LogFile> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends entries; on disk when this returns.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) fn append(&self, entries: &[Entry]) -> Result<()> {
        let log = &mut self.lock().file;
        let failed = || format!("failed to keep a record in `{}`", self.dir.join(LOG_FILE).display());
        let end = log.stream_position().with_context(failed)?;
        let bytes: Vec<u8> = entries.iter().flat_map(frame).collect();
        let written = log.write_all(&bytes).and_then(|()| log.sync_data());
        if written.is_err() {
            // Half an entry must not precede the next one.
            log.set_len(end).and_then(|()| log.seek(SeekFrom::Start(end))).with_context(failed)?;
        }
        written.with_context(failed)
    }

    /// Begins a new log with these entries; on disk when this returns.
    ///
    /// # Errors
    /// The log cannot be written. The old one stays.
    pub(super) fn replace(&self, entries: &[Entry]) -> Result<()> {
        let write = || {
            let mut file = tempfile::Builder::new().prefix(TEMPORARY[0]).tempfile_in(&self.dir)?;
            let bytes: Vec<u8> = self.head.iter().copied().chain(entries.iter().flat_map(frame)).collect();
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            let file = file.persist(self.dir.join(LOG_FILE))?;
            File::open(&self.dir)?.sync_all()?;
            Ok::<_, std::io::Error>(LogFile { file, full: LOG_BYTES_MAX.max(4 * bytes.len() as u64) })
        };
        let written = write();
        let failed = || format!("failed to rewrite the records in `{}`", self.dir.join(LOG_FILE).display());
        *self.lock() = written.with_context(failed)?;
        Ok(())
    }

    /// Keeps the peer's contribution to a round and deletes those before `oldest`; on disk when this returns.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn keep_contribution(&self, round: u64, values: &[f32], oldest: u64) -> Result<()> {
        let path = self.contribution(round);
        let write = || {
            let mut file = tempfile::Builder::new().prefix(TEMPORARY[1]).tempfile_in(&self.dir)?;
            file.write_all(bytemuck::cast_slice(values))?;
            file.as_file().sync_data()?;
            file.persist(&path)?;
            for (round, path) in self.contributions()? {
                if round < oldest {
                    std::fs::remove_file(path)?;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        write().with_context(|| format!("failed to keep a contribution in `{}`", path.display()))
    }

    /// Reads the contribution to a round; `None` if it is not kept or cannot be read.
    pub(super) fn kept_contribution(&self, round: u64) -> Option<Vec<f32>> {
        let bytes = std::fs::read(self.contribution(round)).ok()?;
        Some(bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]))
    }

    fn contribution(&self, round: u64) -> PathBuf {
        self.dir.join(format!("contribution-{round}.f32"))
    }

    fn contributions(&self) -> std::io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(&self.dir)? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let round = name.strip_prefix("contribution-").and_then(|rest| rest.strip_suffix(".f32"));
            if let Some(round) = round.and_then(|round| round.parse().ok()) {
                found.push((round, path));
            }
        }
        Ok(found)
    }
}

fn checksum(entry: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *blake3::hash(entry).as_bytes().first_chunk().expect("a hash is longer")
}

fn frame(entry: &Entry) -> Vec<u8> {
    let bytes = entry.encode();
    [&(bytes.len() as u32).to_le_bytes(), &checksum(&bytes)[..], &bytes].concat()
}

/// The first whole entry of these bytes, and what follows it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let (expected, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    (!entry.is_empty() && checksum(entry) == *expected).then_some((entry, rest))
}

/// The entries of a log that begins with `head`, and the number of bytes up to the end of the last whole one.
fn parse(log: &[u8], head: &[u8]) -> Result<(Vec<Entry>, usize)> {
    let mut entries = Vec::new();
    if !log.starts_with(FORMAT) && !FORMAT.starts_with(log) {
        let format = FORMAT.trim_ascii_end().escape_ascii();
        bail!(
            "the file does not begin with `{format}`, so another version of this program wrote it: finish the run with \
             that one, or continue with another key and another `dir`"
        );
    }
    let Some((start, mut rest)) = log.split_at_checked(HEAD_BYTES) else { return Ok((entries, 0)) };
    ensure!(start == head, "they are of another run or another peer: choose another `dir`");
    while let Some((entry, behind)) = first(rest) {
        let entry = Entry::decode(entry);
        entries.push(entry.with_context(|| format!("the file is damaged, record {} is malformed", entries.len()))?);
        rest = behind;
    }
    // What was being written when the process ended may be cut short, but nothing follows it.
    ensure!(
        (1..rest.len()).all(|at| first(&rest[at..]).is_none()),
        "the file is damaged, record {} cannot be read and others follow: restore it, or continue with another key and another \
         `dir`",
        entries.len()
    );
    Ok((entries, log.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skein_protocol::identity::Identity;
    use skein_protocol::record::payload::Body;
    use skein_protocol::record::{Kind, Position, Slot, Statement};

    use super::*;

    const RUN: Digest = Digest([1; 32]);

    fn me() -> Identity {
        Identity::derived(1, 0)
    }

    fn entry(round: u64) -> Entry {
        let position = Position { era: 0, round };
        let slot = Slot { run: RUN, position, view: 0, kind: Kind::Prevote, peer: me().id() };
        Entry::Signed(Arc::new(Statement { slot, body: Body::Vote(Some(Digest([7; 32]))) }.sign(&me())))
    }

    fn open(dir: &Path) -> Result<(Folder, Vec<Entry>)> {
        Folder::open(dir, me().id(), RUN)
    }

    fn write(dir: &Path, rounds: std::ops::Range<u64>) {
        let (folder, _) = open(dir).expect("a folder");
        rounds.for_each(|round| folder.append(&[entry(round)]).expect("written"));
    }

    fn read(dir: &Path) -> Vec<Entry> {
        open(dir).expect("a folder").1
    }

    #[test]
    fn an_entry_that_was_cut_short_is_dropped_and_the_others_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), 0..3);
        let path = dir.path().join(LOG_FILE);
        let whole = std::fs::read(&path).expect("the log");
        let len = (whole.len() - HEAD_BYTES) / 3;
        for cut in [1, LENGTH_BYTES, LENGTH_BYTES + CHECKSUM_BYTES + 1, len - 1] {
            std::fs::write(&path, &whole[..HEAD_BYTES + 2 * len + cut]).expect("written");
            assert_eq!(read(dir.path()), [entry(0), entry(1)], "{cut} bytes of the third");
            write(dir.path(), 5..6);
            assert_eq!(read(dir.path()), [entry(0), entry(1), entry(5)]);
        }
        // A file system may have allocated space that was not filled.
        std::fs::write(&path, [&whole[..HEAD_BYTES + len], &[0; 300]].concat()).expect("written");
        assert_eq!(read(dir.path()), [entry(0)]);
    }

    #[test]
    fn a_log_of_another_format_is_refused_and_one_that_was_just_begun_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(LOG_FILE);
        for other in [&frame(&entry(1))[..], b"skein-records-3\n", b"skein-records-40\n"] {
            std::fs::write(&path, other).expect("written");
            let error = format!("{:#}", open(dir.path()).expect_err("another format"));
            assert!(error.contains("`skein-records-4`") && error.contains("finish the run with"), "{error}");
            assert_eq!(std::fs::read(&path).expect("the log"), other, "nothing is lost");
        }
        let head = [FORMAT, &RUN.0[..], &me().id().0].concat();
        for begun in 0..head.len() {
            std::fs::write(&path, &head[..begun]).expect("written");
            assert_eq!(read(dir.path()), []);
            write(dir.path(), 0..1);
            assert_eq!(read(dir.path()).len(), 1, "after {begun} bytes");
        }
    }

    #[test]
    fn a_log_of_another_run_or_peer_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), 0..1);
        for (peer, run) in [(me().id(), Digest([2; 32])), (Identity::derived(1, 1).id(), RUN)] {
            let error = format!("{:#}", Folder::open(dir.path(), peer, run).expect_err("another one"));
            assert!(error.contains("of another run or another peer: choose another `dir`"), "{error}");
        }
        assert_eq!(read(dir.path()), [entry(0)], "nothing is lost");
    }

    /// A peer that continued without what it signed would sign something else.
    #[test]
    fn a_log_that_is_damaged_before_its_end_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), 0..3);
        let path = dir.path().join(LOG_FILE);
        let whole = std::fs::read(&path).expect("the log");
        for at in [0, 2, 50, (whole.len() - HEAD_BYTES) / 3 + 60].map(|at| HEAD_BYTES + at) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).expect("written");
            let error = format!("{:#}", open(dir.path()).expect_err("damaged"));
            assert!(error.contains(LOG_FILE) && error.contains("damaged"), "{at}: {error}");
        }
    }

    #[test]
    fn a_log_does_not_grow_forever() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, _) = open(dir.path()).expect("a folder");
        let many: Vec<Entry> = (0..5000).map(entry).collect();
        folder.append(&many).expect("written");
        assert!(folder.is_full());
        folder.replace(&[entry(8), entry(9)]).expect("written");
        assert!(!folder.is_full());
        folder.append(&[entry(10)]).expect("written");
        drop(folder);
        assert_eq!(read(dir.path()), [entry(8), entry(9), entry(10)]);
    }

    #[test]
    fn a_folder_has_only_one_host() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, _) = open(dir.path()).expect("a folder");
        let error = open(dir.path()).expect_err("in use").to_string();
        assert!(error.contains("another host runs in"), "{error}");
        drop(folder);
        open(dir.path()).expect("a folder");
    }

    #[test]
    fn the_last_contributions_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, _) = open(dir.path()).expect("a folder");
        for round in 1..=4 {
            folder.keep_contribution(round, &[round as f32; 3], round - 1).expect("kept");
        }
        let kept: Vec<_> = (0..6).map(|round| folder.kept_contribution(round)).collect();
        assert_eq!(kept, [None, None, None, Some(vec![3.0; 3]), Some(vec![4.0; 3]), None]);
    }
}
