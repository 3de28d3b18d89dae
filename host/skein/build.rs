//! Tells the program which commit it was built from, and which versions of its engines are built in.

use std::path::Path;
use std::process::{Command, Stdio};

/// Crates whose versions `--version` names.
const NAMED: [&str; 2] = ["wasmtime", "rten"];

fn main() {
    // Asked when it runs, not when it is compiled: the folder of builds may have come from another checkout.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&package).join("../..");
    // The log grows with every commit and checkout. For sources without a repository, `SKEIN_COMMIT` names the commit.
    if let Some(log) = git(&root, &["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-env-changed=SKEIN_COMMIT");
    let commit = std::env::var("SKEIN_COMMIT").ok().or_else(|| git(&root, &["rev-parse", "--short=12", "HEAD"]));
    let commit = commit.unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=SKEIN_COMMIT={commit}");

    let lock = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = std::fs::read_to_string(lock).unwrap_or_default();
    let versions = NAMED.map(|name| format!("{name} {}", locked(&lock, name).unwrap_or("unknown")));
    println!("cargo::rustc-env=SKEIN_BUILT_IN={}", versions.join(", "));
}

/// What a command of git prints; `None` without git or a repository.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(root).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The version of a package in a lock file.
fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, entry) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    entry.split('"').next()
}
