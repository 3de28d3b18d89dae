//! `cargo xtask dist`: one archive with everything that a machine without a toolchain needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{cargo, target_folder};

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Dist {
    /// Folder for the archive [default: `dist` in cargo's folder for builds]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The built files that belong to a release.
const BUILT: [&str; 2] = ["skein", "libskein_redis_module.so"];
/// Files of the repository that belong to a release.
const COPIED: [&str; 5] =
    ["ARCHITECTURE.md", "LICENSE", "README.md", "host/job/data/README.md", "host/job/data/digits.csv.gz"];
/// Folders of the repository that README and its pages work with.
const FOLDERS: [&str; 3] = ["docs", "runtime-config", "wit"];
/// Shells, and the names of their completions.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "skein.bash"), ("zsh", "_skein"), ("fish", "skein.fish")];

/// Builds the program and packs it, and prints what it wrote as one JSON object.
pub(crate) fn run(root: &Path, options: &Dist) -> Result<()> {
    // All default members: fewer would be built with other features of what they share, which takes minutes.
    succeed(cargo().args(["build", "--release", "--locked"]).current_dir(root))?;
    let host = host()?;
    let name = format!("skein-{}-{host}", env!("CARGO_PKG_VERSION"));
    let target = target_folder(root)?;
    let out = options.out.as_ref().map_or_else(|| target.join("dist"), |out| root.join(out));
    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("completions"))?;
    for file in BUILT {
        let source = target.join("release").join(file);
        // Symbols are most of the program. A panic still names file and line of its cause.
        succeed(Command::new("strip").arg("--strip-debug").arg("-o").arg(folder.join(file)).arg(source))?;
    }
    for file in COPIED.map(PathBuf::from).into_iter().chain(tracked(root)?) {
        let to = folder.join(&file);
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::copy(root.join(&file), to).with_context(|| format!("failed to copy `{}`", file.display()))?;
    }
    for (shell, file) in COMPLETIONS {
        let script = succeed(Command::new(folder.join("skein")).args(["completions", shell]))?;
        fs::write(folder.join("completions").join(file), script)?;
    }
    fs::write(folder.join("THIRD-PARTY-LICENSES.txt"), licences(root, &host)?)?;
    fs::write(folder.join("SHA256SUMS"), sums(&folder)?)?;

    let archive = out.join(format!("{name}.tar.gz"));
    // The same files make the same bytes.
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip -n",
    ]);
    succeed(tar.arg("-cf").arg(&archive).arg("-C").arg(&out).arg(&name))?;
    let digest = digest(&archive)?;
    let sum = out.join(format!("{name}.tar.gz.sha256"));
    fs::write(&sum, format!("{digest}  {name}.tar.gz\n"))?;
    let bytes = fs::metadata(&archive)?.len();
    println!("{:#}", json!({ "archive": archive, "bytes": bytes, "sha256": digest, "folder": name }));
    Ok(())
}

/// The files of the repository in [`FOLDERS`], without what somebody else put there.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = succeed(Command::new("git").args(["ls-files", "--"]).args(FOLDERS).current_dir(root))?;
    Ok(String::from_utf8(listed)?.lines().map(PathBuf::from).collect())
}

/// Runs a command and returns what it printed.
fn succeed(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{:?}", command.get_program());
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("failed to start {shown}"))?;
    ensure!(output.status.success(), "{shown} ended with {}", output.status);
    Ok(output.stdout)
}

/// The target that the compiler builds for by default.
fn host() -> Result<String> {
    let version = String::from_utf8(succeed(Command::new("rustc").arg("-vV"))?)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// The licences of all crates that are linked into the program or its module, each text once.
fn licences(root: &Path, host: &str) -> Result<String> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let metadata: Value = serde_json::from_slice(&succeed(cargo().args(arguments).current_dir(root))?)?;
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in linked(&metadata)? {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let entry = format!("{} {} ({})", text("name"), text("version"), text("license"));
        let manifest = PathBuf::from(text("manifest_path"));
        let mut files = licence_files(manifest.parent().context("a manifest is in a folder")?)?;
        if files.is_empty() {
            // The expression in the manifest is all that such a crate says.
            files.push(format!("Licensed under {}; see {}", text("license"), text("repository")));
        }
        for file in files {
            texts.entry(file).or_default().insert(entry.clone());
        }
    }
    let mut all = String::from("Skein contains the following packages, under the licences below.\n");
    for (licence, packages) in texts {
        let packages: Vec<String> = packages.into_iter().collect();
        all.push_str(&format!("\n{}\n{}\n\n{}\n", "=".repeat(80), packages.join("\n"), licence.trim()));
    }
    Ok(all)
}

/// The packages that the program and its module are linked from, without those of this repository.
fn linked(metadata: &Value) -> Result<Vec<&Value>> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .context("cargo prints a graph")?
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let packages = metadata["packages"].as_array().context("cargo prints packages")?;
    let is_root = |package: &&Value| ["skein", "skein-redis-module"].iter().any(|name| package["name"] == *name);
    let mut open: Vec<String> =
        packages.iter().filter(is_root).filter_map(|package| package["id"].as_str().map(str::to_owned)).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        let Some(node) = nodes.get(id.as_str()) else { continue };
        if !seen.insert(id) {
            continue;
        }
        for dependency in list(&node["deps"]) {
            let is_linked = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            open.extend(dependency["pkg"].as_str().filter(|_| is_linked).map(str::to_owned));
        }
    }
    let is_foreign =
        |package: &&Value| !package["source"].is_null() && package["id"].as_str().is_some_and(|id| seen.contains(id));
    Ok(packages.iter().filter(is_foreign).collect())
}

/// The texts of a package's licences.
fn licence_files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && ["LICENSE", "LICENCE", "COPYING", "NOTICE"].iter().any(|start| name.starts_with(start)) {
            found.push(String::from_utf8_lossy(&fs::read(&path)?).replace("\r\n", "\n"));
        }
    }
    found.sort();
    Ok(found)
}

/// The digests of all files in a folder, as `sha256sum` prints them.
fn sums(folder: &Path) -> Result<String> {
    let mut paths = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { paths.push(path) }
        }
    }
    paths.sort();
    let line = |path: &PathBuf| Ok(format!("{}  {}\n", digest(path)?, path.strip_prefix(folder)?.display()));
    paths.iter().map(line).collect()
}

fn digest(path: &Path) -> Result<String> {
    Ok(hex::encode(Sha256::digest(fs::read(path)?)))
}
