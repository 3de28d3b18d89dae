//! The results of a run: where they are stored, and how they are used.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::harness::{Database, Place, state_hash};

const PEERS: u32 = 2;
const JOB: &str =
    "[model]\nhidden = [16]\n[train]\nseed = 5\npeers = 2\nbyzantine = 0\nrounds = 6\nlearning_rate = 0.1\n";

/// Hosts with their own keys that have finished their job.
struct Finished {
    place: Place,
    summaries: Vec<Value>,
}

impl Finished {
    fn new() -> Finished {
        let place = Place::new();
        place.job(JOB);
        let ids: Vec<String> = (0..PEERS).map(|peer| id(&place, &format!("peer-{peer}/own.key"))).collect();
        let options = |peer: u32, user: &str| {
            let dir = place.path(&format!("peer-{peer}/redis"));
            format!("url = \"unix://{user}@{0}/redis.sock\", password_file = \"{0}/{user}.password\"", dir.display())
        };
        for peer in 0..PEERS {
            let mut text = format!(
                "job = \"../skein.toml\"\ndir = \".\"\nidentity = {{ key_file = \"own.key\" }}\nstore = {{ {} }}\n",
                options(peer, "owner")
            );
            for (other, id) in (0..PEERS).zip(&ids) {
                text += &format!("[[roster]]\nid = \"{id}\"\nstore = {{ {} }}\n", options(other, "peer"));
            }
            place.write(&format!("peer-{peer}/host.toml"), text);
        }
        let database = |peer| Database::start(&place, &format!("peer-{peer}/redis"), &["--without-module"]);
        let databases: Vec<Database> = (0..PEERS).map(database).collect();
        let hosts: Vec<Child> = (0..PEERS).map(|peer| host(&place, peer)).collect();
        let summaries = hosts.into_iter().map(|host| {
            let output = host.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            serde_json::from_slice(&output.stdout).unwrap()
        });
        let summaries = summaries.collect();
        drop(databases);
        Finished { place, summaries }
    }
}

fn id(place: &Place, file: &str) -> String {
    std::fs::create_dir_all(place.path(file).parent().unwrap()).unwrap();
    place.json(&["identity", "--key-file", file])["id"].as_str().unwrap().to_owned()
}

fn host(place: &Place, peer: u32) -> Child {
    let config = format!("peer-{peer}/host.toml");
    let mut command = place.command(&["host", "--config", &config, "-o", "json", "--quiet"]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Hosts of different owners have keys that a manifest does not name. The manifest is enough to use their model.
#[test]
fn a_model_of_peers_with_their_own_keys_is_evaluated_and_exported() {
    let Finished { place, summaries } = Finished::new();
    let hash = state_hash(&summaries[0]);
    assert_eq!(state_hash(&place.json(&["train"])), hash, "keys change nothing of the result");
    let by_manifest = ["--from", "skein.toml", "--checkpoint", "peer-0"];
    // The state is the same on both hosts.
    let by_config = ["--config", "peer-0/host.toml", "--checkpoint", "peer-1/checkpoint.safetensors"];
    for named in [by_manifest, by_config] {
        let evaluation = place.json(&[&["eval"], &named[..]].concat());
        assert_eq!(evaluation["state_hash"], hash.as_str(), "{named:?}");
        assert_eq!(evaluation["round"], 6);
        assert_eq!(evaluation["validation"]["samples"], summaries[0]["validation"]["samples"]);
        assert_eq!(evaluation["validation"]["accuracy"], summaries[0]["validation"]["accuracy"]);
        let exported = place.json(&[&["export", "--to", "values.safetensors"], &named[..]].concat());
        assert_eq!(exported["round"], 6);
        std::fs::remove_file(place.path("values.safetensors")).unwrap();
    }
    let said = place.run(&[&["eval"], &by_manifest[..]].concat()).stderr;
    assert!(said.contains("another run of this job, which differs in `roster.0.id`, `roster.1.id`"), "{said}");
    let said = place.run(&[&["eval"], &by_config[..]].concat()).stderr;
    assert!(!said.contains("another run"), "the configuration names the keys: {said}");
    // The configuration names the peers, so their shares are evaluated one by one as the hosts did, to the last bit.
    assert_eq!(place.json(&[&["eval"], &by_config[..]].concat())["validation"], summaries[0]["validation"]);
}

#[test]
fn a_checkpoint_of_another_model_job_or_roster_is_refused_by_every_command() {
    let Finished { place, .. } = Finished::new();
    let eval = ["eval", "--checkpoint", "peer-0"];
    for (changed, expected) in [
        (JOB.replace("seed = 5", "seed = 6"), "checkpoint of another job"),
        (JOB.replace("0.1", "0.2"), "checkpoint of another job"),
        (
            JOB.replace("[16]", "[17]"),
            "`model.parameters.0` is `layers.0.weight, [17, 64], kaiming` here and `layers.0.weight, [16, 64], kaiming` in",
        ),
        (JOB.replace("hidden = [16]", "network = \"convnet\""), "`model.loss` is `cross-entropy` here and not set in"),
        (JOB.replace("rounds", "aggregate = \"aggregate-mean\"\nrounds"), "checkpoint of another job"),
    ] {
        place.job(&changed);
        for command in ["eval", "export"] {
            let arguments = [command, "--checkpoint", "peer-0", "--to", "model.safetensors"];
            let error = place.fails(if command == "eval" { &eval } else { &arguments });
            assert!(error.contains(expected), "{command}, {changed}: {error}");
        }
    }
    // Other data of the same shape, then another validation share.
    let line = |sample: u32| format!("{}{}\n", "1,".repeat(64), sample % 10);
    place.write("other.csv", (0..1797).map(line).collect::<String>());
    place.job_on("source = \"other.csv\"\nclasses = 10\n", JOB);
    assert!(place.fails(&eval).contains("checkpoint of another job"));
    place.job_on("source = \"builtin:digits\"\nvalidation = 0.2\n", JOB);
    assert!(place.fails(&eval).contains("checkpoint of another job"));
    place.job(JOB);
    assert!(place.run(&eval).success);

    // A host's configuration names the peers.
    let config = std::fs::read_to_string(place.path("peer-0/host.toml")).unwrap();
    let own = id(&place, "peer-1/own.key");
    place.write("peer-0/other.toml", config.replace(&own, &id(&place, "another.key")));
    let error = place.fails(&[&eval[..], &["--config", "peer-0/other.toml"]].concat());
    assert!(error.contains("checkpoint of another run of this job: `roster.1.id` is"), "{error}");
    let error = place.fails(&[&eval[..], &["--config", "peer-0/host.toml", "--seed", "5"]].concat());
    assert!(error.contains("cannot be used with"), "{error}");
    // Only the same peers can resume a run.
    let error = place.fails(&["train", "--out", "peer-0", "--resume"]);
    assert!(error.contains("checkpoint of another run of this job:\n  `roster.0.id` is "), "{error}");
    assert!(error.contains("… in the checkpoint\n  `roster.1.id` is "), "a line for each, digests shortened: {error}");
    assert!(error.lines().all(|line| line.len() < 120), "{error}");
}

#[test]
fn a_run_that_keeps_nothing_names_the_option_that_would_before_it_starts() {
    let place = Place::new();
    place.job(JOB);
    for (arguments, expected) in [
        (&["train"][..], "is not kept: `--out DIR` keeps it"),
        (&["up"], "is not kept: `skein train --out DIR` or `skein up --redis --dir DIR` keeps it"),
        (&["up", "--redis"], "is not kept: `--dir DIR` keeps it"),
    ] {
        let finished = place.run(&[arguments, &["-o", "json"]].concat());
        assert!(finished.success, "{}", finished.stderr);
        let said = finished.stderr.find(expected).unwrap_or_else(|| panic!("{arguments:?}: {}", finished.stderr));
        assert!(said < finished.stderr.find("round ").unwrap(), "it is printed before the first round");
        let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
        let hosts = summary["hosts"].as_array().into_iter().flatten();
        for summary in [&summary].into_iter().chain(hosts) {
            assert_eq!(summary.get("checkpoint"), Some(&Value::Null), "{arguments:?}: {summary}");
        }
    }
}

#[test]
fn a_run_that_is_kept_reports_the_path_of_its_checkpoint() {
    let place = Place::new();
    place.job(JOB);
    for (arguments, folder) in [
        (&["train", "--out", "run"][..], "run"),
        (&["train", "--out", "run", "--resume"], "run"),
        (&["up", "--redis", "--dir", "peers"], "peers"),
    ] {
        let finished = place.run(&[arguments, &["-o", "json"]].concat());
        assert!(finished.success && !finished.stderr.contains("not kept"), "{}", finished.stderr);
        let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
        let path = summary["checkpoint"].as_str().unwrap();
        assert!(path.contains(folder), "{path}");
        let evaluation = place.json(&["eval", "--checkpoint", path]);
        assert_eq!(evaluation["state_hash"], summary["state_hashes"][0], "{arguments:?}");
    }
    let text = place.run(&["train", "--out", "again"]).stdout;
    let row = text.lines().find(|line| line.starts_with("checkpoint ")).unwrap_or_else(|| panic!("{text}"));
    assert!(row.ends_with("  again/checkpoint.safetensors"), "{row}");
    let names = |table: &str| -> Vec<String> {
        let rows = table.lines().map(|row| row.split("  ").next().unwrap().to_owned());
        rows.filter(|name| !name.starts_with("state of")).collect()
    };
    let trained = names(&text);
    let text = place.run(&["up", "--redis", "--dir", "peers"]).stdout;
    assert_eq!(names(&text), trained, "both print the same figures");
    assert!(text.lines().any(|line| line.starts_with("checkpoint  ") && line.contains("peers/peer-0/")), "{text}");
}
