//! Builds the guest functions into `guest-functions/dist`, so that building Skein does not need a Wasm target.
//!
//! The components are compared byte for byte, so they need one fixed toolchain: Debian's packages `rustc-web`,
//! `cargo-web` and `rust-web-src`, which include the sources of the standard library. Paths of the machine are mapped
//! away.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

use crate::{target_folder, workspace_root};

const TARGET: &str = "wasm32-unknown-unknown";
const CARGO: &str = "/usr/bin/cargo";
const RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: &str = "rustc-web cargo-web rust-web-src";

/// The kind of file that a guest is built into.
enum Output {
    /// A component of one of the worlds in `wit/`.
    Component,
    /// A plain core module that a test runs.
    Module,
}

/// The crate that aggregation functions share, which is not a component itself.
const SHARED: &str = "aggregate";
/// The guest that is not a component.
const MODULE: &str = "kernel-digest";

/// The crates of `guest-functions` to build, sorted by name.
fn guests(root: &Path) -> Result<Vec<(String, Output)>> {
    let mut guests = Vec::new();
    for entry in fs::read_dir(root.join("guest-functions"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a folder's name is not valid UTF-8")?;
        if path.join("Cargo.toml").exists() && name != SHARED {
            let output = if name == MODULE { Output::Module } else { Output::Component };
            guests.push((name.to_owned(), output));
        }
    }
    guests.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(guests)
}

/// Builds every guest and writes it to `dist`. With `check`, only compares it with the file there.
pub(crate) fn run(check: bool) -> Result<()> {
    ensure!(
        Path::new(CARGO).exists() && Path::new(RUSTC).exists(),
        "`{CARGO}` or `{RUSTC}` is missing: install both with `apt-get install {DEBIAN_PACKAGES}`"
    );
    let root = workspace_root();
    let dist = root.join("guest-functions/dist");
    let mut differing = Vec::new();
    for (name, output) in guests(&root)? {
        let module = compile(&root, &name)?;
        let bytes = match output {
            Output::Component => componentize(&module).with_context(|| format!("failed to componentize `{name}`"))?,
            Output::Module => module,
        };
        let path = dist.join(format!("{name}.wasm"));
        let same = fs::read(&path).is_ok_and(|present| present == bytes);
        println!("{name}: {} bytes, {}", bytes.len(), if same { "unchanged" } else { "differs" });
        if !same && check {
            differing.push(name);
        } else if !same {
            fs::create_dir_all(&dist)?;
            fs::write(&path, &bytes).with_context(|| format!("failed to write `{}`", path.display()))?;
        }
    }
    if !differing.is_empty() {
        bail!("`guest-functions/dist` is stale for {differing:?}: run `cargo xtask guests` and commit the result");
    }
    Ok(())
}

/// Compiles one guest to a core module.
fn compile(root: &Path, name: &str) -> Result<Vec<u8>> {
    let target_dir = target_folder(root)?.join("guests");
    let mut command = Command::new(CARGO);
    // The variables of the outer cargo and rustup would select their toolchain.
    for (key, _) in env::vars_os().filter(|(key, _)| {
        let key = key.to_string_lossy();
        key.starts_with("CARGO") && key != "CARGO_HOME" || key.starts_with("RUST")
    }) {
        command.env_remove(key);
    }
    command
        .current_dir(root)
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(root)?.join("\u{1f}"))
        .args(["rustc", "--locked", "--profile", "guest", "--lib", "--crate-type", "cdylib"])
        .args(["-Z", "build-std=std,panic_abort", "--target", TARGET, "--package", name, "--target-dir"])
        .arg(&target_dir);
    let status = command.status().with_context(|| format!("failed to run `{CARGO}`"))?;
    ensure!(status.success(), "`{name}` does not compile for `{TARGET}`");
    let file = format!("{}.wasm", name.replace('-', "_"));
    let path = target_dir.join(TARGET).join("guest").join(file);
    fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))
}

/// Compiler flags. Fixed-width SIMD is deterministic; relaxed SIMD is not and stays off.
fn rust_flags(root: &Path) -> Result<Vec<String>> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .context("neither `CARGO_HOME` nor a home directory is set")?;
    Ok(vec![
        "-Ctarget-feature=+simd128".into(),
        format!("-Clinker={}", linker()?.display()),
        "-Zlocation-detail=none".into(),
        format!("--remap-path-prefix={}=/skein", root.display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
    ])
}

/// Path of `rust-lld`, which every rustup toolchain includes, and Debian's does not.
fn linker() -> Result<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir"]).output().context("failed to run `rustc`")?;
    let libdir = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let linker = libdir.with_file_name("bin").join("rust-lld");
    ensure!(linker.exists(), "`{}` is missing: use a toolchain of rustup, which includes it", linker.display());
    Ok(linker)
}

fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ComponentEncoder::default().validate(true).module(module)?;
    encoder.encode()
}
