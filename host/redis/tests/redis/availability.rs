//! A database that answers but cannot serve for a while: the store waits, within bounds, and names the reason.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use skein_redis::{self, Options};
use skein_store::{PeerStore, Ports, StoreError};
use skein_types::PeerId;

use crate::client;
use crate::faults::{LEN, command, impatient, open, run, zeros};
use crate::scope;
use crate::server::Server;

/// Asks until the answer contains `words`.
fn until(server: &Server, question: &[&str], words: &str) {
    let is_found = client::until(|| command(server, question).contains(words));
    assert!(is_found, "{question:?} never returned {words}");
}

/// Waits until the server has refused something with this code.
fn until_refused(server: &Server, code: &str) {
    until(server, &["INFO", "errorstats"], &format!("errorstat_{code}:"));
}

/// A store that waits, and one that gives up at once.
async fn stores(server: &Server) -> [Ports; 2] {
    let stores = [open(&server.options()).await, open(&impatient(server)).await];
    stores[0].state.set_state(zeros()).await.expect("a state");
    stores
}

/// Stores values while the server refuses them with `code`, until `fix` takes effect.
async fn outlasts(server: &Server, store: Ports, code: &str, fix: impl FnOnce()) {
    let waiting =
        tokio::spawn(
            async move { store.contributions.put_contribution(1, PeerId([2; 32]), vec![1.5; LEN].into()).await },
        );
    until_refused(server, code);
    fix();
    waiting.await.expect("it ends").expect("stored in the end");
}

/// Checks that the error after `outage_max` names the database and contains `expected`.
async fn refused(store: &Ports, expected: &str) {
    let error = store
        .state
        .put_round_metadata(1, b"metadata".to_vec())
        .await
        .expect_err("it does not pass in time")
        .to_string();
    assert!(error.contains("redis.sock") && error.contains(expected), "{error}");
}

#[test]
fn a_database_out_of_memory_is_waited_for() {
    run(async |kind| {
        let server = kind.start(&[]);
        let [patient, impatient] = stores(&server).await;
        command(&server, &["CONFIG", "SET", "maxmemory", "1mb"]);
        refused(&impatient, "raise its `maxmemory`").await;
        outlasts(&server, patient, "OOM", || {
            command(&server, &["CONFIG", "SET", "maxmemory", "0"]);
        })
        .await;
    });
}

/// A full disk ended every host whose database could not save.
#[test]
fn a_database_that_cannot_save_is_waited_for() {
    run(async |kind| {
        let server = kind.start(&[]);
        let [patient, impatient] = stores(&server).await;
        // The server cannot save to a file whose name is a folder's.
        let dump = server.socket().with_file_name("dump.rdb");
        std::fs::create_dir(&dump).expect("a folder");
        command(&server, &["CONFIG", "SET", "save", "3600 1"]);
        command(&server, &["BGSAVE"]);
        until(&server, &["INFO", "persistence"], "rdb_last_bgsave_status:err");
        refused(&impatient, "make room on its disk").await;
        outlasts(&server, patient, "MISCONF", || {
            std::fs::remove_dir(&dump).expect("it is empty");
            command(&server, &["BGSAVE"]);
        })
        .await;
    });
}

/// How many connections the server has refused, asked over an open one.
fn rejected(inside: &mut UnixStream) -> u64 {
    inside.write_all(b"INFO stats\r\n").expect("written");
    let mut text = String::new();
    let mut bytes = [0; 1 << 14];
    let field = "rejected_connections:";
    while !text.split_once(field).is_some_and(|(_, rest)| rest.contains('\n')) {
        let read = inside.read(&mut bytes).expect("an answer");
        text += &String::from_utf8_lossy(&bytes[..read]);
    }
    // The rest of the answer follows the field, and is read with the next answer.
    let (_, rest) = text.rsplit_once(field).expect("it was found");
    rest.lines().next().and_then(|number| number.trim().parse().ok()).expect("a number")
}

/// Readers that took all connections ended the owner's host.
#[test]
fn a_database_without_a_free_connection_is_waited_for() {
    run(async |kind| {
        let server = kind.start(&["--maxclients", "12"]);
        open(&server.options()).await.state.set_state(zeros()).await.expect("a state");
        let mut inside = UnixStream::connect(server.socket()).expect("a connection");
        rejected(&mut inside);
        let crowd: Vec<_> = (0..40).map(|_| UnixStream::connect(server.socket()).expect("a connection")).collect();
        let error = skein_redis::open(&impatient(&server), scope(LEN)).await.err().expect("all connections are taken");
        assert!(error.to_string().contains("raise its `maxclients`"), "{error}");
        let refused_before = rejected(&mut inside);
        let options = server.options();
        let waiting = tokio::spawn(async move { skein_redis::open(&options, scope(LEN)).await });
        let is_refused = client::until(|| rejected(&mut inside) > refused_before);
        assert!(is_refused, "the host never connected");
        drop(crowd);
        waiting.await.expect("it ends").expect("there is room again").state.digests().await.expect("a state");
    });
}

/// A database that loads for longer than `outage_max` is not out of reach: it answers that it is loading.
#[test]
fn a_database_that_loads_its_data_is_waited_for() {
    // A hundred keys take two seconds, in which the server answers after each.
    let slow = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
    run(async |kind| {
        let mut server = kind.start(&slow);
        let options = Options { outage_max: Duration::from_secs(1), ..server.options() };
        let store = open(&options).await;
        store.state.set_state(zeros()).await.expect("a state");
        for key in 0..100 {
            command(&server, &["SETRANGE", &format!("key:{key}"), "2000", "value"]);
        }
        command(&server, &["SAVE"]);
        server.kill();
        server.restart();
        let begun = std::time::Instant::now();
        assert_eq!(store.state.digests().await.expect("it was saved").round, 0);
        assert!(begun.elapsed() > options.outage_max, "it was ready at once: the store never waited");
    });
}

/// Without TLS, anyone between the two machines could read the password.
#[test]
fn remote_servers_without_tls_are_refused() {
    for url in [
        "redis://owner@10.0.0.1:6380",
        "redis://database.example",
        "redis+sentinel://peer@sentinel-a.example,127.0.0.1/mine",
        "redis+cluster://peer@[2001:db8::1]",
    ] {
        let options = Options::new(url.parse().expect("an address"));
        let error = skein_redis::read(&options, scope(LEN)).err().expect("it is refused");
        let text = crate::shown(&error);
        assert!(text.contains("another machine") && text.contains("rediss"), "{text}");
    }
    for url in ["redis://127.8.0.1", "redis://localhost", "redis://[::1]:7000", "unix:///run/redis.sock"] {
        let options = Options::new(url.parse().expect("an address"));
        let read: Result<Arc<dyn PeerStore>, StoreError> = skein_redis::read(&options, scope(LEN));
        assert!(read.is_ok(), "{url} is this machine");
    }
}
