//! The files that a peer keeps beside its checkpoint: the records that it signed, and its last contributions.
//!
//! `records.log` is a line with the format and a sequence of records, each after its length (4 bytes, little endian),
//! written to disk before anyone can read the record elsewhere. `contribution-<round>.f32` holds values as little-endian floats. A folder is
//! locked while it is open: two hosts with one key would sign different records for the same round and kind.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use skein_protocol::round::record::{RECORD_BYTES_MAX, Record};

use crate::lock::lock;

/// Name of the file with the records.
pub(crate) const LOG_FILE: &str = "records.log";
/// Size above which the log is rewritten with the records that still matter: more than those of the largest roster
/// need, and little enough for their signatures to be checked in a fraction of a second.
const LOG_BYTES_MAX: u64 = 1 << 20;
const LENGTH_BYTES: usize = 4;
/// First line of the log: the format and its version. A program reads the version that it writes.
const FORMAT: &[u8] = b"skein-records-2\n";
/// Prefixes of unfinished files' names; the last is that of checkpoints.
const TEMPORARY: [&str; 3] = [".records", ".contribution", ".checkpoint"];

/// The folder of one peer.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    log: Mutex<File>,
    /// Open as long as the folder is in use, for its lock.
    _lock: File,
}

impl Folder {
    /// Opens the folder, which is created if it does not exist, and reads its records. A record that a crash cut short
    /// at the end of the log was never published, and is dropped.
    ///
    /// # Errors
    /// Another process uses the folder, its files cannot be read or written, or the log is damaged.
    pub(super) fn open(dir: &Path) -> Result<(Folder, Vec<Record>)> {
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
        let (records, whole) =
            parse(&bytes).with_context(|| format!("the records in `{}` cannot be used", path.display()))?;
        if whole < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - whole, "dropped a record that was cut short");
            log.set_len(whole as u64).with_context(failed)?;
        }
        log.seek(SeekFrom::End(0)).with_context(failed)?;
        if whole == 0 {
            log.write_all(FORMAT).with_context(failed)?;
        }
        // The file's name has to survive a power failure as well as its content.
        log.sync_all().and_then(|()| lock.sync_all()).with_context(failed)?;
        Ok((Folder { dir: dir.to_owned(), log: Mutex::new(log), _lock: lock }, records))
    }

    /// Appends a record; it is on disk when this returns. `kept` are the records that still matter, this one included.
    ///
    /// # Errors
    /// The log cannot be written.
    pub(super) fn append(&self, record: &Record, kept: &[Record]) -> Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = || format!("failed to keep a record in `{}`", self.dir.join(LOG_FILE).display());
        if log.stream_position().with_context(failed)? > LOG_BYTES_MAX {
            *log = self.replace(kept).with_context(failed)?;
            return Ok(());
        }
        let end = log.stream_position().with_context(failed)?;
        let written = log.write_all(&entry(record)).and_then(|()| log.sync_data());
        if written.is_err() {
            // Half a record must not precede the next one.
            log.set_len(end).and_then(|()| log.seek(SeekFrom::Start(end))).with_context(failed)?;
        }
        written.with_context(failed)
    }

    fn replace(&self, records: &[Record]) -> std::io::Result<File> {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY[0]).tempfile_in(&self.dir)?;
        file.write_all(FORMAT)?;
        records.iter().try_for_each(|record| file.write_all(&entry(record)))?;
        file.as_file().sync_all()?;
        let file = file.persist(self.dir.join(LOG_FILE))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(file)
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

fn entry(record: &Record) -> Vec<u8> {
    let bytes = record.encode();
    [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat()
}

/// The records of a log, and the number of bytes up to the end of the last whole one.
fn parse(log: &[u8]) -> Result<(Vec<Record>, usize)> {
    let mut records = Vec::new();
    let Some(mut rest) = log.strip_prefix(FORMAT) else {
        if FORMAT.starts_with(log) {
            return Ok((records, 0));
        }
        let format = FORMAT.trim_ascii_end().escape_ascii();
        bail!(
            "the file does not begin with `{format}`, so another version of this program wrote it: finish the run with \
             that one, or continue with another key and another `dir`"
        );
    };
    while let Some((length, behind)) = rest.split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        let record = behind.get(..length).map(Record::decode);
        match record {
            Some(Ok(record)) => records.push(record),
            // Each record was on disk before the next was written, so only the last can have been cut short.
            _ if rest.len() <= LENGTH_BYTES + RECORD_BYTES_MAX && !holds_record(behind) => break,
            _ => bail!(
                "the file is damaged, record {} cannot be read and others follow: restore it, or continue with another \
                 key and another `dir`",
                records.len()
            ),
        }
        rest = &behind[length..];
    }
    Ok((records, log.len() - rest.len()))
}

/// Whether a whole record begins anywhere in these bytes, as after damage in the middle of a log.
fn holds_record(bytes: &[u8]) -> bool {
    (1..bytes.len()).any(|at| {
        let Some((length, rest)) = bytes[at..].split_first_chunk::<LENGTH_BYTES>() else { return false };
        let length = u32::from_le_bytes(*length) as usize;
        rest.get(..length).is_some_and(|record| Record::decode(record).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use skein_protocol::identity::Identity;
    use skein_protocol::round::record::{Header, Kind};
    use skein_types::Digest;

    use super::*;

    fn record(round: u64) -> Record {
        let identity = Identity::derived(1, 0);
        let header = Header {
            run: Digest([1; 32]),
            round,
            peer: identity.id(),
            kind: Kind::Vote,
            state: Digest([2; 32]),
            previous: Digest([3; 32]),
        };
        Record::sign(&identity, header, vec![7; 40])
    }

    fn write(dir: &Path, rounds: std::ops::Range<u64>) {
        let (folder, _) = Folder::open(dir).expect("a folder");
        rounds.for_each(|round| folder.append(&record(round), &[]).expect("written"));
    }

    fn read(dir: &Path) -> Vec<Record> {
        Folder::open(dir).expect("a folder").1
    }

    #[test]
    fn a_record_that_was_cut_short_is_dropped_and_the_others_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), 0..3);
        let path = dir.path().join(LOG_FILE);
        let whole = std::fs::read(&path).expect("the log");
        let entry = (whole.len() - FORMAT.len()) / 3;
        for cut in [1, LENGTH_BYTES, LENGTH_BYTES + 1, entry - 1] {
            std::fs::write(&path, &whole[..FORMAT.len() + 2 * entry + cut]).expect("written");
            assert_eq!(read(dir.path()), [record(0), record(1)], "{cut} bytes of the third");
            write(dir.path(), 5..6);
            assert_eq!(read(dir.path()), [record(0), record(1), record(5)]);
        }
        // A file system may have allocated space that was not filled.
        std::fs::write(&path, [&whole[..FORMAT.len() + entry], &[0; 300]].concat()).expect("written");
        assert_eq!(read(dir.path()), [record(0)]);
    }

    #[test]
    fn a_log_of_another_format_is_refused_and_one_that_was_just_begun_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(LOG_FILE);
        let record = entry(&record(1));
        for other in [&record[..], b"skein-records-1\n", b"skein-records-20\n"] {
            std::fs::write(&path, other).expect("written");
            let error = format!("{:#}", Folder::open(dir.path()).expect_err("another format"));
            assert!(error.contains("`skein-records-2`") && error.contains("finish the run with"), "{error}");
            assert_eq!(std::fs::read(&path).expect("the log"), other, "nothing is lost");
        }
        for begun in 0..FORMAT.len() {
            std::fs::write(&path, &FORMAT[..begun]).expect("written");
            assert_eq!(read(dir.path()), []);
            write(dir.path(), 0..1);
            assert_eq!(read(dir.path()).len(), 1, "after {begun} bytes");
        }
    }

    /// A peer that continued without its signed records would sign different ones.
    #[test]
    fn a_log_that_is_damaged_before_its_end_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), 0..3);
        let path = dir.path().join(LOG_FILE);
        let whole = std::fs::read(&path).expect("the log");
        for at in [0, 2, 50, whole.len() / 3 + 60].map(|at| FORMAT.len() + at) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).expect("written");
            let error = format!("{:#}", Folder::open(dir.path()).expect_err("damaged"));
            assert!(error.contains(LOG_FILE) && error.contains("damaged"), "{at}: {error}");
        }
    }

    #[test]
    fn a_log_does_not_grow_forever() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), 0..2);
        let path = dir.path().join(LOG_FILE);
        // A log at its bound, made of the same records repeated.
        let records = std::fs::read(&path).expect("the log")[FORMAT.len()..].to_vec();
        let many = records.repeat(LOG_BYTES_MAX as usize / records.len() + 1);
        std::fs::write(&path, [FORMAT, &many].concat()).expect("written");
        let (folder, _) = Folder::open(dir.path()).expect("a folder");
        folder.append(&record(9), &[record(8), record(9)]).expect("written");
        folder.append(&record(10), &[]).expect("written");
        drop(folder);
        assert_eq!(read(dir.path()), [record(8), record(9), record(10)]);
    }

    #[test]
    fn a_folder_has_only_one_host() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, _) = Folder::open(dir.path()).expect("a folder");
        let error = Folder::open(dir.path()).expect_err("in use").to_string();
        assert!(error.contains("another host runs in"), "{error}");
        drop(folder);
        Folder::open(dir.path()).expect("a folder");
    }

    #[test]
    fn the_last_contributions_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, _) = Folder::open(dir.path()).expect("a folder");
        for round in 1..=4 {
            folder.keep_contribution(round, &[round as f32; 3], round - 1).expect("kept");
        }
        let kept: Vec<_> = (0..6).map(|round| folder.kept_contribution(round)).collect();
        assert_eq!(kept, [None, None, None, Some(vec![3.0; 3]), Some(vec![4.0; 3]), None]);
    }
}
