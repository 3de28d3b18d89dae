//! Chores find what cargo built, wherever it was told to put it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::target::target_folder;

/// Chores once assumed `target` of the repository, and ran what an earlier build had left there.
#[test]
fn the_folder_of_builds_is_the_one_that_cargo_uses() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("src/lib.rs"), "").unwrap();
    fs::write(root.join("Cargo.toml"), "[package]\nname = \"empty\"\n[workspace]\n").unwrap();
    // Without the configuration of this machine.
    let home = tempfile::tempdir().unwrap();
    let folder = |variable: Option<&Path>| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.env("CARGO_HOME", home.path()).env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
        cargo.envs(variable.map(|value| ("CARGO_TARGET_DIR", value)));
        target_folder(&mut cargo, &root).unwrap()
    };
    assert_eq!(folder(None), root.join("target"));
    fs::create_dir(root.join(".cargo")).unwrap();
    fs::write(root.join(".cargo/config.toml"), "[build]\ntarget-dir = \"configured\"\n").unwrap();
    assert_eq!(folder(None), root.join("configured"));
    assert_eq!(folder(Some(Path::new("/elsewhere"))), Path::new("/elsewhere"));
}
