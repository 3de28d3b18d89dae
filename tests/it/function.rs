//! `skein function check`: says of a component what a host would, in the same words.

use std::fs;

use serde_json::{Value, json};
use skein_job::manifest::function::BUILTINS;

use crate::components::aggregation;
use crate::harness::{Place, dist, root};

/// Most that a file may have, with the default options.
const BYTES_MAX: u64 = 64 << 20;

/// Runs the check with JSON output, whether or not it succeeds.
fn check(place: &Place, arguments: &[&str]) -> (Value, bool) {
    let finished = place.run(&[&["function", "check", "-o", "json"], arguments].concat());
    let printed = serde_json::from_str(&finished.stdout);
    (printed.unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr)), finished.success)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

#[test]
fn the_functions_that_come_with_the_program_are_accepted() {
    let place = Place::new();
    for (name, bytes) in BUILTINS {
        let (checked, success) = check(&place, &[&format!("builtin:{name}")]);
        assert!(success && checked["accepted"] == true && checked["error"].is_null(), "{name}: {checked}");
        let is_gradient = name.starts_with("gradient-");
        assert_eq!(checked["world"], if is_gradient { "gradient" } else { "aggregate" }, "{name}");
        assert_eq!(checked["package"], "skein:train@0.1.0", "{name}");
        let export = if is_gradient { "gradients" } else { "aggregation" };
        assert_eq!(checked["exports"], json!([format!("skein:train/{export}@0.1.0")]), "{name}");
        assert_eq!(checked["bytes"], bytes.len(), "{name}");
        assert_eq!(checked["bytes_max"], BYTES_MAX, "{name}");
        assert_eq!(checked["digest"], skein_runtime::digest(bytes), "{name}");
        let imports = names(&checked["imports"]);
        let is_own = |name: &str| name.starts_with("skein:train/") || (is_gradient && name.starts_with("wasi:nn/"));
        assert!(!imports.is_empty() && imports.iter().all(|name| is_own(name)), "{name}: {imports:?}");
        assert!(checked["memory_bytes_peak"].as_u64().unwrap() >= 1 << 16, "{name}: {checked}");
        assert_eq!(checked["pool"]["memories"], 1, "{name}: {checked}");
    }
}

#[test]
fn a_check_tells_whether_the_component_was_compiled_before() {
    let place = Place::new();
    let arguments = ["builtin:aggregate-mean", "--cache-dir", "cache"];
    for (more, cached) in [(&[][..], false), (&[], true), (&["--no-cache"], false)] {
        let (checked, _) = check(&place, &[&arguments, more].concat());
        assert_eq!(checked["cached"], cached, "{more:?}: {checked}");
        assert!(checked["load_ms"].as_f64().unwrap() > 0.0, "{checked}");
    }
    let text = place.run(&["function", "check", "builtin:aggregate-mean", "--cache-dir", "cache"]).stdout;
    for line in [
        "function    builtin:aggregate-mean\n",
        "world       aggregate of skein:train@0.1.0\n",
        "import      skein:train/contributions@0.1.0  provided\n",
        "export      skein:train/aggregation@0.1.0\n",
        "code        compiled before, loaded in ",
        "memories    1 of at most 32\n",
        "accepted    yes\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

/// What a language's start-up imports is there, and has nothing in it.
#[test]
fn imports_of_wasi_are_provided_with_reservations() {
    let place = Place::new();
    let file = root().join("tests/data/docs/aggregate_clipped.wasm");
    let (checked, success) = check(&place, &[file.to_str().unwrap()]);
    assert!(success, "{checked}");
    let imports = checked["imports"].as_array().unwrap();
    assert!(imports.iter().all(|import| import["provided"] == true), "{checked}");
    let of = |name: &str| {
        let found = imports.iter().find(|import| import["name"].as_str().unwrap().starts_with(name));
        found.unwrap_or_else(|| panic!("{name}: {checked}"))["reservation"].clone()
    };
    assert_eq!(of("wasi:cli/environment@"), "no arguments and no environment");
    assert_eq!(of("wasi:cli/terminal-input@"), "no terminal");
    assert!(of("skein:train/contributions@").is_null(), "{checked}");
}

fn memories(count: usize, pages: usize) -> String {
    (0..count).map(|index| format!("(memory $m{index} {pages})")).collect()
}

#[test]
fn a_call_that_only_instantiates_is_measured() {
    let place = Place::new();
    place.write("mine.wasm", aggregation("", &memories(3, 16), ""));
    let (checked, success) = check(&place, &["mine.wasm"]);
    assert!(success, "{checked}");
    assert_eq!(checked["pool"]["memories"], 4);
    assert_eq!(checked["memory_bytes_peak"], (2 + 3 * 16) << 16, "the memories, and no table");
    assert_eq!(checked["pool_max"], json!({ "core_instances": 200, "memories": 32, "tables": 64 }));
}

/// A bad component: what it is, its bytes, and what the error says.
struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    expected: &'static str,
    /// What is known of it nonetheless.
    known: fn(&Value) -> bool,
}

impl Case {
    fn new(what: &'static str, bytes: Vec<u8>, expected: &'static str) -> Case {
        Case { what, bytes, expected, known: |checked| checked["imports"].is_null() }
    }

    fn known(self, known: fn(&Value) -> bool) -> Case {
        Case { known, ..self }
    }
}

/// Refused by a host before its first call.
fn refused_when_loaded(place: &Place) -> Vec<Case> {
    let mean = fs::read(dist("aggregate-mean")).unwrap();
    place.run(&["function", "check", "builtin:aggregate-mean", "--cache-dir", "cache"]);
    let mut artifacts = fs::read_dir(place.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let native = artifacts.find(|path| path.extension().is_some_and(|extension| extension == "cwasm")).unwrap();
    let http = r#"(import "wasi:http/types@0.2.0" "anything" (func $call))"#;
    vec![
        Case::new(
            "text",
            b"(component)".to_vec(),
            "is not WebAssembly: it does not begin with `\\0asm`; pass the `.wasm`",
        ),
        Case::new("nothing", vec![], "is not WebAssembly"),
        Case::new(
            "a core module",
            fs::read(dist("kernel-digest")).unwrap(),
            "build it for `wasm32-wasip2`, or wrap it",
        ),
        Case::new("native code", fs::read(native).unwrap(), "native code is not accepted, pass the component itself"),
        Case::new("a future header", b"\0asm\x99\0\x01\0".to_vec(), "is not a valid component"),
        Case::new("half a file", mean[..mean.len() / 2].to_vec(), "it may be truncated; build or copy it again: "),
        Case::new(
            "an unknown import",
            aggregation(http, "", "(call $call)"),
            "it imports [\"wasi:http/types@0.2.0\"], which functions of this world do not have: build it without them",
        )
        .known(|checked| {
            let import = json!({ "name": "wasi:http/types@0.2.0", "provided": false, "reservation": null });
            checked["world"] == "aggregate" && checked["imports"].as_array().unwrap().contains(&import)
        }),
        Case::new(
            "more memories than a call may have",
            aggregation("", &memories(40, 1), ""),
            "may have; use fewer, or link its modules into one: module memory does not fit in pooling allocator \
             requirements: defined memories count of 41 exceeds the per-instance limit of 32",
        )
        .known(|checked| checked["world"] == "aggregate" && checked["pool"].is_null()),
    ]
}

#[test]
fn what_a_host_refuses_is_refused_with_the_same_words() {
    let place = Place::new();
    // The file has the name of the function, which errors name.
    place.job("[train]\nrounds = 1\naggregate = \"mine\"\n[function.mine]\nsource = \"mine\"\n");
    for Case { what, bytes, expected, known } in refused_when_loaded(&place) {
        place.write("mine", bytes);
        let finished = place.run(&["function", "check", "mine"]);
        assert!(!finished.success, "{what}: {}", finished.stdout);
        let error = finished.stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap();
        assert!(error.contains("function `mine` ") && error.contains(expected), "{what}: {error}");
        assert!(finished.stdout.ends_with("accepted    no\n"), "{what}: {}", finished.stdout);
        let training = place.fails(&["train"]);
        assert!(training.contains(error), "{what}: {training}{error}");
        let (checked, success) = check(&place, &["mine"]);
        assert!(
            !success && checked["accepted"] == false && checked["error"].as_str().unwrap().starts_with(error),
            "{checked}"
        );
        assert_eq!(checked["bytes"], fs::metadata(place.path("mine")).unwrap().len(), "{what}");
        assert!(known(&checked), "{what}: {checked}");
    }
}

#[test]
fn what_no_job_could_use_is_refused() {
    let place = Place::new();
    for (what, bytes, options, expected) in [
        (
            "a component without exports",
            b"\0asm\x0d\0\x01\0".to_vec(),
            &[][..],
            "function `mine.wasm` does not implement a world of `skein:train@0.1.0`: it exports [], expected \
             `skein:train/gradients@0.1.0` (world `gradient`) or `skein:train/aggregation@0.1.0` (world `aggregate`): generate",
        ),
        (
            "a trap at the start",
            aggregation("", "(func $boom unreachable) (start $boom)", ""),
            &[],
            "function `mine.wasm` fails while it is instantiated, before a host calls it: mend what its modules do at their \
             start: function `mine.wasm` trapped: wasm trap: wasm `unreachable` instruction executed\n  in boom",
        ),
        (
            "much memory at the start",
            aggregation("", &memories(1, 32), ""),
            &["--memory-mib", "1"],
            "before a host calls it: raise that limit in `[function.<name>.limits]`, or have it need less at its start: \
             function `mine.wasm` hit its limit `memory_mib = 1`",
        ),
    ] {
        place.write("mine.wasm", bytes);
        let arguments = [&["mine.wasm"], options].concat();
        let (checked, success) = check(&place, &arguments);
        assert!(!success && checked["accepted"] == false, "{what}: {checked}");
        assert!(checked["error"].as_str().unwrap().contains(expected), "{what}: {checked}");
    }
    place.write("mine.wasm", aggregation("", &memories(1, 32), ""));
    assert!(check(&place, &["mine.wasm"]).1, "the default limit is enough");
}

#[test]
fn what_cannot_be_read_or_is_too_large_is_refused() {
    let place = Place::new();
    fs::File::create(place.path("large.wasm")).unwrap().set_len(BYTES_MAX + 4096).unwrap();
    place.write("folder/file", "");
    for (file, expected) in [
        ("large.wasm", "function `large.wasm` has 67112960 bytes, at most 67108864 are accepted: build it for release"),
        ("absent.wasm", "failed to read `absent.wasm`: No such file or directory"),
        ("folder", "failed to read `folder`: Is a directory"),
        ("/dev/zero", "function `/dev/zero` has 67108865 bytes, at most 67108864 are accepted"),
        ("builtin:agregate-mean", "no such function comes with this program; did you mean `aggregate-mean`?"),
        ("builtin:other", "no such function comes with this program; choose one of `gradient-onnx`, "),
    ] {
        let error = place.fails(&["function", "check", file]);
        assert!(error.contains(expected), "{file}: {error}");
        let (checked, success) = check(&place, &[file]);
        assert!(!success && checked["accepted"] == false && checked["file"] == file, "{file}: {checked}");
        assert!(checked["error"].as_str().unwrap().contains(expected), "{file}: {checked}");
    }
}
