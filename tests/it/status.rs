//! `skein status`: what the folder of a run tells.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::Place;

const JOB: &str = "[model]\nhidden = [16]\n[train]\nrounds = 6\nevaluate_every = 2\npeers = 2\nbyzantine = 0\n";

#[test]
fn the_folder_of_a_run_tells_how_far_it_is() {
    let place = Place::new();
    place.job(JOB);
    let summary = place.json(&["train", "--out", "run", "--rounds", "3"]);
    let status = place.json(&["status", "--dir", "run"]);
    for (key, expected) in [
        ("dir", json!("run")),
        ("name", json!("test")),
        ("run", summary["run"].clone()),
        ("job", summary["job"].clone()),
        ("round", json!(3)),
        ("rounds", json!(3)),
        ("state_hash", summary["state_hashes"][0].clone()),
        ("held", json!(false)),
        ("lineage", json!([])),
    ] {
        assert_eq!(status[key], expected, "{key}");
    }
    let metrics = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = |key: &str| lines.iter().rev().map(|line| &line[key]).find(|value| !value.is_null()).unwrap();
    assert_eq!(&status["loss"], last("loss"));
    assert_eq!(&status["validation"], last("validation"));
    assert!(status["written"].as_str().unwrap().ends_with('Z'), "{status}");

    let changed = ["train", "--out", "run", "--resume", "--with-changes", "--rounds", "5", "--seed", "9"];
    let after = place.json(&changed);
    let status = place.json(&["status", "--dir", "run"]);
    assert_eq!((&status["run"], &status["round"]), (&after["run"], &json!(5)));
    let state = &summary["state_hashes"][0];
    assert_eq!(
        status["lineage"],
        json!([{ "run": summary["run"], "job": summary["job"], "round": 3, "state": state }])
    );
    let text = place.run(&["status", "run"]).stdout;
    assert_eq!(place.run(&["status", "--dir", "run"]).stdout, text);
    for row in ["job           test\n", "round         5 of 5\n", "in use        no\n"] {
        assert!(text.contains(row), "{text}");
    }
    let before = summary["run"].as_str().unwrap();
    assert!(text.contains(&format!("continues     run {before} after round 3\n")), "{text}");
}

#[test]
fn a_folder_in_use_is_seen_and_left_alone() {
    let place = Place::new();
    place.job(JOB);
    let mut child = place.start(&["train", "--out", "run", "--rounds", "1000000"], 60);
    assert_eq!(place.json(&["status", "--dir", "run"])["held"], true);
    assert!(place.run(&["status", "--dir", "run"]).stdout.contains("in use        yes, by a process that trains\n"));
    for resume in [&["--resume"][..], &[]] {
        let error = place.fails(&[&["train", "--out", "run"], resume].concat());
        assert!(
            error.contains("another process trains in `run`: wait for it to end, or choose another folder"),
            "{error}"
        );
    }
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    let status = place.json(&["status", "--dir", "run"]);
    assert_eq!((&status["held"], &status["rounds"]), (&json!(false), &json!(1_000_000)));
    assert!(status["round"].as_u64().unwrap() > 0, "{status}");
}

#[test]
fn the_folder_of_all_peers_lists_each() {
    let place = Place::new();
    place.job(JOB);
    let summary = place.json(&["up", "--redis", "--dir", "run"]);
    let status = place.json(&["status", "--dir", "run"]);
    let peers = status["peers"].as_array().unwrap();
    let dirs: Vec<&str> = peers.iter().map(|peer| peer["dir"].as_str().unwrap()).collect();
    assert_eq!(dirs, ["run/peer-0", "run/peer-1"]);
    for peer in peers {
        assert_eq!((&peer["run"], &peer["round"], &peer["rounds"]), (&summary["run"], &json!(6), &json!(6)));
    }
    assert_eq!(place.json(&["status", "--dir", "run/peer-1"])["run"], summary["run"]);
    let text = place.run(&["status", "--dir", "run"]).stdout;
    assert_eq!(text.matches("round         6 of 6\n").count(), 2, "{text}");
}

#[test]
fn a_folder_that_is_no_runs_is_refused_by_name() {
    let place = Place::new();
    place.job(JOB).write("empty/a.txt", "").write("bad/checkpoint.safetensors", "no tensors").write("peer-0/a.txt", "");
    for (dir, expected) in [
        ("nowhere", "error: failed to read the folder `nowhere`: No such file or directory"),
        ("skein.toml", "error: `skein.toml` is not a folder\n"),
        (
            "empty",
            "error: `empty` is not the folder of a run, which has at least one of `checkpoint.safetensors`, \
             `metrics.jsonl`, `records.log`: name the one of `skein train --out` or `skein up --dir`, or the `dir` of a host\n",
        ),
        (".", "error: `.` is not the folder of a run"),
        ("bad", "error: `bad/checkpoint.safetensors` is not a checkpoint: its header has "),
    ] {
        for arguments in [&["status", "--dir", dir][..], &["status", dir]] {
            let error = place.fails(arguments);
            assert!(error.starts_with(expected), "{arguments:?}: {error}");
        }
    }
    assert!(place.fails(&["status"]).contains("<DIR>"));
    assert!(place.fails(&["status", "a", "--dir", "b"]).contains("cannot be used with"));
}
