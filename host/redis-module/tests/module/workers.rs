//! Work in the background: inputs that change, clients that disconnect, transactions, queues, panics.

use crate::client::{Client, blob, noise, same_bits};
use crate::server::{Server, on_each, programs};

/// Length of a tensor that keeps a worker busy for a while.
const LARGE: usize = 3_000_000;

/// Fills the keys `row0`, `row1`, ... and returns a command that aggregates them slowly.
fn rows(client: &mut Client, count: usize) -> String {
    let first = noise(0, LARGE);
    client.set("row0", 1, &first);
    for row in 1..count {
        client.say(&format!("COPY row0 row{row} REPLACE"));
    }
    let names: Vec<String> = (0..count).map(|row| format!("row{row}")).collect();
    format!("SKEIN.AGG out 2 median 0 {count} {}", names.join(" "))
}

fn send(client: &mut Client, command: &str) {
    client.send(&command.split_whitespace().map(str::as_bytes).collect::<Vec<_>>());
}

/// Sends a slow command and waits until a worker has it.
fn begin(server: &Server, command: &str) -> Client {
    let mut client = server.client();
    send(&mut client, command);
    server.client().until(|client| client.info("clients_blocked") > 0);
    client
}

/// Waits until all workers are idle.
fn wait(server: &Server) {
    server.client().until(|client| client.info("clients_blocked") == 0);
}

#[test]
fn an_input_that_changes_during_the_work_is_reported_and_nothing_is_written() {
    on_each("threads 1", |server| {
        let mut other = server.client();
        let command = rows(&mut other, 16);
        for change in ["SET", "DEL row3", "FLUSHALL"] {
            let command = if change == "SET" { command.clone() } else { rows(&mut other, 16) };
            let mut waiting = begin(server, &command);
            match change {
                "SET" => other.set("row3", 1, &[1.0]),
                words => _ = other.say(words),
            }
            waiting.receive().unwrap().fails("CHANGED input");
            assert_eq!(other.say("EXISTS out").integer(), 0);
        }
    });
}

#[test]
fn a_state_that_changes_during_the_work_is_reported() {
    on_each("threads 1", |server| {
        let mut other = server.client();
        let slow = rows(&mut other, 16);
        for version in [0, 1, 7] {
            other.set(&format!("zeros{version}"), version, &vec![0.0; LARGE]);
        }
        // Copies share their values, so they are made at once.
        let state = |other: &mut Client, version| {
            ["p", "m"].map(|key| other.say(&format!("COPY zeros{version} {key} REPLACE")).integer())
        };
        // The work waits behind a slow command; its inputs are already chosen.
        let apply = |other: &mut Client| {
            assert_eq!(state(other, 0), [1, 1]);
            let running = begin(server, &slow);
            let mut waiting = server.client();
            send(
                &mut waiting,
                "SKEIN.APPLY 2 p m ROWS 1 row0 1 mean 0 WEIGHTS 0 TRAINED 9 CLIPNORM none CLIPVALUE none OPTIMIZER momentum(momentum=0) STEP 1 1",
            );
            other.until(|client| client.info("clients_blocked") == 2);
            (running, waiting)
        };
        let (_running, mut waiting) = apply(&mut other);
        other.set("m", 0, &[0.0]);
        waiting.receive().unwrap().fails("CHANGED input");
        assert_eq!(other.say("SKEIN.META p").array()[0].integer(), 0);

        let (_running, mut waiting) = apply(&mut other);
        assert_eq!(state(&mut other, 7), [1, 1]);
        waiting.receive().unwrap().fails("ORDER 7");

        let (_running, mut waiting) = apply(&mut other);
        assert_eq!(state(&mut other, 1), [1, 1]);
        assert_eq!(waiting.receive().unwrap().integer(), 1, "another client applied the round");
        assert!(other.get("p").iter().all(|value| *value == 0.0));
    });
}

#[test]
fn a_sum_that_is_deleted_during_the_work_is_started_anew() {
    on_each("threads 1", |server| {
        let mut other = server.client();
        other.set("parameters", 0, &vec![0.0; LARGE]);
        let values = blob(&noise(1, LARGE));
        let leaf = |client: &mut Client, leaf: &[u8]| {
            client.send(&[b"SKEIN.ACC", b"sum", b"parameters", b"1", leaf, b"4", b"1", b"0", &values]);
        };
        for index in [b"0", b"1", b"2"] {
            leaf(&mut other, index);
            assert_eq!(other.receive().unwrap().integer(), 1);
        }
        // The work waits behind a slow command, so the sum is deleted before it starts or while it adds.
        let rows = rows(&mut other, 16);
        let mut slow = begin(server, &rows);
        let mut waiting = server.client();
        leaf(&mut waiting, b"3");
        other.until(|client| client.info("clients_blocked") == 2);
        other.say("DEL sum");
        slow.receive().unwrap().ok();
        let answer = waiting.receive().unwrap();
        assert_eq!(answer.integer(), 1, "a new sum: nothing had been added yet");
        other.say("SKEIN.AVERAGE average sum 1").fails("INCOMPLETE");
    });
}

#[test]
fn results_are_kept_after_the_client_disconnects() {
    on_each("threads 1", |server| {
        let mut other = server.client();
        let command = rows(&mut other, 16);
        drop(begin(server, &command));
        wait(server);
        same_bits(&other.get("out"), &other.get("row0"));

        let values = blob(&noise(3, LARGE));
        other.set("parameters", 0, &vec![0.0; LARGE]);
        let slow = begin(server, &command);
        let mut gone = server.client();
        gone.send(&[b"SKEIN.ACC", b"sum", b"parameters", b"1", b"0", b"1", b"1", b"0", &values]);
        other.until(|client| client.info("clients_blocked") == 2);
        drop(gone);
        drop(slow);
        wait(server);
        assert_eq!(other.say("SKEIN.AVERAGE average sum 1").array()[0].integer(), 1);
        same_bits(&other.get("average"), &noise(3, LARGE));
    });
}

#[test]
fn a_crowd_of_killed_clients_does_no_harm() {
    on_each("threads 2 queue 4", |server| {
        let mut other = server.client();
        let command = rows(&mut other, 8);
        let mut waiting: Vec<Client> = (0..12).map(|_| server.client()).collect();
        waiting.iter_mut().for_each(|client| send(client, &command));
        other.until(|client| client.info("clients_blocked") > 0);
        other.say("CLIENT KILL TYPE normal SKIPME yes");
        wait(server);
        assert_eq!(other.get("out").len(), LARGE);
    });
}

#[test]
fn a_queue_that_is_full_refuses_and_serves_again() {
    on_each("threads 1 queue 1", |server| {
        let mut other = server.client();
        let command = rows(&mut other, 16);
        let mut running = begin(server, &command);
        other.until(|client| client.info("commands_running") == 1 && client.info("commands_waiting") == 0);
        let mut queued = server.client();
        send(&mut queued, &command);
        other.until(|client| client.info("commands_waiting") == 1);
        other.say(&command).fails("QUEUEFULL 1");
        running.receive().unwrap().ok();
        queued.receive().unwrap().ok();
        other.say(&command).ok();
    });
}

#[test]
fn transactions_and_scripts_have_their_results_at_once() {
    on_each("", |server| {
        let mut client = server.client();
        let rows = [noise(1, 100_000), noise(2, 100_000)];
        rows.iter().zip(["a", "b"]).for_each(|(row, key)| client.set(key, 1, row));
        let mut expected = vec![0.0; 100_000];
        skein_kernels::mean::mean(&[&rows[0], &rows[1]], &mut expected).unwrap();
        client.say("MULTI").ok();
        client.say("SKEIN.AGG out 2 mean 0 2 a b");
        client.say("SKEIN.GET out");
        client.say("SKEIN.STAT out");
        let answers = client.say("EXEC");
        answers.array()[0].ok();
        same_bits(&answers.array()[1].values(), &expected);
        let script = b"redis.call('SKEIN.AGG', KEYS[1], 3, 'mean', 0, 2, KEYS[2], KEYS[3]); return redis.call('SKEIN.GET', KEYS[1])";
        let answer = client.call(&[b"EVAL", script, b"3", b"out2", b"a", b"b"]);
        same_bits(&answer.values(), &expected);
        let failing = b"return redis.call('SKEIN.AGG', KEYS[1], 3, 'mean', 0, 2, KEYS[2], KEYS[3])";
        client.call(&[b"EVAL", failing, b"3", b"out2", b"a", b"nothing"]).fails("MISSING 1");
    });
}

#[test]
fn workers_stay_in_the_database_that_the_client_selected() {
    on_each("", |server| {
        let mut client = server.client();
        client.say("SELECT 3").ok();
        client.set("a", 1, &noise(1, 100_000));
        client.set("p", 0, &vec![0.0; 100_000]);
        client.say("SKEIN.AGG out 2 mean 0 1 a").ok();
        let values = blob(&noise(5, 100_000));
        let answer = client.call(&[b"SKEIN.ACC", b"sum", b"p", b"1", b"0", b"1", b"1", b"0", &values]);
        assert_eq!(answer.integer(), 1);
        assert_eq!(client.say("SKEIN.AVERAGE avg sum 1").array()[0].integer(), 1);
        same_bits(&client.get("out"), &noise(1, 100_000));
        client.say("SELECT 0").ok();
        assert_eq!(client.say("DBSIZE").integer(), 0);
    });
}

#[test]
fn a_race_on_an_input_ends_in_either_value_or_in_changed() {
    on_each("threads 2", |server| {
        let two = [noise(1, 60_000), noise(2, 60_000)];
        server.client().set("a", 1, &two[0]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = server.client();
                (0..300).for_each(|turn| client.set("a", 1, &two[turn % 2]));
            });
            let mut client = server.client();
            for _ in 0..300 {
                match client.say("SKEIN.AGG out 1 mean 0 2 a a") {
                    crate::client::Answer::Error(error) => assert_eq!(error, "CHANGED input"),
                    answer => {
                        answer.ok();
                        let out = client.get("out");
                        assert!(two.contains(&out), "the result is neither of the two inputs");
                    }
                }
            }
        });
    });
}

#[test]
fn a_pause_for_a_failover_delays_what_workers_write() {
    on_each("threads 1 --appendonly yes --aof-use-rdb-preamble no", |server| {
        let mut other = server.client();
        let command = rows(&mut other, 16);
        let mut waiting = begin(server, &command);
        other.say("CLIENT PAUSE 700 WRITE").ok();
        waiting.receive().unwrap().ok();
        same_bits(&other.get("out"), &other.get("row0"));
    });
}

/// Has each client send the command with its own destination, and returns the most threads that the server had until
/// all were answered.
fn most_threads(server: &Server, clients: &mut [Client], command: &str) -> usize {
    let mut other = server.client();
    let done = other.info("commands_done") + clients.len() as u64;
    for (out, client) in clients.iter_mut().enumerate() {
        send(client, &command.replace("out", &format!("out{out}")));
    }
    let mut most = 0;
    other.until(|client| {
        most = most.max(std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count());
        client.info("commands_done") >= done
    });
    clients.iter_mut().for_each(|client| client.receive().unwrap().ok());
    most
}

/// Every running command took as many threads as the pool has.
#[test]
fn commands_share_their_threads() {
    const THREADS: usize = 8;
    on_each(&format!("threads {THREADS}"), |server| {
        let mut other = server.client();
        let command = rows(&mut other, 8);
        let always = most_threads(server, &mut [], &command);
        let mut clients: Vec<Client> = (0..2 * THREADS).map(|_| server.client()).collect();
        // Helper threads run so briefly that a count may miss them.
        let mut alone = || most_threads(server, &mut clients[..1], &command) > always;
        assert!((0..100).any(|_| alone()), "a single command has no helper threads");
        let most = most_threads(server, &mut clients, &command);
        // The system may still list ended threads of one command beside those of the next.
        assert!(most - always < 2 * THREADS, "{} threads beside the {always} of an idle server", most - always);
        let expected = other.get("row0");
        (0..2 * THREADS).for_each(|out| same_bits(&other.get(&format!("out{out}")), &expected));
    });
}

/// The server trims an argument whose buffer is too large, such as that of a blob after a larger one. It did so after a
/// worker had started to read, and an allocator may move memory that is trimmed.
#[test]
fn a_blob_does_not_move_while_a_worker_reads_it() {
    for program in programs() {
        println!("on {}", program.display());
        let mut server = Server::start_with_moving_allocator(&program, "threads 1");
        let mut client = server.client();
        let large = noise(1, 5_000_000);
        let small = noise(2, 4_000_000);
        for _ in 0..10 {
            client.set("large", 1, &large);
            client.set("small", 1, &small);
            same_bits(&client.get("small"), &small);
        }
        server.survives();
    }
}

#[test]
fn watchers_are_notified_of_writes_by_workers() {
    on_each("--notify-keyspace-events Ed", |server| {
        let mut client = server.client();
        client.set("a", 1, &noise(1, 100_000));
        let mut listener = server.client();
        listener.say("SUBSCRIBE __keyevent@0__:skein.agg");
        client.say("WATCH out").ok();
        server.client().say("SKEIN.AGG out 2 mean 0 1 a").ok();
        assert_eq!(listener.receive().unwrap().array()[2].text(), "out");
        client.say("MULTI").ok();
        client.say("PING");
        assert_eq!(client.say("EXEC"), crate::client::Answer::Nil);
    });
}

#[test]
fn a_panic_is_only_an_error() {
    on_each("threads 1 panic-command yes", |server| {
        let mut client = server.client();
        for (count, place) in (1..).zip(["here", "worker", "commit", "worker"]) {
            client.say(&format!("SKEIN.PANIC {place}")).fails("ERR skein: internal error");
            assert_eq!(client.info("panics"), count);
        }
        client.set("a", 1, &noise(1, 100_000));
        assert_eq!(client.get("a").len(), 100_000);
    });
}
