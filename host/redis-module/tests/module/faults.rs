//! Servers that run out of memory.

use std::process::Command;

use skein_kernels::mean::MEAN;
use skein_kernels::optimizer::{Optimizer, SGD, Step};
use skein_kernels::rule::Rule;
use skein_kernels::update::{After, Before, Change};

use crate::client::{Answer, Client, blob, noise, same_bits};
use crate::server::{Server, on_each};

fn keys(client: &mut Client) -> i64 {
    client.say("DBSIZE").integer()
}

#[test]
fn without_memory_nothing_changes_and_values_stay_readable() {
    on_each("", |server| {
        let mut client = server.client();
        let values = noise(1, 500_000);
        ["a", "b", "p"].iter().for_each(|key| client.set(key, 1, &values));
        client.set("a", 1, &values);
        client.until(|client| client.info("recycled_bytes") == 2_000_000);
        client.say("CONFIG SET maxmemory 1mb").ok();
        // An idle buffer would be freed after ten seconds anyway.
        let begun = std::time::Instant::now();
        client.until(|client| client.info("recycled_bytes") == 0);
        assert!(begun.elapsed().as_secs() < 5);
        let before = keys(&mut client);
        for command in [
            "SKEIN.AGG out 1 mean 0 2 a b",
            "SKEIN.SETRANGE a 0 abcd",
            "SKEIN.APPLY 1 p ROWS 1 a 2 mean 0 WEIGHTS 0 TRAINED 9 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1",
        ] {
            client.say(command).fails("OOM");
        }
        client.call(&[b"SKEIN.SET", b"c", b"1", &blob(&values)]).fails("OOM");
        client.call(&[b"SKEIN.ACC", b"s", b"a", b"2", b"0", b"1", b"1", b"0", &blob(&values)]).fails("OOM");
        assert_eq!(keys(&mut client), before);
        same_bits(&client.get("a"), &values);
        assert_eq!(client.say("SKEIN.META p").array()[0].integer(), 1);
        client.say("CONFIG SET maxmemory 0").ok();
        client.say("SKEIN.AGG out 1 mean 0 2 a b").ok();
        same_bits(&client.get("out"), &values);
    });
}

/// Limits a server to `bytes` more address space than it has. `false` if this machine lacks `prlimit`.
fn leave(server: &Server, bytes: u64) -> bool {
    let used = std::fs::read_to_string(format!("/proc/{}/statm", server.pid())).unwrap();
    let pages: u64 = used.split(' ').next().unwrap().parse().unwrap();
    let limit = format!("--as={}:", pages * 4096 + bytes);
    let limited = Command::new("prlimit").arg("--pid").arg(server.pid().to_string()).arg(limit).status();
    let limited = limited.is_ok_and(|status| status.success());
    if !limited {
        println!("skipped: `prlimit` is missing or failed");
    }
    limited
}

fn unlimited(server: &Server) {
    let free = Command::new("prlimit").arg("--pid").arg(server.pid().to_string()).arg("--as=unlimited:").status();
    assert!(free.is_ok_and(|status| status.success()));
}

/// Aggregates the key `a` into new keys until the server runs out of memory, of which some was free before.
#[track_caller]
fn fill(client: &mut Client) {
    let mut made = (0..64).map(|out| client.say(&format!("SKEIN.AGG out{out} 1 mean 0 1 a")));
    made.find(|answer| matches!(answer, Answer::Error(_))).expect("memory runs out").fails("OOM");
}

/// If the address space is full, the allocator fails and the module reports an error.
#[test]
fn an_allocator_that_fails_is_an_error() {
    on_each("threads 1", |server| {
        let mut client = server.client();
        let values = noise(1, 4_000_000);
        client.set("a", 1, &values);
        if !leave(server, 4 << 20) {
            return;
        }
        fill(&mut client);
        unlimited(server);
        client.say("SKEIN.AGG out 1 mean 0 1 a").ok();
        same_bits(&client.get("out"), &values);
    });
}

/// Clipping by norm needs the whole aggregate first. It was kept in a vector whose allocation ends the process if it
/// fails. Without that vector, an update needs only the memory of the new state.
#[test]
fn clipping_by_norm_without_memory_is_an_error_and_needs_no_more_than_the_state() {
    on_each("threads 1", |server| {
        let mut client = server.client();
        let parameters = noise(1, 4_000_000);
        let gradient = noise(2, 4_000_000);
        client.set("p", 0, &parameters);
        client.set("a", 1, &gradient);
        client.say("SKEIN.AGG spare 1 mean 0 1 a").ok();
        if !leave(server, 4 << 20) {
            return;
        }
        fill(&mut client);
        let apply = "SKEIN.APPLY 1 p ROWS 1 a 1 mean 0 WEIGHTS 0 TRAINED 3000000 CLIPNORM 1 CLIPVALUE none OPTIMIZER sgd STEP 1 0.5";
        client.say(apply).fails("OOM");
        client.say("DEL spare");
        client.until(|client| client.info("recycled_bytes") == 16_000_000);
        assert_eq!(client.say(apply).integer(), 1);
        unlimited(server);
        let change = Change {
            trained: 3_000_000,
            clip_norm: Some(1.0),
            clip_value: None,
            optimizer: Optimizer::new(&SGD),
            step: Step { number: 1, learning_rate: 0.5 },
        };
        let mut expected = vec![0.0; parameters.len()];
        let before = Before { parameters: &parameters, slots: &[] };
        let after = After { parameters: &mut expected, slots: Vec::new() };
        change.apply(1, &Rule::new(&MEAN, 0), &[&gradient], before, after).unwrap();
        same_bits(&client.get("p"), &expected);
    });
}

/// A command for which the system refuses to start helper threads computes alone.
#[test]
fn a_command_computes_without_threads_that_the_system_refuses() {
    on_each("threads 4", |server| {
        let mut client = server.client();
        let values = noise(1, 4_000_000);
        ["a", "spare"].iter().for_each(|key| client.set(key, 1, &values));
        client.say("DEL spare");
        client.until(|client| client.info("recycled_bytes") == 16_000_000);
        // A new client, because the server frees the buffer of one that sent a large blob at an unknown time.
        let mut client = server.client();
        // The result reuses a buffer, and a thread needs two megabytes for its stack.
        if !leave(server, 1 << 20) {
            return;
        }
        client.say("SKEIN.AGG out 1 mean 0 1 a").ok();
        unlimited(server);
        same_bits(&client.get("out"), &values);
    });
}

/// Retired buffers are memory of the server. They are freed after a while without use.
#[test]
fn idle_buffers_are_freed() {
    on_each("--hz 500", |server| {
        let mut client = server.client();
        client.set("a", 1, &noise(1, 500_000));
        client.set("a", 2, &noise(2, 500_000));
        client.until(|client| client.info("recycled_bytes") == 2_000_000);
        client.until(|client| client.info("recycled_bytes") == 0);
    });
}
