//! The log describes each round, in spans with fields.

use std::process::{Child, Stdio};

use crate::harness::Place;
use crate::peers::{Cluster, PEERS, finish};

const JOB: &str = "[model]\nhidden = [4]\n[train]\nseed = 5\nrounds = 3\n";

/// The lines of the second round name each event, its peer, and its call or command.
#[test]
fn a_log_describes_a_round() {
    let cluster = Cluster::start(JOB, false);
    let mut first = cluster.place.command(&["host", "--config", "peer-0/host.toml", "-o", "json", "--quiet"]);
    first.env("SKEIN_LOG", "skein=debug").stdout(Stdio::null()).stderr(Stdio::piped());
    let first = first.spawn().unwrap();
    // Keep reading, or it would block on a full pipe.
    let first = std::thread::spawn(move || first.wait_with_output().unwrap());
    let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    finish(others);
    let output = first.join().unwrap();
    assert!(output.status.success());
    let log = String::from_utf8(output.stderr).unwrap();
    let round: Vec<&str> = log.lines().filter(|line| line.contains("round=2")).collect();
    for (what, words) in [
        ("a batch", &["worker{job=", " peer=", "batch{round=2 index=", "call{function=", "usage="][..]),
        ("a sum", &["batch{round=2 index=", "command{name=SKEIN.ACC}"]),
        ("what was computed", &["job{job=", "peer{peer=", "round{round=2}", "computed", "loss="]),
        ("the decision", &["peer{peer=", "decided", "round=2", "view=0"]),
        ("the update", &["round{round=2}", "command{name=SKEIN.APPLY}"]),
        ("the state", &["job{job=", "peer{peer=", "round{round=2}", "applied", "state="]),
    ] {
        let is_there = round.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(is_there, "no line is about {what} ({words:?}):\n{}", round.join("\n"));
    }
    assert!(!log.contains(&std::fs::read_to_string(cluster.path(0, "redis/owner.password")).unwrap()), "no secrets");
}

#[test]
fn rust_log_counts_if_skein_log_is_not_set_and_an_invalid_filter_is_named() {
    let place = Place::new();
    place.job(JOB);
    let log = |variables: &[(&str, &str)]| {
        let mut command = place.command(&["train", "--quiet", "-o", "json"]);
        let output = command.env_remove("RUST_LOG").envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(log(&[]), "");
    assert!(log(&[("RUST_LOG", "skein=debug")]).contains("round{round=3}"));
    assert_eq!(log(&[("RUST_LOG", "skein=debug"), ("SKEIN_LOG", "error")]), "");
    assert_eq!(log(&[("SKEIN_LOG", "")]), "");
    assert!(log(&[("SKEIN_LOG", "info,skein_peer=debug")]).contains("round{round=3}"));
    assert!(!log(&[("SKEIN_LOG", "debug,skein_peer=off")]).contains("round{round=3}"));
    let wrong = log(&[("SKEIN_LOG", "skein=lots")]);
    assert!(wrong.contains("`SKEIN_LOG` is not a log filter: `skein=lots`"), "{wrong}");
}
