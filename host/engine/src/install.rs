//! Installs engine libraries for this user, from the package index that `pip` uses.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use skein_wheel::Wheel;

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

/// The version that [`install`] installs on this machine; `None` if there is none, or if the engine is built in.
pub fn version(kind: Kind) -> Option<&'static str> {
    wheel(kind, false).ok().map(|wheel| wheel.version)
}

const ORT_X86_64: &str = "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f";
const ORT_GPU_X86_64: &str = "e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6";
const ORT_AARCH64: &str = "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3";
const OPENVINO_X86_64: &str = "2d22b1da03f7caf74df30e9f6417d0ab2f637e4a38e08e1dcd294d2c37407aaf";

/// Downloads and unpacks the wheel of an engine. `tell` receives progress messages.
///
/// # Errors
/// No wheel is known for this machine, it cannot be fetched, its digest differs, or the folder cannot be written.
pub fn install(kind: Kind, gpu: bool, tell: impl FnMut(&str)) -> Result<Installed> {
    let wheel = wheel(kind, gpu)?;
    let check = |unpacked: &Path| {
        ensure!(library::inside(kind, unpacked).is_some(), "the wheel of {} holds no library", wheel.package);
        Ok(())
    };
    wheel.install(&library::folder(kind), check, tell)?;
    Ok(Installed { version: wheel.version, library: library::find(kind)?, sha256: wheel.sha256 })
}
