//! Tells the program which commit it was built from, and which versions of its engines are built in.

use std::path::Path;
use std::process::Command;

/// Crates whose versions `--version` names.
const NAMED: [&str; 2] = ["wasmtime", "rten"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // It grows with every commit and checkout. A source tree without it is that of a package: `SKEIN_COMMIT` names it.
    let log = root.join(".git/logs/HEAD");
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    println!("cargo::rerun-if-env-changed=SKEIN_COMMIT");
    let commit = std::env::var("SKEIN_COMMIT").ok().or_else(|| head(&root)).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=SKEIN_COMMIT={commit}");

    let lock = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = std::fs::read_to_string(lock).unwrap_or_default();
    let versions = NAMED.map(|name| format!("{name} {}", locked(&lock, name).unwrap_or("unknown")));
    println!("cargo::rustc-env=SKEIN_BUILT_IN={}", versions.join(", "));
}

/// The first 12 digits of the commit that is checked out.
fn head(root: &Path) -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(root).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}

/// The version of a package in a lock file.
fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, entry) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    entry.split('"').next()
}
