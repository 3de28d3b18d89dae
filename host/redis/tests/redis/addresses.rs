//! Addresses of servers behind real sentinels and a real cluster.

use std::net::TcpListener;

use skein_redis::{self, Options};
use skein_store::State;

use crate::client::{self, Client};
use crate::scope;
use crate::server::{Kind, Server};

/// A port that was free a moment ago.
fn port() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").port().to_string()
}

/// The answer of the server at a port of this machine; empty if none takes the command.
fn ask(port: &str, words: &[&str]) -> String {
    Client::tcp(port).and_then(|mut client| client.ask(words)).unwrap_or_default()
}

/// Sends a command until the server's answer contains `answer`.
fn until(port: &str, words: &[&str], answer: &str) {
    let is_found = client::until(|| ask(port, words).contains(answer));
    assert!(is_found, "{words:?} never returned {answer}");
}

fn check(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let options = Options::new(url.parse().expect("an address"));
        let store = skein_redis::open(&options, scope(3)).await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let state = State::new(7, vec![1.0, 2.0, 3.0].into(), vec![]);
        store.state.set_state(state.clone()).await.expect("a state");
        store.state.put_round_metadata(7, b"metadata".to_vec()).await.expect("kept");
        store.state.prune_before(8).await.expect("pruned");
        let again = skein_redis::open(&options, scope(3)).await.expect("a database");
        assert_eq!(again.state.state().await.expect("a state"), state);
    });
}

#[test]
fn sentinels_name_the_master() {
    let master = port();
    let sentinel = port();
    let _master = Kind::Module.start(&["--port", &master]);
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("sentinel.conf");
    std::fs::write(&config, format!("port {sentinel}\nsentinel monitor mine 127.0.0.1 {master} 1\n")).expect("written");
    let _sentinel = Server::run(&[config.to_str().expect("a path"), "--sentinel"]);
    until(&sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mine"], &master);
    // The first sentinel is down.
    check(&format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/mine"));
}

#[test]
fn a_remote_master_that_sentinels_name_gets_no_password_without_tls() {
    let master = port();
    let sentinel = port();
    let _master = Kind::Plain.start(&["--port", &master]);
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("sentinel.conf");
    // Not an address of the loopback network, although this machine answers there.
    std::fs::write(&config, format!("port {sentinel}\nsentinel monitor mine 0.0.0.0 {master} 1\n")).expect("written");
    let _sentinel = Server::run(&[config.to_str().expect("a path"), "--sentinel"]);
    until(&sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mine"], "0.0.0.0");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let url = format!("redis+sentinel://127.0.0.1:{sentinel}/mine").parse().expect("an address");
        let error = skein_redis::open(&Options::new(url), scope(3)).await.err().expect("it is refused").to_string();
        assert!(error.contains(&format!("0.0.0.0:{master}")) && error.contains("without TLS"), "{error}");
    });
}

#[test]
fn a_remote_node_that_a_cluster_names_gets_no_password_without_tls() {
    let seed = port();
    let bus = port();
    // An address of the block that networks may not use: nothing would answer, and nothing is sent.
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-announce-ip", "240.0.0.1"];
    let _node = Kind::Plain.start(&[&["--port", &seed][..], &cluster].concat());
    until(&seed, &["PING"], "PONG");
    assert_eq!(ask(&seed, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    until(&seed, &["CLUSTER", "SLOTS"], "240.0.0.1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let url = format!("redis+cluster://127.0.0.1:{seed}").parse().expect("an address");
        let error = skein_redis::open(&Options::new(url), scope(3)).await.err().expect("it is refused").to_string();
        assert!(error.contains(&format!("240.0.0.1:{seed}")) && error.contains("without TLS"), "{error}");
    });
}

/// Two nodes: the seed is the one that holds the peer's keys, or the other.
#[test]
fn a_cluster_names_the_node_that_holds_the_keys() {
    let ports = [port(), port()];
    let start = |kind: Kind, port: &str| {
        kind.start(&["--port", port, "--cluster-enabled", "yes", "--cluster-port", &self::port()])
    };
    let _nodes = [start(Kind::Module, &ports[0]), start(Kind::Module, &ports[1])];
    for port in &ports {
        until(port, &["PING"], "PONG");
    }
    let command = |port: &str, words: &[&str]| assert_eq!(ask(port, words), "OK", "{words:?}");
    command(&ports[0], &["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    command(&ports[1], &["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    let bus = |index: usize| {
        let text = ask(&ports[index], &["CLUSTER", "NODES"]);
        let address = text.split(' ').nth(1).expect("an address").to_owned();
        address.rsplit_once('@').expect("a bus").1.split(',').next().expect("a port").to_owned()
    };
    command(&ports[0], &["CLUSTER", "MEET", "127.0.0.1", &ports[1], &bus(1)]);
    for port in &ports {
        until(port, &["CLUSTER", "INFO"], "cluster_state:ok");
        until(port, &["CLUSTER", "INFO"], "cluster_known_nodes:2");
    }
    for seed in &ports {
        check(&format!("redis+cluster://127.0.0.1:{seed}"));
    }
    keys_that_move_are_waited_for(&ports);
}

/// A peer's host ended while its keys moved to another node.
fn keys_that_move_are_waited_for(ports: &[String; 2]) {
    let keys: Vec<String> = ports.iter().map(|port| ask(port, &["KEYS", "*"])).collect();
    let owner = usize::from(keys[0].is_empty());
    let slot = ask(&ports[owner], &["CLUSTER", "KEYSLOT", keys[owner].lines().next().expect("a key")]);
    let id = ask(&ports[1 - owner], &["CLUSTER", "MYID"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let url = format!("redis+cluster://127.0.0.1:{}", ports[0]).parse().expect("an address");
        let store = skein_redis::open(&Options::new(url), scope(3)).await.expect("a database");
        assert_eq!(ask(&ports[owner], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id]), "OK");
        // A missing key may already be at the other node.
        let waiting = tokio::spawn(async move { store.state.round_metadata(99).await });
        let is_asked = client::until(|| ask(&ports[owner], &["INFO", "errorstats"]).contains("errorstat_ASK:"));
        assert!(is_asked, "the host never met a moving key");
        assert_eq!(ask(&ports[owner], &["CLUSTER", "SETSLOT", &slot, "STABLE"]), "OK");
        assert_eq!(waiting.await.expect("it ends").expect("it stayed"), None);
    });
}
