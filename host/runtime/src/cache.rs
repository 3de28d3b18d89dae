//! Compiled artifacts on disk, under (compatibility of the engine, digest of the component).
//!
//! An artifact is native code that runs with the host's rights, so the host loads only what it wrote itself: every file
//! begins with a keyed hash. The key is stored beside the artifacts, and only its owner can read it. A file that was
//! truncated, altered or renamed is ignored, and its component is compiled anew.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use wasmtime::Engine;

const KEY_BYTES: usize = 32;

#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    compatibility: u64,
}

impl Cache {
    /// Opens the cache in `dir`, creating the folder and the key if they are missing.
    pub(crate) fn open(dir: &Path, engine: &Engine) -> io::Result<Cache> {
        // This hash need not withstand an adversary: a collision needs two engines on one machine, and wasmtime checks
        // its own artifacts again.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let compatibility = hasher.finish();
        fs::create_dir_all(dir)?;
        let path = dir.join("key");
        let key = match fs::read(&path) {
            Ok(bytes) if bytes.len() == KEY_BYTES => bytes.try_into().expect("the length was checked"),
            Ok(_) => new_key(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => new_key(&path)?,
            Err(error) => return Err(error),
        };
        Ok(Cache { dir: dir.to_owned(), key, compatibility })
    }

    /// The artifact of a component, if an authentic one exists.
    pub(crate) fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(digest)).ok()?;
        let (mac, artifact) = bytes.split_at_checked(blake3::OUT_LEN)?;
        let mac: [u8; blake3::OUT_LEN] = mac.try_into().ok()?;
        // Compares in constant time.
        if self.mac(digest, artifact) != mac {
            tracing::warn!(digest, "ignored a cached artifact that this host did not write");
            return None;
        }
        bytes.drain(..blake3::OUT_LEN);
        Some(bytes)
    }

    /// Stores an artifact. The file appears whole or not at all.
    pub(crate) fn put(&self, digest: &str, artifact: &[u8]) -> io::Result<()> {
        write_private(&self.path(digest), &[self.mac(digest, artifact).as_bytes(), artifact])
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{:016x}-{digest}.cwasm", self.compatibility))
    }

    fn mac(&self, digest: &str, artifact: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.compatibility.to_le_bytes()).update(digest.as_bytes()).update(artifact);
        hasher.finalize()
    }
}

fn new_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    let random = rustix::fs::open("/dev/urandom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::Read::read_exact(&mut fs::File::from(random), &mut key)?;
    write_private(path, &[&key])?;
    Ok(key)
}

/// Writes a file that only the owner may read (as temporary files are created) and moves it into place.
fn write_private(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let dir = path.parent().expect("a file in the cache has a folder");
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.persist(path)?;
    Ok(())
}
