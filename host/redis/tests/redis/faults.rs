//! A store whose database is away, comes back, loses data, refuses commands, or lies.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skein_redis::{self, Options, secret};
use skein_store::{Aggregate, PeerStore, Ports, State, StoreError};
use skein_types::Values;

use crate::client::Client;
use crate::server::{Kind, Server};
use crate::suite::{slot, update};
use crate::{ME, scope, shown};

pub(crate) const LEN: usize = 64;

/// Runs `test` for both kinds of databases.
pub(crate) fn run(test: impl AsyncFn(Kind)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for kind in Kind::ALL {
            println!("with {kind:?}");
            test(kind).await;
        }
    });
}

/// Options that give up quickly instead of waiting.
pub(crate) fn impatient(server: &Server) -> Options {
    Options { outage_max: Duration::from_millis(100), ..server.options() }
}

pub(crate) fn zeros() -> State {
    State::new(0, vec![0.0; LEN].into(), vec![vec![0.0; LEN].into()])
}

pub(crate) async fn open(options: &Options) -> Ports {
    skein_redis::open(options, scope(LEN)).await.expect("a database")
}

/// Returns the error with which a database is refused.
async fn refusal(options: &Options) -> StoreError {
    match skein_redis::open(options, scope(LEN)).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

/// Runs a command over a connection of its own; the answer is empty if the server does not take it.
pub(crate) fn command(server: &Server, words: &[&str]) -> String {
    Client::unix(&server.socket()).and_then(|mut client| client.ask(words)).unwrap_or_default()
}

#[test]
fn a_database_that_is_down_at_the_start_is_named() {
    run(async |kind| {
        let mut server = kind.start(&[]);
        open(&server.options()).await;
        server.kill();
        let error = refusal(&server.options()).await;
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("redis.sock"), "{error}");
    });
}

#[test]
fn commands_wait_for_a_database_that_went_away() {
    run(async |kind| {
        // Acknowledged writes must be on disk, however busy it is.
        let mut server = kind.start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let store = open(&server.options()).await;
        store.state.set_state(zeros()).await.expect("a state");
        store.sums.accumulate(1, slot(0, 2), vec![1.0; LEN]).await.expect("counted");
        server.kill();
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.sums.accumulate(1, slot(1, 2), vec![2.0; LEN]).await }
        });
        tokio::task::yield_now().await;
        server.restart();
        waiting.await.expect("it ends").expect("counted");
        let average = store.sums.average(1, ME).await.expect("both batches arrived");
        // 1 sample of 1.0 and 2 of 2.0, each counted once.
        assert_eq!(average.samples, 3);
        assert_eq!(store.contributions.contribution(1, ME).await.expect("readable").expect("there")[0], 5.0 / 3.0);
    });
}

#[test]
fn a_database_that_stays_away_is_an_error_after_outage_max() {
    run(async |kind| {
        let mut server = kind.start(&[]);
        let store = open(&Options { outage_max: Duration::from_millis(200), ..server.options() }).await;
        store.state.set_state(zeros()).await.expect("a state");
        server.kill();
        let error = store.state.digests().await.expect_err("the server is down");
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    });
}

#[test]
fn an_empty_database_has_no_state() {
    run(async |kind| {
        let mut server = kind.start(&[]);
        let store = open(&server.options()).await;
        store.state.set_state(zeros()).await.expect("a state");
        server.kill();
        server.restart();
        assert!(matches!(store.state.digests().await, Err(StoreError::NoState)));
        assert!(matches!(store.state.parameters().await, Err(StoreError::NoState)));
        assert!(matches!(store.state.apply(update(1, 1.0, LEN)).await, Err(StoreError::NoState)));
        assert!(matches!(store.sums.accumulate(1, slot(0, 1), vec![0.0; LEN]).await, Err(StoreError::NoState)));
        assert!(matches!(store.sums.average(1, ME).await, Err(StoreError::Incomplete { round: 1 })));
    });
}

#[test]
fn a_database_out_of_memory_is_named_and_keeps_its_data() {
    run(async |kind| {
        let server = kind.start(&[]);
        let store = open(&impatient(&server)).await;
        store.state.set_state(zeros()).await.expect("a state");
        let before = store.state.digests().await.expect("a state");
        command(&server, &["CONFIG", "SET", "maxmemory", "1mb"]);
        let error = store.contributions.put_contribution(1, ME, vec![1.0; LEN].into()).await.expect_err("no room");
        assert!(matches!(error, StoreError::OutOfMemory { .. }), "{error:?}");
        let error = store.state.apply(update(1, 1.0, LEN)).await.expect_err("no room");
        assert!(matches!(error, StoreError::OutOfMemory { .. }), "{error:?}");
        assert_eq!(store.state.digests().await.expect("a state"), before);
        command(&server, &["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(store.state.apply(update(1, 1.0, LEN)).await.expect("there is room again").round, 1);
    });
}

#[test]
fn users_do_what_they_may_and_nothing_else() {
    run(async |kind| {
        let server = kind.start(&[]);
        let owner = open(&server.options()).await;
        owner.state.set_state(zeros()).await.expect("a state");
        owner.contributions.put_contribution(1, ME, vec![1.5; LEN].into()).await.expect("kept");
        owner.records.publish(b"record".to_vec()).await.expect("published");
        let rules = "on >pass resetkeys resetchannels %R~skein:*:public:* -@all +ping +hello +auth +get +xread";
        let tensors = if kind == Kind::Module { " +skein.get +skein.version" } else { "" };
        let rules = format!("{rules}{tensors}");
        let words: Vec<&str> = ["ACL", "SETUSER", "peer"].into_iter().chain(rules.split(' ')).collect();
        assert_eq!(command(&server, &words).trim(), "OK");
        let dir = tempfile::tempdir().expect("a folder");
        let password = dir.path().join("password");
        secret::create(&password, "pass\n").expect("written");
        let url = format!("unix://peer@{}", server.socket().display()).parse().expect("an address");
        let options = Options { password_file: Some(password.clone()), ..Options::new(url) };

        let reader = skein_redis::read(&options, scope(LEN)).expect("files that can be read");
        assert_eq!(reader.contribution(1, ME).await.expect("readable").expect("there").len(), LEN);
        assert_eq!(reader.contribution(2, ME).await.expect("readable"), None);
        assert_eq!(reader.records(0, Duration::ZERO).await.expect("readable").len(), 1);
        // Opening the database as this user fails, and the error names the command that it may not use.
        let error = refusal(&options).await;
        assert!(matches!(&error, StoreError::Denied { reason, .. } if reason.contains("info")), "{error:?}");

        std::fs::write(&password, "wrong\n").expect("written");
        let reader = skein_redis::read(&options, scope(LEN)).expect("files that can be read");
        let error = reader.contribution(1, ME).await.expect_err("a wrong password");
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        let missing = Options { password_file: Some(dir.path().join("none")), ..options };
        let error = skein_redis::read(&missing, scope(LEN)).err().expect("no such file");
        assert!(shown(&error).contains("failed to read the password"), "{}", shown(&error));
    });
}

#[test]
fn keys_of_another_type_are_named() {
    run(async |kind| {
        let server = kind.start(&[]);
        let store = open(&server.options()).await;
        store.state.set_state(zeros()).await.expect("a state");
        let keys = command(&server, &["KEYS", "*:state"]);
        let key = keys.trim();
        command(&server, &["DEL", key]);
        command(&server, &["LPUSH", key, "x"]);
        let error = store.state.digests().await.expect_err("a list");
        assert!(matches!(&error, StoreError::WrongType { key: named, .. } if named == key), "{error:?}");
    });
}

/// Values that were cut, altered or replaced in the database are detected before they are used.
#[test]
fn corrupt_values_are_detected() {
    run(async |kind| {
        let server = kind.start(&[]);
        let damages: [&[&str]; 4] = match kind {
            Kind::Plain => [&["SETRANGE", "5", "x"], &["SET", "abcd"], &["SET", "abc"], &["DEL"]],
            // Only the module's commands can alter a tensor.
            Kind::Module => [&["SETRANGE", "5", "x"], &["SKEIN.SET", "0", "abcd"], &["SET", "abc"], &["DEL"]],
        };
        for (damage, error) in damages.into_iter().zip([false, true, true, true]) {
            let store = open(&server.options()).await;
            command(&server, &["FLUSHALL"]);
            store.state.set_state(zeros()).await.expect("a state");
            // Slots are zeros like the parameters, and are stored under the same hash.
            let pattern = if kind == Kind::Plain { "*:values:*" } else { "*:parameters" };
            let keys = command(&server, &["KEYS", pattern]);
            let words = [&damage[..1], &[keys.trim()], &damage[1..]].concat();
            command(&server, &words);
            // A store with an empty cache.
            let read = open(&server.options()).await.state.parameters().await;
            match (kind, error) {
                (Kind::Module, false) => assert_eq!(read.expect("the server refused the change").1[1], 0.0),
                _ => {
                    let error = read.expect_err("corrupt values");
                    let shown = error.to_string();
                    assert!(
                        shown.contains(keys.trim()) || matches!(error, StoreError::NoState),
                        "{words:?}: {error:?}"
                    );
                }
            }
        }
    });
}

#[test]
fn the_state_is_never_pruned() {
    run(async |kind| {
        let server = kind.start(&[]);
        let store = open(&server.options()).await;
        store.state.set_state(zeros()).await.expect("a state");
        for round in 1..=2 {
            store.state.apply(update(round, 1.0, LEN)).await.expect("applied");
            store.state.prune_before(round + 5).await.expect("pruned");
            // Read by a store with an empty cache.
            let read = open(&server.options()).await.state.state().await.expect("the state still exists");
            assert_eq!(read, store.state.state().await.expect("a state"));
        }
    });
}

#[test]
fn a_contribution_that_went_missing_stops_the_update() {
    run(async |kind| {
        let server = kind.start(&[]);
        let store = open(&server.options()).await;
        store.state.set_state(zeros()).await.expect("a state");
        let aggregate = Aggregate::Contributions {
            rule: skein_kernels::rule::Rule::new(&skein_kernels::mean::MEAN, 0),
            peers: vec![ME],
        };
        let refused = store.state.apply(skein_store::Update { aggregate, ..update(1, 0.0, LEN) }).await;
        assert!(matches!(refused, Err(StoreError::Missing { round: 1, peer: ME })), "{refused:?}");
        assert_eq!(store.state.digests().await.expect("a state").round, 0);
    });
}

/// The server of a Byzantine peer: every malformed answer is an error, within bounds of time and memory, never a panic.
#[test]
fn malformed_answers_are_errors() {
    let answers: [&[u8]; 12] = [
        b"$99999999999999\r\n",
        b"$-7\r\n",
        b"$3\r\nabcdef",
        b"*1000000000\r\n",
        b"*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n",
        b"*-2\r\n",
        b"\r\n",
        b"!x\r\n",
        b":notanumber\r\n",
        b"*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\nx-y\r\n*0\r\n",
        b"*1\r\n:1\r\n",
        &[b'+'; 100_000],
    ];
    run(async |_| {
        for answer in answers {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("redis.sock");
            let listener = UnixListener::bind(&path).expect("a socket");
            let thread = std::thread::spawn(move || {
                // The loop ends when the reader closes its connections.
                while let Ok((mut connection, _)) = listener.accept() {
                    let mut command = [0; 1 << 12];
                    while matches!(connection.read(&mut command), Ok(bytes) if bytes > 0) {
                        if command.starts_with(b"*1\r\n$4\r\nQUIT") {
                            return;
                        }
                        // The reader may have hung up after an earlier answer.
                        let _ = connection.write_all(answer);
                    }
                }
            });
            let url = format!("unix://{}", path.display()).parse().expect("an address");
            let options = Options { outage_max: Duration::ZERO, ..Options::new(url) };
            let reader: Arc<dyn PeerStore> = skein_redis::read(&options, scope(LEN)).expect("nothing is read yet");
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(20)]).into_owned();
            assert!(reader.contribution(1, ME).await.is_err(), "{shown}");
            assert!(reader.records(0, Duration::ZERO).await.is_err(), "{shown}");
            std::os::unix::net::UnixStream::connect(&path)
                .and_then(|mut stream| stream.write_all(b"*1\r\n$4\r\nQUIT\r\n"))
                .expect("the server still runs");
            drop(reader);
            thread.join().expect("the server ends");
        }
    });
}

/// More values than the model has are refused by their length, before they are read.
#[test]
fn a_contribution_of_another_length_is_refused_unread() {
    run(async |kind| {
        let server = kind.start(&[]);
        let big = skein_redis::open(&server.options(), scope(1 << 20)).await.expect("a database");
        big.contributions.put_contribution(1, ME, Values::from(vec![1.0; 1 << 20])).await.expect("kept");
        let reader = skein_redis::read(&server.options(), scope(LEN)).expect("options that fit");
        let error = reader.contribution(1, ME).await.expect_err("too long");
        assert!(matches!(error, StoreError::Length { expected: LEN, actual: 1_048_576 }), "{error:?}");
    });
}

/// Listens at `path`, and answers each command with `answer` of the text that it came in.
fn answering(path: &Path, answer: fn(&str) -> &'static [u8]) {
    let listener = UnixListener::bind(path).expect("a socket");
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = [0; 1 << 12];
                while let Ok(read @ 1..) = connection.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    // Commands of one write come together.
                    for _ in text.split_inclusive("\r\n").filter(|line| line.starts_with('*')) {
                        let _ = connection.write_all(answer(&text));
                    }
                }
            });
        }
    });
}

/// A server with a known vulnerability is refused unless `allow_vulnerable` is set.
#[test]
fn a_server_with_a_known_vulnerability_is_refused() {
    run(async |_| {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("redis.sock");
        answering(
            &path,
            |text| {
                if text.contains("\r\nINFO\r\n") { b"$20\r\nredis_version:7.2.10\r\n" } else { b"+OK\r\n" }
            },
        );
        let url = format!("unix://{}", path.display()).parse().expect("an address");
        let error = refusal(&Options::new(url)).await;
        assert!(
            matches!(&error, StoreError::Vulnerable { reason, .. } if reason.contains("CVE-2025-49844")),
            "{error:?}"
        );
        assert!(error.to_string().contains("allow_vulnerable"), "{error}");
    });
}

/// A module of another version may read the same command differently.
#[test]
fn a_module_of_another_version_is_refused() {
    run(async |_| {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("redis.sock");
        answering(&path, |text| match text {
            info if info.contains("\r\nINFO\r\n") => b"$20\r\nredis_version:7.2.10\r\n",
            version if version.contains("SKEIN.VERSION") => b":1000\r\n",
            _ => b"+OK\r\n",
        });
        let url = format!("unix://{}", path.display()).parse().expect("an address");
        let error = refusal(&Options { allow_vulnerable: true, ..Options::new(url) }).await;
        let told = "the commands of its module have version 1000, this program sends version 1: ";
        assert!(matches!(&error, StoreError::Unfit { reason, .. } if reason.starts_with(told)), "{error:?}");
    });
}

#[test]
fn the_options_decide_who_computes() {
    run(async |kind| {
        let server = kind.start(&[]);
        let demand = |compute| Options { compute, ..server.options() };
        let (fits, other) = match kind {
            Kind::Plain => (skein_redis::Compute::Host, skein_redis::Compute::Database),
            Kind::Module => (skein_redis::Compute::Database, skein_redis::Compute::Host),
        };
        open(&demand(fits)).await;
        let error = refusal(&demand(other)).await;
        assert!(matches!(&error, StoreError::Unfit { reason, .. } if reason.contains("module")), "{error:?}");
    });
}

/// A tensor whose transfer breaks off is fetched again from its start.
#[test]
fn a_value_whose_transfer_breaks_off_is_fetched_again() {
    run(async |_| {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("redis.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let bytes: Vec<u8> = (0..LEN).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let server = std::thread::spawn(move || {
            for kept in [10, 200, bytes.len()] {
                let (mut connection, _) = listener.accept().expect("a connection");
                let mut command = [0; 1 << 12];
                while let Ok(read @ 1..) = connection.read(&mut command) {
                    if String::from_utf8_lossy(&command[..read]).contains("SKEIN.VERSION") {
                        connection.write_all(b"-ERR unknown command 'SKEIN.VERSION'\r\n").expect("written");
                        continue;
                    }
                    let end: &[u8] = if kept == bytes.len() { b"\r\n" } else { b"" };
                    let head = format!("${}\r\n", bytes.len());
                    connection.write_all(&[head.as_bytes(), &bytes[..kept], end].concat()).expect("written");
                    break;
                }
            }
        });
        let url = format!("unix://{}", path.display()).parse().expect("an address");
        let reader = skein_redis::read(&Options::new(url), scope(LEN)).expect("nothing is read yet");
        let values = reader.contribution(1, ME).await.expect("the third try").expect("there");
        assert!(values.iter().enumerate().all(|(i, value)| *value == i as f32));
        server.join().expect("three connections");
    });
}

/// A peer may load the module into its database, or leave it out, while others read it.
#[test]
fn readers_notice_that_the_module_was_loaded_or_left_out() {
    run(async |kind| {
        let mut server = kind.start(&[]);
        let reader = skein_redis::read(&server.options(), scope(LEN)).expect("options that fit");
        let other = if kind == Kind::Plain { Kind::Module } else { Kind::Plain };
        for (turn, kind) in [kind, other].into_iter().enumerate() {
            if turn > 0 {
                server.become_kind(kind);
            }
            let owner = open(&server.options()).await;
            owner.contributions.put_contribution(1, ME, vec![turn as f32; LEN].into()).await.expect("kept");
            // The first try after the change may fail; the second must succeed.
            let _ = reader.contribution(1, ME).await;
            let values = reader.contribution(1, ME).await.expect("readable").expect("there");
            assert_eq!(values[0], turn as f32);
        }
    });
}
