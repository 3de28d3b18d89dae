//! Hosts that are about to do different things say so to each other, instead of waiting for each other for ever.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};

use serde_json::Value;

use crate::peers::{Cluster, PEERS, finish};

const JOB: &str = "[model]\nhidden = [16]\n[train]\nseed = 5\nrounds = 60\nlearning_rate = 0.01\n\
    wait = { min = \"1s\", max = \"2m\", silent = \"750ms\" }\n";

/// Changes the configuration of a host.
fn configure(cluster: &Cluster, peer: u32, change: impl Fn(&str) -> String) {
    let path = cluster.path(peer, "host.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text);
    std::fs::write(path, changed).unwrap();
}

/// A host, and the notes that it prints.
struct Talking {
    host: Child,
    notes: Lines<BufReader<ChildStderr>>,
}

impl Talking {
    /// Starts a host, which then has said what it does.
    fn start(cluster: &Cluster, peer: u32) -> Talking {
        let config = format!("peer-{peer}/host.toml");
        let mut command = cluster.place.command(&["host", "--config", &config, "-o", "json"]);
        let mut host = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let notes = BufReader::new(host.stderr.take().unwrap()).lines();
        let mut talking = Talking { host, notes };
        talking.read_until("the same on all hosts");
        talking
    }

    /// Reads notes up to one with this text; returns it and those before.
    fn read_until(&mut self, text: &str) -> String {
        let mut read = String::new();
        for note in &mut self.notes {
            read += &(note.unwrap() + "\n");
            if read.contains(text) {
                return read;
            }
        }
        panic!("`{text}` is not in {read}")
    }
}

/// Each trained alone, or waited for ever, and nobody said why.
#[test]
fn a_host_with_another_job_says_what_differs_and_the_others_go_on() {
    let cluster = Cluster::start(JOB, false);
    let manifest = std::fs::read_to_string(cluster.place.path("skein.toml")).unwrap();
    let other =
        manifest.replace("learning_rate = 0.01", "learning_rate = 0.02").replace("\"builtin:digits\"", "\"own.csv\"");
    let row = |index: u32| format!("{},{}\n", vec!["0"; 64].join(","), index % 10);
    cluster.place.write("own.csv", (0..1797).map(row).collect::<String>());
    cluster.place.write("other.toml", other);
    configure(&cluster, 0, |text| text.replacen("skein.toml", "other.toml", 1));
    let mut first = Talking::start(&cluster, 1);
    let others: Vec<Child> = (2..PEERS).map(|peer| cluster.host(peer)).collect();
    let error = cluster.place.fails(&["host", "--config", "peer-0/host.toml"]);
    for words in [
        "do something else than this host, and the run needs 3 that do the same",
        "`train.learning_rate` is 0.02 here and 0.01 there",
        "`data.",
        "make the manifests, rosters and data of all hosts the same",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(!cluster.path(0, "checkpoint.safetensors").exists(), "it did not begin");
    let warning = first.read_until("the run goes on without it");
    assert!(warning.contains("does something else than this host"), "{warning}");
    assert!(warning.contains("`train.learning_rate` is 0.01 here and 0.02 there"), "{warning}");
    std::thread::spawn(move || first.notes.for_each(drop));
    // Its folder is as good as new.
    configure(&cluster, 0, |text| text.replacen("other.toml", "skein.toml", 1));
    let mended = cluster.host(0);
    let summaries = finish([first.host, mended].into_iter().chain(others).collect());
    assert!(summaries.iter().all(|summary| summary["rounds"] == 60));
}

#[test]
fn rosters_in_another_order_are_named_and_end_a_run_that_needs_all() {
    let all = JOB.replace("[train]\n", "[train]\npeers = 4\nbyzantine = 0\ncrashed = 0\n");
    let cluster = Cluster::start(&all, false);
    configure(&cluster, 0, |text| {
        let mut members: Vec<&str> = text.split("[[roster]]").collect();
        members.swap(1, 2);
        members.join("[[roster]]")
    });
    let waiting: Vec<Talking> = (1..3).map(|peer| Talking::start(&cluster, peer)).collect();
    let is_refused = |error: &str| {
        assert!(error.contains("other peer") && error.contains("the run needs 4 that do the same"), "{error}");
        assert!(error.contains("`roster.0.id` is") && error.contains("`roster.1.id` is"), "{error}");
    };
    is_refused(&cluster.place.fails(&["host", "--config", "peer-0/host.toml"]));
    for Talking { host, notes } in waiting {
        notes.for_each(drop);
        let ended = host.wait_with_output().unwrap();
        assert!(!ended.status.success());
        let printed: Value = serde_json::from_slice(&ended.stdout).unwrap();
        is_refused(printed["error"].as_str().unwrap());
    }
}
