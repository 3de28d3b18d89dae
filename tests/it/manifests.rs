//! Checked-in manifests, the schema, and the small commands.

use std::fs;
use std::path::Path;

use skein_job::manifest::{self, Manifest};
use skein_peer::host::config::Config;

use crate::harness::{Place, root};

#[test]
fn every_configuration_in_runtime_config_is_valid() {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("runtime-config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            if path.file_stem().unwrap() == "host" {
                assert_eq!(Config::load(&path).unwrap().roster.len(), 4);
            } else {
                drop(Manifest::load(&path).unwrap_or_else(|error| panic!("{error}")));
            }
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    assert_eq!(names, ["cifar10.toml", "digits.toml", "host.toml", "mnist.toml"]);
}

/// The checked-in manifest describes the same job as `skein demo`.
#[test]
fn the_digits_manifest_trains_as_the_demo_does() {
    let place = Place::new();
    let manifest = root().join("runtime-config/digits.toml");
    let summary = place.json(&["train", "-f", manifest.to_str().unwrap(), "--rounds", "15"]);
    let demo = place.json(&["demo", "--rounds", "15"]);
    assert_eq!((&summary["job"], &summary["state_hashes"]), (&demo["job"], &demo["state_hashes"]));
}

/// The schema is kept beside the manifests for editors; `skein schema` prints it.
#[test]
fn the_schema_is_current() {
    let printed = Place::new().run(&["schema"]).stdout;
    let kept = fs::read_to_string(root().join("runtime-config/skein.schema.json")).unwrap();
    assert!(printed == kept, "run `skein schema > runtime-config/skein.schema.json`");
    let schema = manifest::schema();
    for section in ["application", "model", "data", "train", "function"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn paths_are_relative_to_the_manifest() {
    let place = Place::new();
    place.write("jobs/data/a.csv", "1,2,0\n2,1,1\n".repeat(100));
    place.write(
        "jobs/skein.toml",
        "skein_manifest_version = 1\n[application]\nname = \"a\"\n[data]\nsource = \"data/a.csv\"\n[train]\nrounds = 2\n",
    );
    assert_eq!(place.json(&["train", "-f", "jobs/skein.toml"])["rounds"], 2);
}

#[test]
fn the_small_commands_work() {
    let place = Place::new();
    let version = place.run(&["--version"]).stdout;
    assert!(version.starts_with(&format!("skein {} (commit ", env!("CARGO_PKG_VERSION"))), "{version}");
    for engine in ["wasmtime 48.", "rten 0.", "onnxruntime 1.", "openvino 20"] {
        assert!(version.contains(engine), "{version}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.run(&["completions", shell]).stdout.contains("concurrency"), "{shell}");
    }
    let help = place.run(&["train", "--help"]).stdout;
    for option in ["--from", "--resume", "--peers", "--seed", "--concurrency", "--out", "--output"] {
        assert!(help.contains(option), "{option}");
    }
    assert!(Path::new(env!("CARGO_BIN_EXE_skein")).exists());
}
