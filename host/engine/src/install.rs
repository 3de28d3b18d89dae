//! Installs engine libraries for this user, from the package index that `pip` uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::{Kind, library};

/// Version and library of an installed engine.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Version of the engine.
    pub version: &'static str,
    /// Path of the library's file.
    pub library: PathBuf,
    /// SHA-256 of the wheel that contained it, in hex.
    pub sha256: &'static str,
}

/// A wheel of the package index, and its expected digest.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// Python version of the wheel; wheels for other versions hold the same library.
    python: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

/// The wheel of an engine for this machine, with its digest in the package index.
fn wheel(kind: Kind, gpu: bool) -> Result<Wheel> {
    let machine = std::env::consts::ARCH;
    ensure!(cfg!(target_os = "linux"), "wheels are known for Linux only: pass the library with `--engine-library`");
    let wheel = |package, version, platform, sha256| Wheel { package, version, python: "3.11", platform, sha256 };
    match (kind, gpu, machine) {
        (Kind::Rten, ..) => bail!("`rten` is built in: there is nothing to install"),
        (Kind::OpenVino, true, _) => bail!("`openvino` runs on the CPU only: install `onnxruntime --gpu`"),
        (Kind::OnnxRuntime, false, "x86_64") => Ok(wheel("onnxruntime", "1.31.1", "manylinux_2_28_x86_64", ORT_X86_64)),
        (Kind::OnnxRuntime, true, "x86_64") => {
            Ok(wheel("onnxruntime-gpu", "1.31.1", "manylinux_2_28_x86_64", ORT_GPU_X86_64))
        }
        (Kind::OnnxRuntime, false, "aarch64") => {
            Ok(wheel("onnxruntime", "1.31.1", "manylinux_2_28_aarch64", ORT_AARCH64))
        }
        (Kind::OpenVino, false, "x86_64") => {
            Ok(wheel("openvino", "2026.4.1", "manylinux_2_28_x86_64", OPENVINO_X86_64))
        }
        _ => bail!("no wheel of `{kind}` is known for {machine}: pass the library with `--engine-library`"),
    }
}

const ORT_X86_64: &str = "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f";
const ORT_GPU_X86_64: &str = "e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6";
const ORT_AARCH64: &str = "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3";
const OPENVINO_X86_64: &str = "2d22b1da03f7caf74df30e9f6417d0ab2f637e4a38e08e1dcd294d2c37407aaf";

/// Downloads the wheel of an engine, checks it, unpacks it next to the engine's folder, then moves it there at once.
/// `tell` receives progress messages.
///
/// # Errors
/// No wheel is known for this machine, it cannot be fetched, its digest differs, or the folder cannot be written.
pub fn install(kind: Kind, gpu: bool, mut tell: impl FnMut(&str)) -> Result<Installed> {
    let wheel = wheel(kind, gpu)?;
    let root = library::root();
    let folder = library::folder(kind);
    fs::create_dir_all(&root).with_context(|| format!("failed to create `{}`", root.display()))?;
    let work = tempfile::tempdir_in(&root).with_context(|| format!("failed to write to `{}`", root.display()))?;
    tell(&format!("fetching {} {}", wheel.package, wheel.version));
    let file = download(&wheel, work.path())?;
    let digest = hex::encode(Sha256::digest(fs::read(&file)?));
    ensure!(
        digest == wheel.sha256,
        "the wheel of {} {} has SHA-256 {digest}, expected {}: the package index serves another file",
        wheel.package,
        wheel.version,
        wheel.sha256
    );
    let unpacked = work.path().join("unpacked");
    zip::ZipArchive::new(fs::File::open(&file)?)?.extract(&unpacked).context("failed to unpack the wheel")?;
    ensure!(library::inside(kind, &unpacked).is_some(), "the wheel of {} holds no library", wheel.package);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("failed to replace `{}`", folder.display()))?;
    }
    fs::rename(&unpacked, &folder).with_context(|| format!("failed to write `{}`", folder.display()))?;
    Ok(Installed { version: wheel.version, library: library::find(kind)?, sha256: wheel.sha256 })
}

/// Downloads the wheel with `pip`, which knows the user's package index and proxies.
fn download(wheel: &Wheel, into: &Path) -> Result<PathBuf> {
    let requirement = format!("{}=={}", wheel.package, wheel.version);
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
        wheel.python,
        "--platform",
        wheel.platform,
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
