//! The archive of a release runs on a machine without a toolchain.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{root, state_hash};

/// Cargo, without the variables that it set for this test: they would rerun build scripts.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    let own = std::env::vars_os().map(|(key, _)| key);
    for key in own.filter(|key| key.to_string_lossy().starts_with("CARGO_")) {
        command.env_remove(key);
    }
    command.args(arguments).current_dir(root());
    command
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn the_archive_trains_in_an_empty_home() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let out = path("dist");
    let packed = succeeds(&mut cargo(&["xtask", "dist", "--out", out.to_str().unwrap()]));
    let packed: Value = serde_json::from_slice(&packed.stdout).unwrap();
    let archive = Path::new(packed["archive"].as_str().unwrap());
    let name = packed["folder"].as_str().unwrap();
    succeeds(Command::new("sha256sum").arg("-c").arg(format!("{name}.tar.gz.sha256")).current_dir(&out));

    let home = path("home");
    std::fs::create_dir(&home).unwrap();
    succeeds(Command::new("tar").arg("-xzf").arg(archive).current_dir(&home));
    let folder = home.join(name);
    succeeds(Command::new("sha256sum").args(["--strict", "-c", "SHA256SUMS"]).current_dir(&folder));
    let skein = |arguments: &[&str]| {
        let mut command = Command::new(folder.join("skein"));
        succeeds(command.args(arguments).env_clear().env("HOME", &home).current_dir(&home)).stdout
    };
    let summary: Value = serde_json::from_slice(&skein(&["demo", "--rounds", "20", "-o", "json"])).unwrap();
    assert_eq!(summary["rounds"], 20);
    state_hash(&summary);
    assert!(String::from_utf8(skein(&["--version"])).unwrap().contains("commit "));

    // A manifest of README, a page with its picture, and what a function of one's own is built from.
    let manifest = folder.join("runtime-config/digits.toml");
    let trained = skein(&["train", "--from", manifest.to_str().unwrap(), "--rounds", "2", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&trained).unwrap()["rounds"], 2);
    let pages = ["README.md", "ARCHITECTURE.md", "docs/README.md", "docs/functions.md", "docs/round.svg"];
    let interfaces = ["wit/worlds.wit", "wit/deps/wasi-nn/wasi-nn.wit", "host/job/data/digits.csv.gz"];
    for file in pages.into_iter().chain(interfaces) {
        assert!(folder.join(file).exists(), "the archive lacks {file}");
    }

    let holds = |file: &str, text: &str| {
        let content = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(content.contains(text), "{file} lacks {text:?}");
    };
    holds("completions/skein.bash", "skein");
    holds("completions/_skein", "skein");
    holds("completions/skein.fish", "skein");
    holds("LICENSE", "Licen");
    for package in ["wasmtime 48", "rten 0", "redis 1", "Apache License"] {
        holds("THIRD-PARTY-LICENSES.txt", package);
    }
    assert!(folder.join("libskein_redis_module.so").exists(), "beside the program, where it looks for it");
}
