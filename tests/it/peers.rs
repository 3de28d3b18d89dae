//! Peers as processes, each with a real Redis: the same bits as in one process, even if processes are killed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skein_protocol::identity::Identity;

use crate::client::{Client, until};
use crate::harness::{Place, state_hash};

/// A small job with all state that must survive a restart.
const JOB: &str = "[model]\nhidden = [16]\n[train]\nseed = 5\nrounds = 60\nevaluate_every = 3\noptimizer = { name = \"adam\" }\n\
    learning_rate = 0.01\nreduce_on_plateau = { patience = 0, factor = 0.5, min_delta = 0.1 }\n";
pub(crate) const PEERS: u32 = 4;
/// The seed of the job, from which the peers' keys are derived.
pub(crate) const SEED: u64 = 5;

/// The databases of all peers and the configurations of their hosts, in one folder.
pub(crate) struct Cluster {
    pub(crate) place: Place,
    databases: Vec<Database>,
    is_plain: bool,
}

/// A database, run by the program.
struct Database {
    runner: Child,
    /// The server process that the program started.
    server: Pid,
}

impl Cluster {
    /// Starts the databases and writes the hosts' configurations.
    pub(crate) fn start(job: &str, is_plain: bool) -> Cluster {
        let place = Place::new();
        place.job(job);
        let mut cluster = Cluster { place, databases: Vec::new(), is_plain };
        for peer in 0..PEERS {
            let database = cluster.database(peer);
            cluster.databases.push(database);
        }
        let options = |peer: u32, user: &str| {
            let dir = cluster.path(peer, "redis");
            format!("url = \"unix://{user}@{0}/redis.sock\", password_file = \"{0}/{user}.password\"", dir.display())
        };
        for peer in 0..PEERS {
            let mut text = format!(
                "job = \"../skein.toml\"\ndir = \".\"\nidentity = {{ index = {peer} }}\nstore = {{ {} }}\n",
                options(peer, "owner")
            );
            for other in 0..PEERS {
                let id = Identity::derived(SEED, other).id();
                text += &format!("[[roster]]\nid = \"{id}\"\nstore = {{ {} }}\n", options(other, "peer"));
            }
            cluster.place.write(&format!("peer-{peer}/host.toml"), text);
        }
        cluster
    }

    pub(crate) fn path(&self, peer: u32, name: &str) -> PathBuf {
        self.place.path(&format!("peer-{peer}/{name}"))
    }

    /// Starts a database and waits until it prints its addresses.
    fn database(&self, peer: u32) -> Database {
        let dir = format!("peer-{peer}/redis");
        let plain = ["--without-module"];
        let arguments = [&["redis", "run", "--dir", &dir, "-o", "json"], &plain[..usize::from(self.is_plain)]].concat();
        let mut child = self.place.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        let printed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(printed["module"], !self.is_plain);
        let server = Pid::from_raw(printed["process"].as_i64().unwrap().try_into().unwrap()).unwrap();
        Database { runner: child, server }
    }

    /// Sends a signal to a server, waits until it ends, and starts it again with the data it saved.
    pub(crate) fn restart_database(&mut self, peer: u32, signal: Signal) {
        let database = &mut self.databases[peer as usize];
        kill_process(database.server, signal).unwrap();
        assert!(!database.runner.wait().unwrap().success(), "the program was not asked to end");
        self.databases[peer as usize] = self.database(peer);
    }

    pub(crate) fn host(&self, peer: u32) -> Child {
        let config = format!("peer-{peer}/host.toml");
        let mut command = self.place.command(&["host", "--config", &config, "-o", "json", "--quiet"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a host and waits until it has logged `calls` calls of functions, so that it is in mid-run.
    pub(crate) fn host_in_the_middle(&self, peer: u32, calls: usize) -> Child {
        self.place.start(&["host", "--config", &format!("peer-{peer}/host.toml")], calls)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for Database { runner, .. } in &mut self.databases {
            // It may have ended already; if not, its server must end with it.
            let _ = kill_process(Pid::from_child(runner), Signal::TERM);
            let _ = runner.wait();
        }
    }
}

/// Waits for hosts, which must succeed, and returns their summaries.
pub(crate) fn finish(hosts: Vec<Child>) -> Vec<Value> {
    let ended: Vec<_> = hosts.into_iter().map(|host| host.wait_with_output().unwrap()).collect();
    // A host that fails makes others fail, so all are printed.
    let failed: Vec<_> = ended.iter().filter(|output| !output.status.success()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    ended.iter().map(|output| serde_json::from_slice(&output.stdout).unwrap()).collect()
}

fn in_one_process() -> String {
    let place = Place::new();
    place.job(JOB);
    state_hash(&place.json(&["train"]))
}

#[track_caller]
fn same_hash(summaries: &[Value], expected: &str) {
    assert!(!summaries.is_empty());
    for summary in summaries {
        assert_eq!(state_hash(summary), expected);
        assert_eq!(summary["rounds"], 60);
    }
}

/// Invariant 2: one process and many end with the same bits.
#[test]
fn one_process_and_four_have_the_same_bits_on_every_store() {
    let expected = in_one_process();
    for is_plain in [true, false] {
        let cluster = Cluster::start(JOB, is_plain);
        let hosts = (0..PEERS).map(|peer| cluster.host(peer)).collect();
        same_hash(&finish(hosts), &expected);
    }
}

/// Records and keys of a run carry its id, so a second run with the same keys meets nothing of the first.
#[test]
fn a_second_run_on_the_same_databases_has_the_same_result() {
    let cluster = Cluster::start(JOB, false);
    let hosts = || finish((0..PEERS).map(|peer| cluster.host(peer)).collect());
    let first = hosts();
    let configure = |peer: u32, settings: &str| {
        let config = cluster.path(peer, "host.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(config, text.replacen("dir = \".\"", settings, 1)).unwrap();
    };
    configure(0, "dir = \".\"\nrun = 1");
    let error = cluster.place.fails(&["host", "--config", "peer-0/host.toml"]);
    assert!(error.contains("another run of this job: `run` is 1 here and 0 in the checkpoint"), "{error}");
    assert!(error.contains("choose another `dir`"), "{error}");
    configure(0, "dir = \"second\"");
    (1..PEERS).for_each(|peer| configure(peer, "dir = \"second\"\nrun = 1"));
    let second = hosts();
    same_hash(&second, &state_hash(&first[0]));
    assert!(second.iter().all(|summary| summary["rounds_run"] == 60), "from the first round on");
    assert_eq!(first[0]["job"], second[0]["job"]);
    assert_ne!(first[0]["run"], second[0]["run"]);
}

/// Invariant 8: a host that is killed anywhere resumes where it was, and the others wait for it.
#[test]
fn a_host_that_is_killed_and_started_again_changes_no_bit() {
    let expected = in_one_process();
    let cluster = Cluster::start(JOB, false);
    let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    for calls in [3, 40, 70, 22] {
        let mut victim = cluster.host_in_the_middle(0, calls);
        kill_process(Pid::from_child(&victim), Signal::KILL).unwrap();
        assert!(!victim.wait().unwrap().success());
    }
    same_hash(&finish(vec![cluster.host(0)]), &expected);
    same_hash(&finish(others), &expected);
}

/// `skein up` yields the same bits with processes and databases or in one process, and leaves no process behind.
#[test]
fn one_command_runs_all_peers_and_leaves_nothing_behind() {
    let place = Place::new();
    place.job(JOB);
    let expected = in_one_process();
    assert_eq!(state_hash(&place.json(&["up"])), expected);
    for arguments in [&["up", "--redis", "--dir", "run"][..], &["up", "--redis", "--without-module"]] {
        let summary = place.json(arguments);
        assert_eq!(state_hash(&summary), expected, "{arguments:?}");
        assert_eq!((summary["peers"].as_u64(), summary["hosts"].as_array().unwrap().len()), (Some(4), 4));
    }
    // The run in the folder is resumed, here with nothing left to do.
    assert_eq!(state_hash(&place.json(&["up", "--redis", "--dir", "run"])), expected);
    // Another run is refused before anything in the folder changes.
    let files = ["manifest.toml", "peer-0/host.toml"].map(|file| place.path("run").join(file));
    let before = files.clone().map(|file| std::fs::read(file).unwrap());
    let error = place.fails(&["up", "--redis", "--dir", "run", "--run", "3", "--rounds", "70"]);
    assert!(error.contains("`run` is 3 here and 0 in the checkpoint"), "{error}");
    assert_eq!(files.map(|file| std::fs::read(file).unwrap()), before);
    assert!(processes_of(&place).is_empty(), "{:?}", processes_of(&place));
}

/// Each of its hosts reads the data.
#[test]
fn one_command_warns_once_of_a_class_without_samples() {
    let place = Place::new();
    place.write("a.csv", "1,2,1\n2,3,2\n".repeat(200));
    place.job_on("source = \"a.csv\"\n", "[model]\nnetwork = \"mlp\"\n[train]\nrounds = 1\nbatch_size = 2\n");
    for arguments in [&["up"][..], &["up", "--redis"]] {
        let finished = place.run(arguments);
        assert!(finished.success, "{}", finished.stderr);
        assert_eq!(finished.stderr.matches("no sample of class 0").count(), 1, "{}", finished.stderr);
    }
}

/// However the command ends, its hosts and databases end with it.
#[test]
fn hosts_and_databases_end_with_the_command() {
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let place = Place::new();
        place.job(&JOB.replace("rounds = 60", "rounds = 100000"));
        let (mut up, all_ended) = place.start_watched(&["up", "--redis", "--dir", "run"], 40);
        let running = processes_of(&place);
        assert!(running.len() >= 8, "four hosts and four databases: {running:?}");
        kill_process(Pid::from_child(&up), signal).unwrap();
        assert!(!up.wait().unwrap().success());
        let ended = all_ended.recv_timeout(Duration::from_secs(60));
        assert!(ended.is_ok(), "{:?} outlive the command that started them, after {signal:?}", processes_of(&place));
    }
}

/// A host and a database that are killed are started again, and nothing is lost.
#[test]
fn what_dies_is_started_again() {
    let expected = in_one_process();
    let place = Place::new();
    place.job(JOB);
    let mut command = place.command(&["up", "--redis", "--dir", "run", "-o", "json"]);
    command.env("SKEIN_LOG", "skein_runtime=debug").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut up = command.spawn().unwrap();
    let mut notes = BufReader::new(up.stderr.take().unwrap()).lines().map(Result::unwrap);
    let calls = notes.by_ref().take(40);
    assert_eq!(calls.count(), 40, "it is in mid-run");
    for victim in ["run/peer-1/host.toml", "run/peer-2/redis/"] {
        let [process] = processes_with(&place, victim)[..] else { panic!("one process names {victim}") };
        kill_process(Pid::from_raw(process.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let note = notes.find(|note| note.contains("died with")).unwrap();
        assert!(note.contains(victim.trim_end_matches('/')) && note.contains("is started again in 0.2 s"), "{note}");
    }
    notes.for_each(drop);
    let ended = up.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(state_hash(&serde_json::from_slice(&ended.stdout).unwrap()), expected);
}

/// Processes whose command line names the folder.
fn processes_of(place: &Place) -> Vec<u32> {
    processes_with(place, "")
}

/// Processes whose command line names a path in the folder.
fn processes_with(place: &Place, path: &str) -> Vec<u32> {
    let folder = place.path("").canonicalize().unwrap().join(path);
    let folder = folder.to_str().unwrap().trim_end_matches('/').as_bytes();
    let names = |process: &u32| {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.windows(folder.len()).any(|window| window == folder)
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(names).collect()
}

/// Workers join, are killed in the middle of tasks, and leave; every batch counts once.
#[test]
fn workers_that_are_killed_change_no_bit() {
    let cluster = Cluster::start(JOB, false);
    let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    let host = cluster.host_in_the_middle(0, 10);
    let redis = cluster.path(0, "redis");
    let url = format!("unix://worker@{}/redis.sock", redis.display());
    let password = redis.join("worker.password").display().to_string();
    let key = Identity::derived(SEED, 0).id().to_string();
    let arguments = ["worker", "--peer", &key, "--redis", &url, "--password-file", &password];
    for calls in [1, 4] {
        let mut victim = cluster.place.start(&arguments, calls);
        kill_process(Pid::from_child(&victim), Signal::KILL).unwrap();
        assert!(!victim.wait().unwrap().success());
    }
    let leaver = cluster.place.start(&arguments, 2);
    kill_process(Pid::from_child(&leaver), Signal::TERM).unwrap();
    assert!(leaver.wait_with_output().unwrap().status.success(), "it leaves when it is asked to");
    assert!(host.wait_with_output().unwrap().status.success());
    let expected = in_one_process();
    same_hash(&finish(others), &expected);
    same_hash(&finish(vec![cluster.host(0)]), &expected);
}

/// A worker checks the digest of everything it fetches before it uses it.
#[test]
fn a_worker_refuses_a_component_that_was_replaced() {
    let cluster = Cluster::start(JOB, false);
    finish((0..PEERS).map(|peer| cluster.host(peer)).collect());
    let redis = cluster.path(0, "redis");
    let password = redis.join("worker.password");
    let secret = std::fs::read_to_string(&password).unwrap();
    let mut database = Client::unix(&redis.join("redis.sock")).unwrap();
    assert_eq!(database.ask(&["AUTH", "worker", secret.trim()]).unwrap(), "OK");
    let keys = database.ask(&["SCAN", "0", "MATCH", "*:blob:*", "COUNT", "100000"]).unwrap();
    let component = keys.lines().find(|key| key.rsplit(':').next().unwrap().len() == 64).unwrap();
    assert!(database.ask(&["APPEND", component, "x"]).unwrap().parse::<u64>().unwrap() > 1, "it is longer now");
    let url = format!("unix://worker@{}/redis.sock", redis.display());
    let key = Identity::derived(SEED, 0).id().to_string();
    let arguments = ["worker", "--peer", &key, "--redis", &url, "--password-file", password.to_str().unwrap()];
    let error = cluster.place.fails(&arguments);
    assert!(error.contains("under the digest") && error.contains("has the digest"), "{error}");
}

/// A database that comes back empty or old gets its state from its host.
#[test]
fn a_database_that_lost_its_data_changes_no_bit() {
    lose_data(true);
}

/// The same if the database computes.
#[test]
fn a_database_with_the_module_that_lost_its_data_changes_no_bit() {
    lose_data(false);
}

/// It came back with the state, so nobody noticed that what its host had announced was gone.
#[test]
fn a_database_that_kept_its_state_and_lost_the_round_is_filled_again() {
    let expected = in_one_process();
    let mut cluster = Cluster::start(JOB, false);
    let host = cluster.host(0);
    let redis = cluster.path(0, "redis");
    let secret = std::fs::read_to_string(redis.join("owner.password")).unwrap();
    let connect = || {
        let mut database = Client::unix(&redis.join("redis.sock")).unwrap();
        assert_eq!(database.ask(&["AUTH", "owner", secret.trim()]).unwrap(), "OK");
        database
    };
    let contributions = |database: &mut Client<_>| -> Vec<String> {
        let found = database.ask(&["SCAN", "0", "MATCH", "*:contribution:1:*", "COUNT", "100000"]).unwrap();
        found.lines().skip(1).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let mut database = connect();
    assert!(until(|| !contributions(&mut database).is_empty()), "it has computed its contribution");
    for key in contributions(&mut database) {
        let records = format!("{}:records", key.split(":contribution").next().unwrap());
        assert_eq!(database.ask(&["DEL", &key, &records]).unwrap(), "2");
    }
    // It saves what is left.
    cluster.restart_database(0, Signal::TERM);
    let mut database = connect();
    assert!(until(|| !contributions(&mut database).is_empty()), "it is there again");
    let others = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    same_hash(&finish(others), &expected);
    same_hash(&finish(vec![host]), &expected);
}

fn lose_data(is_plain: bool) {
    let expected = in_one_process();
    let mut cluster = Cluster::start(JOB, is_plain);
    let others: Vec<Child> = (1..PEERS).map(|peer| cluster.host(peer)).collect();
    let host = cluster.host_in_the_middle(0, 30);
    // After SIGKILL it comes back empty. On SIGTERM it saves its data; after another SIGKILL it comes back with that.
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL, Signal::KILL] {
        cluster.restart_database(0, signal);
    }
    same_hash(&finish(others), &expected);
    assert!(host.wait_with_output().unwrap().status.success());
    same_hash(&finish(vec![cluster.host(0)]), &expected);
}
