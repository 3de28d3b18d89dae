//! Options that mean the same on every command: formats, files, engines, and values in place of the manifest's.

use std::io::Read;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Place, state_hash};

const COMMANDS: [&[&str]; 19] = [
    &["demo"],
    &["train"],
    &["up"],
    &["host"],
    &["worker"],
    &["eval"],
    &["bench", "gradient"],
    &["queue", "dead"],
    &["identity"],
    &["redis", "run"],
    &["export"],
    &["status"],
    &["data", "inspect"],
    &["model", "check"],
    &["model", "train-graph"],
    &["model", "inspect"],
    &["function", "check"],
    &["bench", "store"],
    &["schema"],
];
/// How many of the commands compute: the first ones.
const COMPUTING: usize = 7;

#[test]
fn only_commands_that_compute_have_options_of_engines() {
    let place = Place::new();
    for (index, command) in COMMANDS.into_iter().enumerate() {
        let help = place.run(&[command, &["--help"]].concat());
        assert!(help.success, "{command:?}: {}", help.stderr);
        for option in
            ["--engine ", "--engine-library ", "--engine-threads ", "--device ", "--concurrency ", "--cache-dir "]
        {
            // They compile a graph or a function, and compute nothing.
            let compiles = match command {
                ["model", "check"] => ["--engine ", "--engine-library "].contains(&option),
                ["function", "check"] => option == "--cache-dir ",
                _ => false,
            };
            assert_eq!(help.stdout.contains(option), index < COMPUTING || compiles, "{command:?} {option}");
        }
        assert!(help.stdout.contains("--output"), "{command:?}");
    }
    let error = place.fails(&["schema", "--engine", "rten"]);
    assert!(error.contains("unexpected argument '--engine' found"), "{error}");
}

#[test]
fn what_has_another_name_now_is_answered_with_it() {
    let place = Place::new();
    for (arguments, expected) in [
        (&["model", "add", "small.onnx", "-o", "json"][..], "`skein model add` is `skein model check` now"),
        (
            &["model", "train-graph", "small.onnx", "--out", "train.onnx"],
            "use `--to` for a file: `--out` names a folder",
        ),
        (
            &["model", "train-graph", "small.onnx", "-o", "train.onnx"],
            "invalid value 'train.onnx' for '--output <FORMAT>': expected `human` or `json`; name a file to write with `--to`",
        ),
        (&["model", "train-graph", "small.onnx"], "--to <FILE>"),
        (&["model", "inspect", "small.onnx", "-o", "x.onnx"], "name a file to write with `--to`"),
    ] {
        let error = place.fails(arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let version = |format: &str| place.run(&["engine", "list", "-o", format]).stdout;
    assert_eq!(version("human"), version("text"), "the name of this format was once `text`");
}

#[test]
fn a_value_can_be_set_in_place_of_the_manifests() {
    let place = Place::new();
    let job = "[model]\nhidden = [16]\n[train]\nrounds = 3\n";
    place.job(&format!("{job}learning_rate = 0.5\noptimizer = {{ name = \"adam\", beta1 = 0.8 }}\n"));
    let expected = place.json(&["train"]);
    place.job(job);
    let sets = ["--set", "train.learning_rate=0.5", "--set", "train.optimizer={ name = \"adam\", beta1 = 0.8 }"];
    let set = place.json(&[&["train", "--out", "run"], &sets[..]].concat());
    assert_eq!((&set["job"], state_hash(&set)), (&expected["job"], state_hash(&expected)));
    // The checkpoint belongs to the job with these values.
    assert!(
        place.fails(&["eval", "--checkpoint", "run"]).contains("`train.learning_rate` is 0.05 here and 0.5 in the")
    );
    place.json(&[&["eval", "--checkpoint", "run"], &sets[..]].concat());
    place.json(&[&["export", "--checkpoint", "run", "--to", "x.safetensors"], &sets[..]].concat());
    place.json(&[&["train", "--out", "run", "--resume", "--rounds", "4"], &sets[..]].concat());
    let bytes = std::fs::read(place.path("run/checkpoint.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let manifest = &metadata.metadata().as_ref().unwrap()["manifest"];
    assert!(manifest.contains("learning_rate = 0.5\n") && manifest.contains("name = \"adam\"\n"), "{manifest}");
    // `--set` comes after the options for single values, and after `--model`, which clears the others of its table.
    let summary = place.json(&[
        "train",
        "--rounds",
        "9",
        "--model",
        "mlp",
        "--set",
        "train.rounds=2",
        "--set",
        "model.hidden=[8]",
    ]);
    assert_eq!(summary["rounds"], 2);
    assert_eq!(summary["parameters"], 64 * 8 + 8 + 8 * 10 + 10);
}

#[test]
fn a_bad_value_is_refused_as_in_a_file_with_the_option_that_set_it() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\n");
    for (arguments, expected) in [
        (&["--set", "train.lr=0.1"][..], "error: `--set train.lr=0.1`: unknown field `lr`, expected one of "),
        (&["--set", "train.lr=0.1"], "; did you mean `learning_rate`?\n"),
        (&["--set", "train.epochs=3"], "; did you mean `rounds`?\n"),
        (&["--set", "train.batch=3"], "; did you mean `batch_size`?\n"),
        (&["--set", "train.optimizer.name=rmsprop"], "; did you mean `adam`?\n"),
        (
            &["--set", "train.rounds=2", "--set", "train.rounds=0"],
            "error: `--set train.rounds=0`: `train.rounds` must be between 1 and 18446744073709551615, got 0\n",
        ),
        (&["--peers", "0"], "error: `--peers 0`: `train.peers` must be between 1 and 500, got 0\n"),
        (
            &["--set", "application.name=3"],
            "error: `--set application.name=3`: `application.name` must be text, got the number 3: write `--set \
             'application.name=\"3\"'`\n",
        ),
        (&["--set", "data.source.path=x"], "error: `--set data.source.path=x`: `source` is not a table\n"),
        (&["--set", "train.rounds"], "expected a key and a value, such as `train.learning_rate=0.05`"),
        (&["--set", "train.optimizer={"], "`{` is not a TOML value: "),
    ] {
        for command in [&["train"][..], &["eval", "--checkpoint", "run"], &["up"]] {
            let error = place.fails(&[command, arguments].concat());
            assert!(error.contains(expected), "{command:?} {arguments:?}: {error}");
        }
    }
    for command in [&["model", "check", "--from", "skein.toml"][..], &["data", "inspect", "--from", "skein.toml"]] {
        let error = place.fails(&[command, &["--set", "train.lr=0.1"]].concat());
        assert!(error.contains("`--set train.lr=0.1`: unknown field `lr`"), "{command:?}: {error}");
    }
    // The file's own problem has its place in the file.
    place.job("[train]\nbatchsize = 3\n");
    let error = place.fails(&["train", "--set", "train.rounds=2"]);
    assert!(error.contains("`skein.toml` is not a valid manifest: TOML parse error at line 7"), "{error}");
}

/// Runs the program until its first round, interrupts it, and returns its standard error.
fn interrupted(place: &Place, arguments: &[&str]) -> String {
    let mut command = place.command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains("round ") {
        let length = stderr.read(&mut buffer).unwrap();
        assert!(length > 0, "the program has ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..length]);
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    stderr.read_to_end(&mut text).unwrap();
    assert!(!child.wait().unwrap().success());
    String::from_utf8(text).unwrap()
}

#[test]
fn the_hint_to_resume_repeats_what_was_set() {
    let place = Place::new();
    place.job("[model]\nhidden = [16]\n");
    let optimizer = "train.optimizer={ name = \"adam\" }";
    let arguments =
        ["train", "--out", "my run", "--run", "3", "--peers", "3", "--set", "train.rounds=1000000", "--set", optimizer];
    let text = interrupted(&place, &arguments);
    let expected = ": continue with `--resume --out 'my run' --peers 3 --set train.rounds=1000000 --set \
                    'train.optimizer={ name = \"adam\" }' --run 3`\n";
    assert!(text.ends_with(expected), "{text}");
    // The shell reads them as they were given.
    let hint = text.rsplit_once("continue with `").unwrap().1.trim_end().trim_end_matches('`');
    let hint = hint.replace("1000000", "1");
    let resumed = place.run_after(&format!("set -- \"$1\" train {hint}"), &[]);
    assert!(resumed.success, "{}", resumed.stderr);
}
