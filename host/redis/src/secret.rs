//! Files with secrets: read only if no other user may read them, and written so that none can.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file with a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("failed to read the {what} `{}`", path.display())]
    Unreadable {
        /// What the file holds.
        what: &'static str,
        /// The file that cannot be read.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// Other users of this machine may read the file.
    #[error("others may read the {what} `{0}`: run `chmod 600 {0}`", path.display())]
    Exposed {
        /// What the file holds.
        what: &'static str,
        /// The file that others may read.
        path: PathBuf,
    },
}

/// Reads a file with a secret; `what` says in errors what it holds.
///
/// # Errors
/// The file cannot be read, or other users may read it.
pub fn read(what: &'static str, path: &Path) -> Result<String, SecretError> {
    let failed = |source| SecretError::Unreadable { what, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    // Of the open file, which nobody can replace in between.
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { what, path: path.to_owned() });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a new file that only its owner may read.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("own.key");
        create(&path, "secret\n").expect("written");
        assert_eq!(read("key", &path).expect("only its owner may read it"), "secret\n");
        assert_eq!(create(&path, "other\n").expect_err("it exists").kind(), io::ErrorKind::AlreadyExists);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("it is ours");
            let error = read("key", &path).expect_err("others may read it").to_string();
            assert_eq!(error, format!("others may read the key `{0}`: run `chmod 600 {0}`", path.display()));
        }
        let error = read("key", &folder.path().join("none")).expect_err("no such file").to_string();
        assert!(error.contains("failed to read the key `"), "{error}");
    }
}
