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
        line.as_object_mut().unwrap().retain(|key, _| !["phase_ms", "elapsed_ms", "wall_ms"].contains(&key.as_str()));
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
        let lines = metrics(&place, "run");
        let rounds = lines.iter().filter(|line| line["final"] != true).map(|line| line["round"].as_u64().unwrap());
        assert_eq!(rounds.collect::<Vec<_>>(), (1..=applied + 5).collect::<Vec<_>>(), "every round once");
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
        (&["train", "--out", "run", "--resume", "--peers", "5"], "of another run of this job: `roster.4.id` is "),
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
    let ancestor = serde_json::json!({
        "run": before["run"], "job": before["job"], "round": 3, "state": before["state_hashes"][0],
    });
    assert_eq!(lineage, serde_json::json!([ancestor]));
    // From there it resumes as any other run.
    let resumed = place.json(&["train", "--out", "run", "--resume", "--rounds", "6"]);
    assert_eq!((&resumed["rounds_run"], &resumed["run"]), (&1.into(), &after["run"]));
    // Records of a run from the first round on have another run id.
    assert_ne!(place.json(&["train"])["run"], after["run"]);
    place.job("[train]\nrounds = 3\n");
    let kept = format!("run/run-{}.safetensors", &before["run"].as_str().unwrap()[..16]);
    assert_eq!(place.json(&["eval", "--checkpoint", &kept])["state_hash"], before["state_hashes"][0]);
}

/// The parameters of a checkpoint, without the optimizer's state.
fn parameters(place: &Place, path: &str) -> Vec<f32> {
    let bytes = std::fs::read(place.path(path)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = tensors.tensors();
    tensors.retain(|(name, _)| !name.starts_with("optimizer."));
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors.iter().flat_map(|(_, tensor)| bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data())).collect()
}

/// Adam's first step moves a parameter by the learning rate, whatever its gradient. Counted from the first round of the
/// whole training instead, the step would be about half as long.
#[test]
fn an_optimizer_that_is_changed_begins_anew_and_one_that_is_tuned_does_not() {
    let place = Place::new();
    place.job("[model]\nhidden = [16]\n[train]\nrounds = 3\n");
    place.json(&["train", "--out", "run"]);
    let continued = |optimizer: &str, rounds: u32| {
        place.job(&format!(
            "[model]\nhidden = [16]\n[train]\nrounds = {rounds}\nlearning_rate = 0.01\noptimizer = {optimizer}\n"
        ));
        place.json(&["train", "--out", "run", "--resume", "--with-changes"]);
        let metadata = checkpoint_metadata(&place, "run");
        let standing = hex::decode(metadata["standing"].as_str().unwrap()).unwrap();
        let (_, standing) = skein_peer::checkpoint::decode_metadata(&standing, rounds.into()).unwrap();
        standing.progress.optimizer_since
    };
    assert_eq!(continued("{ name = \"adam\" }", 4), 3);
    let before = parameters(&place, "run/checkpoint-3.safetensors");
    let after = parameters(&place, "run/checkpoint.safetensors");
    let moved = before.iter().zip(&after).map(|(before, after)| (before - after).abs()).fold(0.0, f32::max);
    assert!((0.0099..0.0101).contains(&moved), "{moved}");
    assert_eq!(continued("{ name = \"adam\", beta2 = 0.9 }", 5), 3);
}

#[test]
fn a_checkpoint_that_cannot_be_continued_is_left_as_it_was() {
    let place = Place::new();
    place.job("[model]\nhidden = [8]\n[train]\nrounds = 3\n");
    place.json(&["train", "--out", "run"]);
    let before = std::fs::read(place.path("run/checkpoint.safetensors")).unwrap();
    for (job, words) in [
        ("[model]\nhidden = [8]\n[train]\nrounds = 3\nlearning_rate = 0.5\n", "is of round 3, and `train.rounds` is 3"),
        (
            "[model]\nhidden = [9]\n[train]\nrounds = 9\n",
            "has `layers.0.weight` as F32 of shape [8, 64], the model has",
        ),
    ] {
        place.job(job);
        let error = place.fails(&["train", "--out", "run", "--resume", "--with-changes"]);
        assert!(error.contains(words), "{error}");
        let error = place.fails(&["train", "--out", "run", "--resume"]);
        assert!(error.contains("here and") && error.contains("in the checkpoint"), "told by key: {error}");
        assert_eq!(std::fs::read(place.path("run/checkpoint.safetensors")).unwrap(), before);
    }
}

/// Names of the checkpoints in a run's folder.
fn checkpoints(place: &Place, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(place.path(dir)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    names.sort();
    names
}

#[test]
fn the_last_checkpoints_and_the_best_are_kept() {
    let place = Place::new();
    // A rate that overshoots: the loss falls, then rises.
    place.job("[train]\nrounds = 6\nevaluate_every = 1\nlearning_rate = 2.0\n");
    place.json(&["train", "--out", "run"]);
    let last = ["best.safetensors", "checkpoint-4.safetensors", "checkpoint-5.safetensors", "checkpoint-6.safetensors"];
    assert_eq!(checkpoints(&place, "run"), [&last[..], &["checkpoint.safetensors"]].concat());
    let best = |dir: &str| {
        let lines = metrics(&place, dir);
        let losses = lines.iter().filter(|line| line["validation"]["round"] != 0).filter_map(|line| {
            let validation = &line["validation"];
            Some((validation["loss"].as_f64()?, validation["round"].as_u64()?))
        });
        losses.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let kept = |dir: &str| place.json(&["eval", "--checkpoint", &format!("{dir}/best.safetensors")])["round"].as_u64();
    assert_eq!(kept("run"), Some(best("run").1));
    // The best one is still known after a pause, and one is enough for who wants no more.
    place.json(&["train", "--out", "run", "--resume", "--rounds", "9", "--keep", "1"]);
    assert_eq!(checkpoints(&place, "run"), ["best.safetensors", "checkpoint.safetensors"]);
    assert_eq!(kept("run"), Some(best("run").1));
    assert!(place.fails(&["train", "--out", "none", "--keep", "0"]).contains("--keep"));
}

/// What the best loss was is on disk: a resumed run does not replace the best checkpoint by a worse one.
#[test]
fn a_resumed_run_knows_its_best_checkpoint() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\nevaluate_every = 1\n");
    place.json(&["train", "--out", "run"]);
    let best = || std::fs::read(place.path("run/best.safetensors")).unwrap();
    let resume = |rounds: &str| place.json(&["train", "--out", "run", "--resume", "--rounds", rounds]);
    let mut record: Value = serde_json::from_slice(&std::fs::read(place.path("run/best.json")).unwrap()).unwrap();
    // No loss is lower.
    record["validation_loss"] = 0.0.into();
    place.write("run/best.json", record.to_string());
    let before = best();
    resume("6");
    assert_eq!(best(), before);
    record["run"] = "of another run".into();
    place.write("run/best.json", record.to_string());
    resume("9");
    assert_ne!(best(), before);
}

/// The file that a run continues says that it belongs to another run: as the best one, it could not be evaluated with the
/// settings of this run.
#[test]
fn the_best_checkpoint_of_a_continued_run_is_its_own() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\nevaluate_every = 1\n");
    let before = place.json(&["train", "--out", "run"]);
    let best = || -> Value { serde_json::from_slice(&std::fs::read(place.path("run/best.json")).unwrap()).unwrap() };
    // Whatever the loss was, it was measured under other settings.
    let mut record = best();
    record["validation_loss"] = 0.0.into();
    place.write("run/best.json", record.to_string());
    // At such a rate, no round is better than the state that they begin with.
    place.job("[train]\nrounds = 6\nevaluate_every = 1\nlearning_rate = 2.0\n");
    let after = place.json(&["train", "--out", "run", "--resume", "--with-changes"]);
    assert_eq!(best()["run"], after["run"]);
    let evaluated = place.json(&["eval", "--checkpoint", "run/best.safetensors"]);
    assert_eq!(evaluated["round"], best()["round"]);
    assert!(evaluated["round"].as_u64().unwrap() > 3, "{evaluated}");
    let kept = format!("run/run-{}-best.safetensors", &before["run"].as_str().unwrap()[..16]);
    place.job("[train]\nrounds = 3\nevaluate_every = 1\n");
    assert!(place.run(&["eval", "--checkpoint", &kept]).success, "the ancestor's best one is kept");
}

#[test]
fn a_run_that_is_finished_says_so_and_how_to_go_on() {
    let place = Place::new();
    place.job("[model]\nhidden = [8]\n[train]\nrounds = 4\npeers = 2\nbyzantine = 0\n");
    let train = &["train", "--out", "run", "--resume"][..];
    let up = &["up", "--redis", "--dir", "peers"][..];
    let trained = place.json(&train[..3]);
    let hash = state_hash(&trained);
    assert_eq!(state_hash(&place.json(up)), hash);
    for (command, rounds) in [(train, "4"), (train, "2"), (up, "4"), (up, "2")] {
        let finished = place.run(&[command, &["--rounds", rounds, "-o", "json"]].concat());
        assert!(finished.success, "{command:?}: {}", finished.stderr);
        let expected = format!(
            "nothing is left to do: the run has reached round 4, and `train.rounds` is {rounds}, which counts from its first \
             round; to train on, set more than 4 in the manifest of every host, or `--rounds 8` for `train` and `up`\n"
        );
        assert_eq!(finished.stderr.matches(&expected).count(), 1, "{command:?}: {}", finished.stderr);
        let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!((&summary["rounds"], &summary["rounds_run"]), (&4.into(), &0.into()), "{command:?}");
        assert_eq!(state_hash(&summary), hash);
    }
    let further = place.run(&[train, &["--rounds", "8"]].concat());
    assert!(further.success && !further.stderr.contains("nothing is left"), "{}", further.stderr);
}

#[test]
fn a_manifest_that_no_run_wrote_is_left_alone() {
    let place = Place::new();
    place.job("[train]\nrounds = 1\n");
    place.write("run/manifest.toml", "# mine\n");
    let error = place.fails(&["train", "--out", "run"]);
    assert!(error.contains("`run/manifest.toml` was not written by a run: choose another folder"), "{error}");
    assert_eq!(std::fs::read_to_string(place.path("run/manifest.toml")).unwrap(), "# mine\n");
    // The usual name of a manifest is not taken.
    place.json(&["train", "--out", "."]);
    assert!(!std::fs::read_to_string(place.path("skein.toml")).unwrap().contains("written by the program"));
}

#[test]
fn a_runs_folder_holds_its_manifest_and_the_final_evaluation() {
    let place = Place::new();
    place.job_on("source = \"builtin:digits\"\ntest_samples = 100\n", "[train]\nrounds = 3\n");
    let summary = place.json(&["train", "--out", "run", "--rounds", "4"]);
    let lines = metrics(&place, "run");
    let last = lines.last().unwrap();
    assert_eq!((lines.len(), &last["final"], &last["round"]), (5, &true.into(), &4.into()));
    for name in ["validation", "test"] {
        assert_eq!(last[name]["loss"], summary[name]["loss"], "{name}");
        assert_eq!(last[name]["round"], 4, "{name}");
    }
    // The manifest is what was trained, with the options of the command line.
    let evaluated = place.json(&["eval", "--from", "run/manifest.toml", "--checkpoint", "run"]);
    assert_eq!(evaluated["state_hash"], summary["state_hashes"][0]);
    assert!(std::fs::read_to_string(place.path("run/manifest.toml")).unwrap().contains("rounds = 4"));
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
    assert!(files.iter().all(|name| !name.to_string_lossy().starts_with('.')), "no partial file remains: {files:?}");
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
        let byzantine = u32::from(aggregate != "aggregate-mean");
        let train = format!(
            "[train]\npeers = 6\nbyzantine = {byzantine}\ncrashed = 0\nrounds = 150\naggregate = \"{aggregate}\"\n"
        );
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
    let function =
        "[train]\nrounds = 20\nbyzantine = 0\naggregate = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n";
    place.job(function);
    let mine = place.json(&["train"]);
    place.job("[train]\nrounds = 20\nbyzantine = 0\naggregate = \"aggregate-mean\"\n");
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

/// An upgrade replaces the file of a program that runs, which must go on compiling with what it was built with.
#[test]
fn a_program_whose_file_is_gone_compiles_by_itself() {
    let place = Place::new();
    place.job("[model]\nhidden = [4]\n[train]\nrounds = 1\n");
    std::fs::copy(env!("CARGO_BIN_EXE_skein"), place.path("program")).unwrap();
    let setup = "export SKEIN_CACHE_DIR=cache; exec 3< program; rm program; shift; set -- /proc/self/fd/3 \"$@\"";
    let finished = place.run_after(setup, &["train"]);
    assert!(finished.success, "{}{}", finished.stdout, finished.stderr);
}
