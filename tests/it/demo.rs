//! `skein demo`: peers learn the digits and end with the same bits.

use crate::harness::{Place, state_hash};

#[test]
fn four_peers_learn_the_digits_and_end_with_the_same_bits() {
    let summary = Place::new().json(&["demo"]);
    assert!(summary["validation_accuracy"].as_f64().unwrap() >= 0.97, "{summary}");
    assert_eq!(summary["functions"][0]["name"], "gradient-onnx");
    assert_eq!(summary["peers"], 4);
    assert_eq!(summary["state_hashes"].as_array().unwrap().len(), 4);
    state_hash(&summary);
    let rounds = summary["rounds"].as_u64().unwrap();
    assert_eq!(summary["gradient_calls"], rounds * 4 * 2);
    assert_eq!(summary["aggregate_calls"], rounds * 4);
    assert_eq!(summary["cold_calls"], 2, "one for each function");
    assert!(summary["gb_seconds"].as_f64().unwrap() > 0.0);
    assert!(summary["wall_ms"].as_f64().unwrap() > 0.0);
    for phase in ["compute", "average", "gather", "vote", "aggregate", "update", "check"] {
        assert!(summary["phase_ms"][phase].as_f64().unwrap() > 0.0, "{phase}");
    }
    let functions = summary["functions"].as_array().unwrap();
    let worlds: Vec<_> = functions.iter().map(|function| function["world"].as_str().unwrap()).collect();
    assert_eq!(worlds, ["gradient", "aggregate"]);
    for function in functions {
        assert_eq!(function["digest"].as_str().unwrap().len(), "sha256:".len() + 64);
    }
}

#[test]
fn the_seed_alone_decides_the_result() {
    let place = Place::new();
    let run = |arguments: &[&str]| state_hash(&place.json(&[&["demo", "--rounds", "20"], arguments].concat()));
    let first = run(&[]);
    assert_eq!(run(&[]), first, "a second run");
    for concurrency in ["1", "3"] {
        assert_eq!(run(&["--concurrency", concurrency]), first, "{concurrency} at a time");
    }
    assert_ne!(run(&["--seed", "2"]), first);
    assert_ne!(run(&["--peers", "3"]), first);
}

#[test]
fn people_get_progress_and_a_table() {
    let finished = Place::new().run(&["demo", "--rounds", "10"]);
    assert!(finished.success);
    assert!(finished.stderr.contains("round 10/10"), "{}", finished.stderr);
    for row in ["validation  ", "state of ", "cold / warm", "GB-seconds", "aggregate-trimmed-mean"] {
        assert!(finished.stdout.contains(row), "{row}: {}", finished.stdout);
    }
    let quiet = Place::new().run(&["demo", "--rounds", "10", "--quiet"]);
    assert_eq!(quiet.stderr, "");
}

/// `/dev/null` is not a folder, whichever user runs the test.
#[test]
fn a_home_that_cannot_be_written_is_ignored_but_a_requested_folder_is_an_error() {
    let place = Place::new();
    let setup = "unset SKEIN_CACHE_DIR; XDG_CACHE_HOME=/dev/null; export XDG_CACHE_HOME";
    assert!(place.run_after(setup, &["demo", "--rounds", "2"]).success);
    let error = place.fails(&["demo", "--cache-dir", "/dev/null/cache"]);
    assert!(error.contains("failed to use `/dev/null/cache` as the cache"), "{error}");
}
