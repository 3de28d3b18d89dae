//! Compiled artifacts on disk, under (compatibility of the engine, digest of the component).
//!
//! An artifact is native code that runs with the host's rights, so the host loads only what it wrote itself: the name of
//! every file ends with a keyed hash of its content. The key lies beside the artifacts, and only its owner can read it.
//! A file that was truncated, altered or renamed is removed, and its component is compiled anew. Artifacts that were not
//! used for longest are removed when all together take more than the cache may.

use std::fs::{self, File, Permissions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use wasmtime::Engine;

const KEY_BYTES: usize = 32;
const EXTENSION: &str = "cwasm";
const UNFINISHED: &str = "unfinished";
/// Age of an unfinished file that nobody writes any more.
const UNFINISHED_MAX: Duration = Duration::from_secs(3600);
/// How often a load looks whether another one still compiles the component.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Compiled functions in a folder.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    bytes_max: u64,
}

/// The names that an artifact has: by what an engine can load, and by its component.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactId {
    compatibility: u64,
    digest: String,
}

impl ArtifactId {
    pub(crate) fn new(engine: &Engine, digest: &str) -> ArtifactId {
        // This hash need not withstand an adversary: a collision needs two engines on one machine, and wasmtime checks
        // its own artifacts again.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        ArtifactId { compatibility: hasher.finish(), digest: digest.to_owned() }
    }

    /// How the names of its files begin.
    fn prefix(&self) -> String {
        format!("{:016x}-{}-", self.compatibility, self.digest)
    }
}

/// An artifact that was authenticated.
pub(crate) struct Authentic {
    file: File,
    /// How long it took to authenticate it.
    pub(crate) duration: Duration,
}

impl Authentic {
    /// The path of the open file: other than its name in the cache, it always leads to what was authenticated.
    pub(crate) fn path(&self) -> PathBuf {
        path_of(&self.file)
    }
}

impl Cache {
    /// Opens the cache in `dir`, creating the folder and the key if they are missing.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> io::Result<Cache> {
        fs::create_dir_all(dir)?;
        let path = dir.join("key");
        let key = match read_key(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_key(&path)?;
                // Another process may have been first: its key counts.
                read_key(&path)?
            }
            read => read?,
        };
        Ok(Cache { dir: dir.to_owned(), key, bytes_max })
    }

    /// The artifact of a component, if an authentic one exists.
    pub(crate) fn get(&self, id: &ArtifactId) -> Option<Authentic> {
        let begun = Instant::now();
        let prefix = id.prefix();
        let entries = fs::read_dir(&self.dir).ok()?.filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| name.starts_with(&prefix)) {
            let path = self.dir.join(&name);
            let Ok(file) = File::open(&path) else { continue };
            let authentic = self.mac(id, &file).is_ok_and(|mac| name == file_name(id, mac));
            if authentic {
                // Its time of use, by which the cache chooses what to remove; a cache that cannot be written still serves.
                let _ = file.set_modified(SystemTime::now());
                return Some(Authentic { file, duration: begun.elapsed() });
            }
            tracing::warn!(path = %path.display(), "removed a cached artifact that this host did not write");
            let _ = fs::remove_file(&path);
        }
        None
    }

    /// Stores an artifact. The file appears whole or not at all.
    pub(crate) fn put(&self, id: &ArtifactId, artifact: &[u8]) -> io::Result<()> {
        // Only its owner may read a temporary file.
        let mut file = tempfile::Builder::new().suffix(&format!(".{UNFINISHED}")).tempfile_in(&self.dir)?;
        file.write_all(artifact)?;
        let path = self.dir.join(file_name(id, self.mac(id, file.as_file())?));
        file.persist(&path)?;
        self.make_room(&path)
    }

    /// Removes the artifacts of a component, which are of no use after all.
    pub(crate) fn remove(&self, id: &ArtifactId) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok);
        let is_own = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&id.prefix());
        for entry in entries.filter(is_own) {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Removes the artifacts that were not used for longest until the rest fits, never `newest`, and what processes that
    /// were killed have left unfinished.
    fn make_room(&self, newest: &Path) -> io::Result<()> {
        let mut artifacts = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            // Another process may be removing files too.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                artifacts.push((metadata.modified()?, metadata.len(), path));
            } else if path.extension().is_some_and(|extension| extension == UNFINISHED)
                && metadata.modified()?.elapsed().is_ok_and(|age| age > UNFINISHED_MAX)
            {
                let _ = fs::remove_file(path);
            }
        }
        artifacts.sort();
        let mut total: u64 = artifacts.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in artifacts.iter().filter(|(_, _, path)| path != newest) {
            if total <= self.bytes_max {
                break;
            }
            tracing::debug!(path = %path.display(), bytes, "removed an artifact to make room");
            let _ = fs::remove_file(path);
            total -= bytes;
        }
        Ok(())
    }

    /// The keyed hash of an artifact and of what it is for, computed by all cores on the file as it is mapped.
    fn mac(&self, id: &ArtifactId, file: &File) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&id.compatibility.to_le_bytes()).update(id.digest.as_bytes());
        hasher.update_mmap_rayon(path_of(file))?;
        Ok(hasher.finalize())
    }
}

/// Tells other loads that share the cache, of this process and others, that one compiles a component, until it is dropped.
pub(crate) struct Compiling {
    path: PathBuf,
    /// Locked: the kernel releases it even if this process is killed.
    _file: File,
}

impl Compiling {
    /// Waits until nobody else compiles the component; look into the cache afterwards. `None` after `patience`, and where
    /// files cannot be locked: then compile as well.
    pub(crate) async fn begin(cache: &Cache, id: &ArtifactId, patience: Duration) -> Option<Compiling> {
        // No name of an artifact, which would be removed as one that this host did not write.
        let path = cache.dir.join(format!("{:016x}-{}.{UNFINISHED}", id.compatibility, id.digest));
        let begun = Instant::now();
        let mut waits = false;
        loop {
            let mut options = File::options();
            options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&path).ok()?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Some(Compiling { path, _file: file }),
                // Locked by another load, or removed by one that has just compiled it.
                Ok(()) | Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {}
                Ok(()) | Err(_) => return None,
            }
            if !waits {
                tracing::info!(component = id.digest, "another load compiles this component: waiting for it");
            }
            waits = true;
            // The lock of a file can be waited for by blocking a thread only, without a bound; other processes hold it too,
            // so nothing in this one could tell when it is free.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether the path still leads to the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let Ok(own) = file.metadata() else { return false };
    fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))
}

impl Drop for Compiling {
    fn drop(&mut self) {
        // Before it is unlocked: a load that locks this very file sees that it is gone, and tries again.
        let _ = fs::remove_file(&self.path);
    }
}

fn file_name(id: &ArtifactId, mac: blake3::Hash) -> String {
    format!("{}{mac}.{EXTENSION}", id.prefix())
}

/// A path that leads to an open file, whatever its name leads to by now.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Reads the key. Another user who could write it could have this host load native code.
fn read_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let refuse = |problem: String| {
        let text = format!("`{}` {problem}: remove the folder, so that functions are compiled anew", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return refuse(format!("belongs to user {}, not to user {own}, who runs this program", metadata.uid()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return refuse(format!("has mode {mode:03o}, at most 600 is safe"));
    }
    let mut key = Vec::with_capacity(KEY_BYTES);
    file.read_to_end(&mut key)?;
    match key.try_into() {
        Ok(key) => Ok(key),
        Err(key) => refuse(format!("has {} bytes, expected {KEY_BYTES}", key.len())),
    }
}

/// Creates the key, unless there is one.
fn write_key(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    let random = rustix::fs::open("/dev/urandom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(random).read_exact(&mut key)?;
    let dir = path.parent().expect("the key is in the cache's folder");
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&key)?;
    file.as_file().set_permissions(Permissions::from_mode(0o600))?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}
