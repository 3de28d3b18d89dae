//! Peers that are lost while the others continue: killed for good, killed with their databases, stopped for a while, or
//! all killed at once.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Place, state_hash};
use crate::peers::{Cluster, PEERS, finish};

/// Longest duration of the round in which a peer is lost, with 3 s for a busy machine, and of each later round.
const LOST_ROUND_MS: f64 = 2_000.0 + 3_000.0;
const LATER_ROUND_MS: f64 = 3_000.0;

/// A job with `rounds` rounds, in which a peer is waited for at least `wait`, unless it is silent for so long.
fn job(rounds: u32, wait: &str, silent: &str) -> String {
    format!(
        "[model]\nhidden = [16]\n[train]\nseed = 5\nrounds = {rounds}\nevaluate_every = 3\noptimizer = {{ name = \"adam\" }}\n\
         learning_rate = 0.01\nwait = {{ min = \"{wait}\", max = \"2m\", silent = \"{silent}\" }}\n"
    )
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn kill(child: &mut Child) {
    signal(child, Signal::KILL);
    assert!(!child.wait().unwrap().success());
}

/// Checks that all have the same hash after `rounds` rounds, and returns it.
#[track_caller]
fn in_step(summaries: &[Value], rounds: u32) -> String {
    let hashes: Vec<String> = summaries.iter().map(state_hash).collect();
    assert!(hashes.iter().all(|hash| hash == &hashes[0]), "{hashes:?}");
    assert!(summaries.iter().all(|summary| summary["rounds"] == rounds));
    hashes[0].clone()
}

/// The rounds in a peer's metrics.
fn rounds_of(cluster: &Cluster, peer: u32) -> Vec<Value> {
    let text = std::fs::read_to_string(cluster.path(peer, "metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["final"] != true).collect()
}

/// Checks that the loss of one peer cost another one round of waiting, little in each later round, and that no peer was
/// accused.
#[track_caller]
fn little_was_lost(cluster: &Cluster, peer: u32) {
    let rounds = rounds_of(cluster, peer);
    let mut losses = 0;
    for pair in rounds.windows(2) {
        let absent = pair[1]["absent"].to_string();
        assert!(!absent.contains("removed"), "{absent}");
        let before = pair[0]["elapsed_ms"].as_f64().unwrap();
        let after = pair[1]["elapsed_ms"].as_f64().unwrap();
        let has_missed = |round: &Value| round["present"].as_u64().unwrap() < u64::from(PEERS);
        // The round before the first without the peer may be the one in which it was lost.
        let bound = if has_missed(&pair[0]) { LATER_ROUND_MS } else { LOST_ROUND_MS };
        assert!(after - before <= bound, "{} took {} ms", pair[1]["round"], after - before);
        losses += u32::from(has_missed(&pair[1]));
    }
    assert!(losses > 1, "the others continued without it");
}

/// Before the fix: 60 s in every round after one of four hosts was killed.
#[test]
fn a_host_that_is_killed_for_good_costs_the_others_little() {
    let rounds = 20;
    let cluster = Cluster::start(&job(rounds, "2s", "750ms"), false);
    let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    kill(&mut cluster.host_in_the_middle(0, 36));
    in_step(&finish(others), rounds);
    (1..PEERS).for_each(|peer| little_was_lost(&cluster, peer));
}

/// The killed peer once signed different records after its restart, and counted as a liar for the rest of the job.
#[test]
fn a_peer_whose_host_and_database_were_killed_is_not_a_liar() {
    let rounds = 20;
    for is_plain in [false, true] {
        let mut cluster = Cluster::start(&job(rounds, "2s", "750ms"), is_plain);
        let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
        kill(&mut cluster.host_in_the_middle(0, 30));
        cluster.restart_database(0, Signal::KILL);
        let returned = cluster.host(0).wait_with_output().unwrap();
        let summaries = finish(others);
        let hash = in_step(&summaries, rounds);
        let summary: Value = serde_json::from_slice(&returned.stdout).unwrap();
        assert_eq!(state_hash(&summary), hash);
        for peer in 1..PEERS {
            let absent: String = rounds_of(&cluster, peer).iter().map(|round| round["absent"].to_string()).collect();
            assert!(!absent.contains("removed"), "{absent}");
        }
    }
}

/// It once accused all others and ended with a message that blamed them; later it had to be given another peer's checkpoint.
#[test]
fn a_host_that_was_stopped_catches_up() {
    let rounds = 20;
    let cluster = Cluster::start(&job(rounds, "2s", "750ms"), false);
    let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    let (mut stopped, ended) = cluster.place.start_watched(&["host", "--config", "peer-0/host.toml"], 36);
    signal(&stopped, Signal::STOP);
    let hash = in_step(&finish(others), rounds);
    (1..PEERS).for_each(|peer| little_was_lost(&cluster, peer));
    signal(&stopped, Signal::CONT);
    assert!(stopped.wait().unwrap().success());
    ended.recv().unwrap();
    // All of them are there already.
    assert_eq!(in_step(&finish((0..PEERS).map(|peer| cluster.host(peer)).collect()), rounds), hash);
}

/// A power failure ends hosts and databases together, each in another round.
#[test]
fn peers_that_were_killed_at_once_resume_where_they_were() {
    let rounds = 60;
    // No peer is lost, so none may be left out, however busy the machine is.
    let job = job(rounds, "1m", "1m");
    let place = Place::new();
    place.job(&job);
    let expected = state_hash(&place.json(&["train"]));
    for with_databases in [true, false] {
        let mut cluster = Cluster::start(&job, false);
        for calls in [20, 31, 44] {
            let mut hosts: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
            hosts.push(cluster.host_in_the_middle(0, calls));
            hosts.iter().for_each(|host| signal(host, Signal::KILL));
            hosts.iter_mut().for_each(|host| assert!(!host.wait().unwrap().success()));
            if with_databases {
                (0..PEERS).for_each(|peer| cluster.restart_database(peer, Signal::KILL));
            }
        }
        let summaries = finish((0..PEERS).map(|peer| cluster.host(peer)).collect());
        for peer in 0..PEERS {
            let missed = rounds_of(&cluster, peer).into_iter().find(|round| round["present"] != PEERS);
            assert!(missed.is_none(), "{}", missed.unwrap_or_default());
        }
        assert_eq!(in_step(&summaries, rounds), expected);
    }
}

/// A host with fewer rounds ends first. The other once waited for it without a word about the reason.
#[test]
fn a_host_with_fewer_rounds_is_named_and_can_go_on() {
    let cluster = Cluster::start(&job(3, "5s", "5s"), false);
    let configure = |peer: u32| {
        let config = cluster.path(peer, "host.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(config, text.replacen("skein.toml", "longer.toml", 1)).unwrap();
    };
    let manifest = std::fs::read_to_string(cluster.place.path("skein.toml")).unwrap();
    cluster.place.write("longer.toml", manifest.replace("rounds = 3", "rounds = 5"));
    configure(0);
    let mut command = cluster.place.command(&["host", "--config", "peer-0/host.toml"]);
    let mut longer = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    in_step(&finish((1..PEERS).map(|peer| cluster.host(peer)).collect()), 3);
    let mut printed = BufReader::new(longer.stderr.take().unwrap()).lines().map(Result::unwrap);
    let note = printed.find(|line| line.contains("published nothing after round 3")).expect("it tells why it waits");
    assert!(
        note.starts_with("peers ") && note.ends_with("`train.rounds` is 3, which has to be the same on all hosts"),
        "{note}"
    );
    kill(&mut longer);
    (1..PEERS).for_each(configure);
    in_step(&finish((0..PEERS).map(|peer| cluster.host(peer)).collect()), 5);
}
