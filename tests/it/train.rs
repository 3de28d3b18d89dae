//! `skein train` and `skein eval`: resuming, convergence, functions, shares.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skein_kernels::optimizer::OPTIMIZERS;
use skein_kernels::rules::RULES;

use crate::harness::{Place, dist, state_hash};

/// A job with all state that a checkpoint must store.
const MEMORABLE: &str = "[model]\nhidden = [16]\n[train]\nrounds = 40\nevaluate_every = 3\nclip_norm = 1.0\n\
    optimizer = { name = \"adam\" }\nlearning_rate = 0.01\nreduce_on_plateau = { patience = 0, factor = 0.5, min_delta = 0.1 }\n";

fn metrics(place: &Place, dir: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.path(dir).join("metrics.jsonl")).unwrap();
    // The last line of a run that was killed may be cut short.
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// The lines without the fields that depend on time.
fn timeless(lines: Vec<Value>) -> Vec<Value> {
    let strip = |mut line: Value| {
        line.as_object_mut().unwrap().retain(|key, _| key != "phase_ms" && key != "elapsed_ms");
        line
    };
    lines.into_iter().map(strip).collect()
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    let place = Place::new();
    place.job(MEMORABLE);
    let unbroken = place.json(&["train", "--out", "unbroken"]);
    // The last stop is after the first drop of the learning rate.
    for stop in ["1", "17", "38"] {
        place.json(&["train", "--out", stop, "--rounds", stop]);
        let resumed = place.json(&["train", "--out", stop, "--resume"]);
        assert_eq!(state_hash(&resumed), state_hash(&unbroken), "stopped after {stop}");
        assert_eq!(timeless(metrics(&place, stop)), timeless(metrics(&place, "unbroken")));
        assert_eq!(resumed["learning_rate"], unbroken["learning_rate"]);
        assert_eq!(resumed["validation"], unbroken["validation"]);
    }
    let rates: Vec<_> =
        metrics(&place, "unbroken").iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect();
    assert!(rates.is_sorted_by(|a, b| a >= b) && rates[39] < rates[0], "the rate dropped on a plateau: {rates:?}");
}

/// Invariant 8: a real signal in the middle of a run, twice, and no applied round is lost.
#[test]
fn a_killed_run_resumes_from_its_last_round() {
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let place = Place::new();
        place.job("[model]\nhidden = [16]\n");
        for resume in [&[][..], &["--resume"]] {
            let arguments = [&["train", "--out", "run", "--rounds", "1000000"], resume].concat();
            let mut child = place.start(&arguments, 300);
            kill_process(Pid::from_child(&child), signal).unwrap();
            assert!(!child.wait().unwrap().success());
        }
        let applied = metrics(&place, "run").last().unwrap()["round"].as_u64().unwrap();
        assert!(applied > 10, "{applied} rounds were applied");
        let rounds = (applied + 5).to_string();
        let resumed = place.json(&["train", "--out", "run", "--rounds", &rounds, "--resume"]);
        let unbroken = place.json(&["train", "--rounds", &rounds]);
        assert_eq!(state_hash(&resumed), state_hash(&unbroken), "after {signal:?}");
        let lines: Vec<_> = metrics(&place, "run").iter().map(|line| line["round"].as_u64().unwrap()).collect();
        assert_eq!(lines, (1..=applied + 5).collect::<Vec<_>>(), "every round once");
    }
}

#[test]
fn checkpoints_of_another_job_and_existing_runs_are_left_alone() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\n");
    place.json(&["train", "--out", "run"]);
    let before = std::fs::read(place.path("run/checkpoint.safetensors")).unwrap();
    for (arguments, expected) in [
        (&["train", "--out", "run"][..], "continue with `--resume`"),
        (&["train", "--out", "run", "--resume", "--seed", "2"], "of another job: `train.seed` is 2 here and 1 in the"),
        (
            &["train", "--out", "run", "--resume", "--peers", "3"],
            "of another run of this job: `roster.3.id` is not set here",
        ),
        (
            &["train", "--out", "run", "--resume", "--run", "7"],
            "of another run of this job: `run` is 7 here and 0 in the",
        ),
        (&["eval", "--checkpoint", "run", "--seed", "2"], "of another job: `train.seed` is 2 here and 1 in the"),
        (&["train", "--out", "elsewhere", "--resume"], "failed to read the checkpoint"),
    ] {
        let error = place.fails(arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert_eq!(std::fs::read(place.path("run/checkpoint.safetensors")).unwrap(), before);
    }
}

/// The metadata of a run's checkpoint.
fn checkpoint_metadata(place: &Place, dir: &str) -> Value {
    let bytes = std::fs::read(place.path(&format!("{dir}/checkpoint.safetensors"))).unwrap();
    let (len, rest) = bytes.split_first_chunk().unwrap();
    let header: Value = serde_json::from_slice(&rest[..u64::from_le_bytes(*len) as usize]).unwrap();
    header["__metadata__"].clone()
}

#[test]
fn runs_of_one_job_have_one_result_and_ids_of_their_own() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\n");
    let first = place.json(&["train", "--out", "first"]);
    let second = place.json(&["train", "--out", "second", "--run", "1"]);
    assert_eq!(state_hash(&first), state_hash(&second));
    assert_eq!(first["job"], second["job"]);
    assert_ne!(first["run"], second["run"]);
    for (dir, summary) in [("first", &first), ("second", &second)] {
        let metadata = checkpoint_metadata(&place, dir);
        assert_eq!(metadata["job"], summary["job"]);
        assert_eq!(metadata["run"], summary["run"]);
        assert_eq!(metadata["lineage"], "[]");
    }
    // Neither how long it trains nor how long it waits makes another job.
    place.job("[train]\nrounds = 4\nwait = { min = \"2s\", max = \"3m\" }\n");
    assert_eq!(place.json(&["train"])["job"], first["job"]);
}

#[test]
fn a_checkpoint_is_continued_under_other_settings_as_a_new_run() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\n");
    let before = place.json(&["train", "--out", "run"]);
    place.job("[train]\nrounds = 5\nlearning_rate = 0.01\noptimizer = { name = \"adam\" }\n");
    let error = place.fails(&["train", "--out", "run", "--resume"]);
    for words in [
        "`train.learning_rate` is 0.01 here and 0.05 in the checkpoint",
        "`train.optimizer.name` is `adam` here and `momentum` in the checkpoint",
        "--with-changes",
    ] {
        assert!(error.contains(words), "{error}");
    }
    let after = place.json(&["train", "--out", "run", "--resume", "--with-changes"]);
    assert_eq!(after["rounds"], 5);
    assert_eq!(after["rounds_run"], 2);
    assert_eq!(after["learning_rate"], 0.01);
    let metadata = checkpoint_metadata(&place, "run");
    assert_eq!(metadata["run"], after["run"]);
    assert!(metadata["manifest"].as_str().unwrap().contains("learning_rate = 0.01"), "{metadata}");
    let lineage: Value = serde_json::from_str(metadata["lineage"].as_str().unwrap()).unwrap();
    assert_eq!(lineage, serde_json::json!([{ "run": before["run"], "job": before["job"], "round": 3 }]));
    // From there it resumes as any other run.
    assert_eq!(place.json(&["train", "--out", "run", "--resume", "--rounds", "6"])["rounds_run"], 1);
}

/// A limit on the size of files makes writes fail, as a full disk does.
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one_intact() {
    let place = Place::new();
    place.job("[model]\nhidden = [4096]\n[train]\nrounds = 4\n");
    place.json(&["train", "--out", "run", "--rounds", "2"]);
    let before = std::fs::read(place.path("run/checkpoint.safetensors")).unwrap();
    // 512-byte blocks: less than the 2.4 MB of the checkpoint, more than the images of the guests' memory. The limit's
    // signal is ignored.
    let finished = place.run_after("trap '' XFSZ; ulimit -f 4000", &["train", "--out", "run", "--resume"]);
    assert!(!finished.success);
    assert!(
        finished.stderr.contains("failed to write the checkpoint `run/checkpoint.safetensors`"),
        "{}",
        finished.stderr
    );
    assert_eq!(std::fs::read(place.path("run/checkpoint.safetensors")).unwrap(), before);
    let files: Vec<_> = std::fs::read_dir(place.path("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "no partial file remains: {files:?}");
    assert_eq!(place.json(&["train", "--out", "run", "--resume"])["rounds"], 4);
}

#[test]
fn training_stops_early_when_the_loss_no_longer_falls() {
    let place = Place::new();
    place.job("[train]\nrounds = 1000\nlearning_rate = 3.0\nevaluate_every = 2\nearly_stopping = { patience = 2 }\n");
    let summary = place.json(&["train"]);
    assert_eq!(summary["stopped_early"], true);
    assert!(summary["rounds"].as_u64().unwrap() < 1000);
    state_hash(&summary);
}

#[test]
fn every_rule_and_optimizer_trains() {
    let functions: BTreeSet<&str> = RULES.into_iter().map(|kind| kind.function).collect();
    for aggregate in functions {
        let place = Place::new();
        let train = format!("[train]\npeers = 5\nrounds = 150\naggregate = \"{aggregate}\"\n");
        place.job(&format!("[model]\nhidden = [16]\n{train}"));
        let accuracy = place.json(&["train"])["validation_accuracy"].as_f64().unwrap();
        assert!(accuracy >= 0.9, "{aggregate}: {accuracy}");
    }
    for optimizer in OPTIMIZERS.map(|kind| kind.name) {
        let rate = match optimizer {
            "sgd" => 0.5,
            "momentum" | "nesterov" => 0.1,
            "adam" | "adamw" => 0.01,
            other => panic!("add a learning rate with which `{other}` trains"),
        };
        let place = Place::new();
        let train =
            format!("[train]\nrounds = 150\nlearning_rate = {rate}\noptimizer = {{ name = \"{optimizer}\" }}\n");
        place.job(&train);
        let accuracy = place.json(&["train"])["validation_accuracy"].as_f64().unwrap();
        assert!(accuracy >= 0.9, "{optimizer}: {accuracy}");
    }
}

#[test]
fn a_users_function_runs_like_a_built_in_one() {
    let place = Place::new();
    std::fs::copy(dist("aggregate-mean"), place.path("mine.wasm")).unwrap();
    let function = "[train]\nrounds = 20\naggregate = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n";
    place.job(function);
    let mine = place.json(&["train"]);
    place.job("[train]\nrounds = 20\naggregate = \"aggregate-mean\"\n");
    assert_eq!(state_hash(&mine), state_hash(&place.json(&["train"])));

    let digest = mine["functions"][1]["digest"].as_str().unwrap();
    place.job(&format!("{function}digest = \"{digest}\"\n[function.mine.settings]\nweighted = \"true\"\n"));
    assert_eq!(place.json(&["train"])["functions"][1]["name"], "mine");
}

#[test]
fn evaluation_agrees_with_the_summary_of_training() {
    let place = Place::new();
    place.job_on("source = \"builtin:digits\"\ntest_samples = 200\n", "[train]\nrounds = 60\n");
    let summary = place.json(&["train", "--out", "run"]);
    for checkpoint in ["run", "run/checkpoint.safetensors"] {
        let eval = place.json(&["eval", "--checkpoint", checkpoint]);
        assert_eq!(eval["validation"], summary["validation"]);
        assert_eq!(eval["test"], summary["test"]);
        assert_eq!(eval["test"]["samples"], 200);
        assert_eq!(eval["state_hash"].as_str().unwrap(), state_hash(&summary));
    }
    let text = place.run(&["eval", "--checkpoint", "run"]).stdout;
    assert!(text.contains("test        accuracy"), "{text}");
}

/// All four peers have folders; then too few folders, or folders of another shape than the shared data, are refused.
#[test]
fn peers_may_own_folders() {
    let place = Place::new();
    for peer in 0..4u32 {
        // In an image of digit `label`, only that pixel is bright, with a brightness per peer.
        let line = |sample: u32| {
            let label = sample % 10;
            let pixels = (0..64).map(|pixel| if pixel == label { (8 + peer).to_string() } else { "0".into() });
            format!("{},{label}\n", pixels.collect::<Vec<String>>().join(","))
        };
        place.write(&format!("peer{peer}/samples.csv"), (0..60).map(line).collect::<String>());
    }
    let train = "[train]\nrounds = 60\nbatch_size = 10\n";
    let folders =
        |count: usize| format!("local = {:?}\nscale = 16.0\n", &["peer0", "peer1", "peer2", "peer3"][..count]);
    place.job_on(&folders(4), train);
    let summary = place.json(&["train"]);
    assert_eq!(summary["validation"]["samples"], 4 * 6, "a tenth of each folder");
    assert!(summary["validation_accuracy"].as_f64().unwrap() > 0.9, "{summary}");
    state_hash(&summary);

    place.job_on(&format!("{}source = \"builtin:digits\"\n", folders(2)), train);
    let error = place.fails(&["train"]);
    assert!(error.contains("peer 2 has samples of shape [1, 8, 8], the data of peer 0 has [64]"), "{error}");
    place.job_on(&folders(3), train);
    assert!(place.fails(&["train"]).contains("not every peer has a folder"));
}
