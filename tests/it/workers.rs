//! Workers that fail at their tasks: they cost time, never a batch, a bit or a host.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skein_protocol::identity::Identity;

use crate::client::Client;
use crate::guests;
use crate::harness::{Finished, Place, dist, state_hash};
use crate::peers::{Cluster, PEERS, SEED, finish};

/// Memory limits of the gradient function: every call exceeds the first, none the second.
const LITTLE_MIB: u32 = 1;
const ENOUGH_MIB: u32 = 64;

/// A small job whose gradient function has this memory limit. Limits are not part of a job's identity, so hosts whose
/// manifests differ in them work on the same job.
fn job(memory_mib: u32) -> String {
    format!(
        "[model]\nhidden = [16]\n[train]\nseed = 5\nrounds = 40\nbatches_per_round = 4\ngradient = \"mine\"\n\
         [function.mine]\nsource = \"builtin:gradient-mlp\"\n[function.mine.limits]\nmemory_mib = {memory_mib}\n"
    )
}

/// Command-line arguments for the first peer's database.
fn database(cluster: &Cluster, user: &str) -> [String; 4] {
    let redis = cluster.path(0, "redis");
    let url = format!("unix://{user}@{}/redis.sock", redis.display());
    ["--redis".into(), url, "--password-file".into(), redis.join(format!("{user}.password")).display().to_string()]
}

fn queue(cluster: &Cluster, command: &str) -> Vec<Value> {
    let database = database(cluster, "owner");
    let arguments: Vec<&str> = ["queue", command].into_iter().chain(database.iter().map(String::as_str)).collect();
    cluster.place.json(&arguments)["letters"].as_array().unwrap().clone()
}

/// Runs the first peer's host, which must fail because of a batch, and returns its standard error.
fn host_that_gives_up(cluster: &Cluster) -> String {
    let Finished { stderr, success, .. } = cluster.place.run(&["host", "--config", "peer-0/host.toml"]);
    assert!(!success, "{stderr}");
    stderr
}

/// A worker of the first peer, and the lines of its standard error.
struct Worker {
    child: Child,
    lines: Receiver<String>,
    reader: JoinHandle<()>,
}

/// Within which a worker must say what a test waits for.
const BOUND: Duration = Duration::from_secs(60);

/// Command-line arguments of a worker for the first peer's database, which takes it for that of peer `of`.
fn arguments(cluster: &Cluster, of: u32) -> Vec<String> {
    let key = Identity::derived(SEED, of).id().to_string();
    let own = ["worker", "--peer", &key].map(str::to_owned);
    own.into_iter().chain(database(cluster, "worker")).collect()
}

impl Worker {
    fn start(cluster: &Cluster) -> Worker {
        let arguments = arguments(cluster, 0);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-o", "json"]).collect();
        let mut child =
            cluster.place.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in stderr.map_while(Result::ok) {
                // Nobody may listen any more, but the worker must never block on a full pipe.
                let _ = send.send(line);
            }
        });
        Worker { child, lines, reader }
    }

    /// Reads its lines until one contains `words`.
    fn says(&mut self, words: &str) {
        let end = Instant::now() + BOUND;
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return,
                Ok(line) => said.push(line),
                Err(error) => panic!("`{words}` was not said ({error}): {said:#?}"),
            }
        }
    }

    /// Waits until it has failed `times` times.
    fn fails(&mut self, times: usize) {
        (0..times).for_each(|_| self.says("released a task"));
    }

    /// Asks it to leave; returns its summary.
    fn leave(self) -> Value {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let output = self.child.wait_with_output().unwrap();
        self.reader.join().unwrap();
        assert!(output.status.success(), "it leaves when it is asked to");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A batch that fails everywhere ends the host, which reports its own failure and the fix.
#[test]
fn a_batch_that_fails_everywhere_ends_the_host_with_its_own_reason() {
    let cluster = Cluster::start(&job(LITTLE_MIB), true);
    let check = |error: &str| {
        for words in
            ["compute batch ", " of round 1: ", "function `mine` hit its limit `memory_mib = ", "skein queue redrive"]
        {
            assert!(error.contains(words), "`{words}` is not in {error}");
        }
    };
    check(&host_that_gives_up(&cluster));
    let letters = queue(&cluster, "dead");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["round"], 1);
    assert!(letters[0]["reason"].as_str().unwrap().contains("memory_mib"), "{letters:?}");
    check(&host_that_gives_up(&cluster));
    assert_eq!(queue(&cluster, "redrive"), letters);
    assert!(queue(&cluster, "dead").is_empty());
    // A worker, which tries before the host does, fails too.
    let mut worker = Worker::start(&cluster);
    worker.fails(3);
    assert!(queue(&cluster, "dead").is_empty(), "a worker never gives a task up");
    check(&host_that_gives_up(&cluster));
    assert_eq!(worker.leave()["counted"], 0);
}

/// A limit was too low, so the host ended; it was raised, and all hosts were started again. One worker still has the
/// old limit and fails at every task.
#[test]
fn a_worker_that_fails_at_everything_changes_no_bit_and_ends_no_host() {
    let cluster = Cluster::start(&job(LITTLE_MIB), false);
    host_that_gives_up(&cluster);
    let mut worker = Worker::start(&cluster);
    worker.fails(3);
    worker.says("this worker pauses");
    assert_eq!(queue(&cluster, "redrive").len(), 1, "the one that the host itself failed at");
    cluster.place.job(&job(ENOUGH_MIB));
    let expected = state_hash(&cluster.place.json(&["train"]));
    let hosts = (0..PEERS).map(|peer| cluster.host(peer)).collect();
    for summary in finish(hosts) {
        assert_eq!((state_hash(&summary), &summary["rounds"]), (expected.clone(), &Value::from(40)));
    }
    assert!(queue(&cluster, "dead").is_empty());
    let done = worker.leave();
    assert_eq!(done["counted"], 0, "{done}");
    assert!(done["released"].as_u64() >= Some(1) && done["pauses"].as_u64() >= Some(1), "{done}");
    assert!(done["last_failure"].as_str().unwrap().contains("memory_mib"), "{done}");
}

/// Lets all hosts train the run of that number next, beside those before.
fn next_run(cluster: &Cluster, number: usize) {
    for peer in 0..PEERS {
        let config = cluster.path(peer, "host.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let others = text.lines().filter(|line| !["dir = ", "run = "].iter().any(|key| line.starts_with(key)));
        let text = others.fold(format!("dir = \"run-{number}\"\nrun = {number}\n"), |text, line| text + line + "\n");
        std::fs::write(config, text).unwrap();
    }
}

#[test]
fn a_worker_goes_on_with_the_next_run_of_its_host() {
    let cluster = Cluster::start(&job(ENOUGH_MIB), false);
    let hosts = || finish((0..PEERS).map(|peer| cluster.host(peer)).collect());
    let first = hosts();
    let mut worker = Worker::start(&cluster);
    worker.says("working on the queue");
    next_run(&cluster, 1);
    let second = hosts();
    assert_ne!(first[0]["run"], second[0]["run"]);
    worker.says(&format!("the host has begun another run: {}", second[0]["run"].as_str().unwrap()));
    worker.says("working on the queue");
    worker.leave();
}

/// A job whose gradient function does harm, with limits of which it hits one.
fn hostile(source: &Path, behaviour: &str, limits: &str) -> String {
    let cpu = if behaviour == "loop" { "200ms" } else { "60s" };
    format!(
        "[model]\nhidden = [16]\n[train]\nseed = 5\nrounds = 40\nbatches_per_round = 4\ngradient = \"mine\"\n\
         [function.mine]\nsource = \"{}\"\nsettings = {{ behaviour = \"{behaviour}\" }}\n\
         [function.mine.limits]\ncpu = \"{cpu}\"\n{limits}\n",
        source.display()
    )
}

/// A function that asks for a setting whose name has 64 MiB, and one that ends its program.
fn assembled(place: &Place) -> [PathBuf; 2] {
    let name = "(memory.fill (i32.const 131072) (i32.const 97) (i32.const 67108864))
      (call $setting (i32.const 131072) (i32.const 67108864) (i32.const 512))";
    let exit = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
    let components = [
        ("names.wasm", guests::gradient(guests::IMPORTS, &guests::reserving(1040), name)),
        ("exits.wasm", guests::gradient(exit, "", "(call $exit (i32.const 0))")),
    ];
    components.map(|(file, component)| {
        std::fs::write(place.path(file), component).unwrap();
        place.path(file)
    })
}

/// Most that a worker's memory may grow from the first time of a hostile function to the third.
const GROWTH_KIB_MAX: u64 = 50 << 10;

fn resident_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One worker, and hosts that train one hostile function after the other, each of which it fails at three times.
#[test]
fn a_worker_survives_hostile_functions_and_serves_the_next() {
    let probe = dist("gradient-probe");
    let small = "memory_mib = 64\nhandles = 1000";
    let many = "memory_mib = 64\nhandles = 1000000";
    let cluster = Cluster::start(&hostile(&probe, "trap", small), false);
    let [names, exits] = assembled(&cluster.place);
    host_that_gives_up(&cluster);
    let mut worker = Worker::start(&cluster);
    let mut resident = Vec::new();
    for (run, (source, behaviour, limits, words)) in [
        (&probe, "trap", small, "function `mine` trapped: wasm trap: wasm `unreachable`"),
        (&probe, "loop", small, "function `mine` hit its limit `cpu = 200ms`"),
        (&probe, "allocate", small, "function `mine` hit its limit `memory_mib = 64`"),
        (&probe, "handles", small, "function `mine` hit its limit `handles = 1000`"),
        (&probe, "dimensions", many, "function `mine` hit its limit `memory_mib = 64`"),
        (&probe, "views", many, "function `mine` hit its limit `memory_mib = 64`"),
        (&probe, "huge-rank", small, "a tensor has at most 16 dimensions"),
        (&probe, "recurse", small, "call stack exhausted"),
        (&probe, "nan-loss", small, "the loss is NaN"),
        (&probe, "nan", small, "is not finite"),
        (&names, "", "memory_mib = 256\nhostcall_mib = 63", "function `mine` hit its limit `hostcall_mib = 63`"),
        (&exits, "", small, "it ended its program with status 0 and returned nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        if run > 0 {
            cluster.place.job(&hostile(source, behaviour, limits));
            next_run(&cluster, run);
            host_that_gives_up(&cluster);
            worker.says("the host has begun another run");
        }
        worker.says(words);
        let first = resident_kib(&worker.child);
        (1..3).for_each(|_| worker.says(words));
        resident.push((first, resident_kib(&worker.child)));
    }
    println!("resident memory of the worker in KiB after the first and the third time: {resident:?}");
    assert!(resident.iter().all(|(first, third)| *third <= first + GROWTH_KIB_MAX), "{resident:?}");

    cluster.place.job(&job(ENOUGH_MIB));
    next_run(&cluster, resident.len());
    // Until the others start, this one waits in its first round.
    let mut hosts = vec![cluster.host(0)];
    worker.says("the host has begun another run");
    worker.says("working on the queue");
    hosts.extend((1..PEERS).map(|peer| cluster.host(peer)));
    finish(hosts);
    let done = worker.leave();
    assert!(done["counted"].as_u64() >= Some(1), "{done}");
}

/// Without the host's signature, everybody who reaches the database could make its workers run any code.
#[test]
fn a_worker_runs_only_what_the_host_that_it_was_told_has_signed() {
    let cluster = Cluster::start(&job(ENOUGH_MIB), false);
    finish((0..PEERS).map(|peer| cluster.host(peer)).collect());
    let fails = |of: u32| {
        let arguments = arguments(&cluster, of);
        cluster.place.fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let [own, other] = [0, 1].map(|index| Identity::derived(SEED, index).id().to_string());
    let error = fails(1);
    assert!(error.contains(&format!("is that of peer {own}, not of {other} (`--peer`)")), "{error}");

    let secret = std::fs::read_to_string(cluster.path(0, "redis/worker.password")).unwrap();
    let mut database = Client::unix(&cluster.path(0, "redis/redis.sock")).unwrap();
    assert_eq!(database.ask(&["AUTH", "worker", secret.trim()]).unwrap(), "OK");
    let keys = database.ask(&["SCAN", "0", "MATCH", "*:blob:bundle", "COUNT", "100000"]).unwrap();
    let bundle = keys.lines().find(|key| key.ends_with(":blob:bundle")).unwrap();
    let signed = database.ask(&["GET", bundle]).unwrap();
    let changed = signed.replace("memory_mib = 64", "memory_mib = 65");
    assert_ne!(changed, signed);
    assert_eq!(database.ask(&["SET", bundle, &changed]).unwrap(), "OK");
    let error = fails(0);
    assert!(error.contains(&format!("is not signed by peer {own} for the run")), "{error}");
    // The host writes it again when it starts.
    finish(vec![cluster.host(0)]);
    let mut worker = Worker::start(&cluster);
    worker.says("working on the queue");
    worker.leave();
}

#[test]
fn a_manifest_above_the_ceilings_of_a_host_is_refused_with_both_numbers() {
    let cluster = Cluster::start(&job(ENOUGH_MIB), false);
    let config = cluster.path(0, "host.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(config, format!("{text}[ceilings]\nmemory_mib = 63\n")).unwrap();
    let error = host_that_gives_up(&cluster);
    for part in ["`mine` asks for `memory_mib = 64`", "at most 63", "`[function.mine.limits]`", "`[ceilings]`"] {
        assert!(error.contains(part), "{error}");
    }
}
