//! Memory that runs out.

use crate::client::{Client, blob, noise, same_bits};
use crate::server::on_each;

fn keys(client: &mut Client) -> i64 {
    client.say("DBSIZE").integer()
}

#[test]
fn without_memory_nothing_changes_and_everything_can_be_read() {
    on_each("", |server| {
        let mut client = server.client();
        let values = noise(1, 500_000);
        ["a", "b", "p"].iter().for_each(|key| client.set(key, 1, &values));
        client.set("a", 1, &values);
        client.until(|client| client.info("recycled_bytes") == 2_000_000);
        client.say("CONFIG SET maxmemory 1mb").ok();
        // An idle buffer would go after ten seconds anyway.
        let begun = std::time::Instant::now();
        client.until(|client| client.info("recycled_bytes") == 0);
        assert!(begun.elapsed().as_secs() < 5);
        let before = keys(&mut client);
        for command in [
            "SKEIN.AGG out 1 mean 0 2 a b",
            "SKEIN.SETRANGE a 0 abcd",
            "SKEIN.APPLY 1 p ROWS 1 a 2 mean 0 WEIGHTS 0 TRAINED 9 CLIPNORM none CLIPVALUE none OPTIMIZER sgd 0 STEP 1 1",
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

/// An address space that is full: the allocator says no, and the module says so.
#[test]
fn an_allocator_that_gives_nothing_is_an_error() {
    on_each("threads 1", |server| {
        let mut client = server.client();
        let values = noise(1, 4_000_000);
        client.set("a", 1, &values);
        let pid = client.say("INFO server").text();
        let pid = pid.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().to_owned();
        let used = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let pages: u64 = used.split(' ').next().unwrap().parse().unwrap();
        let limit = pages * 4096 + (4 << 20);
        let limited =
            std::process::Command::new("prlimit").args(["--pid", &pid]).arg(format!("--as={limit}:")).status();
        if !limited.is_ok_and(|status| status.success()) {
            println!("left out: there is no `prlimit`");
            return;
        }
        // Some memory was free already.
        let mut made = (0..64).map(|out| client.say(&format!("SKEIN.AGG out{out} 1 mean 0 1 a")));
        made.find(|answer| matches!(answer, crate::client::Answer::Error(_))).expect("an end of memory").fails("OOM");
        let free = std::process::Command::new("prlimit").args(["--pid", &pid, "--as=unlimited:"]).status();
        assert!(free.is_ok_and(|status| status.success()));
        client.say("SKEIN.AGG out 1 mean 0 1 a").ok();
        same_bits(&client.get("out"), &values);
    });
}

/// Retired buffers are memory of the server, which it has back when nobody needs them.
#[test]
fn idle_buffers_are_given_back() {
    on_each("--hz 500", |server| {
        let mut client = server.client();
        client.set("a", 1, &noise(1, 500_000));
        client.set("a", 2, &noise(2, 500_000));
        client.until(|client| client.info("recycled_bytes") == 2_000_000);
        client.until(|client| client.info("recycled_bytes") == 0);
    });
}
