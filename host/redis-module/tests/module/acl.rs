//! Access lists: users that may only read, and users that may read some keys and write others.

use skein_redis_command::command::{
    Accumulate, Aggregate, Apply, Average, Get, GetRange, Meta, Norm, RestoreSum, Set, SetRange, Stat,
};
use skein_redis_command::{Command, key_places};

use crate::client::{Answer, Client, noise, same_bits};
use crate::server::{Server, on_each};

/// A user that may read gradients, read and write averages, and nothing else.
fn averager(server: &Server) -> Client {
    server.client().say("ACL SETUSER averager on >x resetkeys %R~grad:* %RW~avg:* +@all").ok();
    let mut averager = server.client();
    averager.say("AUTH averager x").ok();
    averager
}

/// The arguments of `SKEIN.APPLY` after the rows, for a state of version 0.
const UPDATE: &str = "1 mean 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1";

#[test]
fn access_lists_distinguish_reading_from_writing() {
    on_each("", |server| {
        let mut client = server.client();
        for key in ["pub:a", "grad:a", "grad:b", "state:p"] {
            client.set(key, 0, &[1.0, 2.0]);
        }
        client.say("ACL SETUSER reader on >x resetkeys %R~pub:* +@all").ok();
        client.say("ACL SETUSER averager on >x resetkeys %R~grad:* %RW~avg:* +@all").ok();
        client.say("ACL SETUSER stepper on >x resetkeys %RW~state:* %R~grad:* +@all").ok();

        let mut reader = server.client();
        reader.say("AUTH reader x").ok();
        assert_eq!(reader.get("pub:a"), [1.0, 2.0]);
        assert_eq!(reader.say("SKEIN.STAT pub:a").array().len(), 1);
        for command in [
            "SKEIN.SET pub:a 1 abcd",
            "SKEIN.SETRANGE pub:a 0 abcd",
            "SKEIN.GET grad:a",
            "SKEIN.STAT pub:a grad:a",
            "SKEIN.AGG pub:b 1 mean 0 1 pub:a",
            "SKEIN.ACC pub:s pub:a 1 0 1 1 0 abcdabcd",
            "SKEIN.AVERAGE pub:b pub:s 1",
        ] {
            reader.say(command).fails("NOPERM");
        }

        let mut averager = server.client();
        averager.say("AUTH averager x").ok();
        averager.say("SKEIN.AGG avg:x 1 mean 0 2 grad:a grad:b").ok();
        averager.say("SKEIN.AGG grad:c 1 mean 0 1 avg:x").fails("NOPERM");
        averager.say("SKEIN.AGG avg:x 1 mean 0 2 grad:a state:p").fails("NOPERM");
        assert_eq!(averager.say("SKEIN.ACC avg:s grad:a 1 0 1 1 0 abcdabcd").integer(), 1);
        assert_eq!(averager.say("SKEIN.AVERAGE avg:x avg:s 1").array().len(), 2);
        averager.say("SKEIN.AVERAGE grad:x avg:s 1").fails("NOPERM");

        let mut stepper = server.client();
        stepper.say("AUTH stepper x").ok();
        let end = "1 mean 0 WEIGHTS 0 TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1";
        stepper.say(&format!("SKEIN.APPLY 1 state:p ROWS 1 pub:a {end}")).fails("NOPERM");
        stepper.say(&format!("SKEIN.APPLY 1 grad:a ROWS 1 grad:a {end}")).fails("NOPERM");
        assert_eq!(stepper.say(&format!("SKEIN.APPLY 1 state:p ROWS 1 grad:a {end}")).integer(), 1);
    });
}

/// A state key that is spelled like the keyword would hide the rows from the access list.
#[test]
fn a_state_key_cannot_hide_the_rows() {
    on_each("", |server| {
        let mut client = server.client();
        client.say("ACL SETUSER stepper on >x resetkeys %RW~ROWS* %R~1 %R~grad:* +@all").ok();
        client.set("ROWS", 0, &[1.0]);
        client.set("secret", 0, &[1.0]);
        let mut stepper = server.client();
        stepper.say("AUTH stepper x").ok();
        let end = "1 mean 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER momentum(momentum=0) STEP 1 1";
        for hiding in [&b"ROWS"[..], b"rows", b"ROWS\0more"] {
            let words = format!("SKEIN.APPLY 2 {{}} 1 ROWS 1 secret {end}");
            let arguments: Vec<&[u8]> =
                words.split(' ').map(|word| if word == "{}" { hiding } else { word.as_bytes() }).collect();
            match stepper.call(&arguments) {
                Answer::Error(error) => assert!(error.starts_with("NOPERM") || error.starts_with("ERR"), "{error}"),
                other => panic!("{other:?}"),
            }
            client.call(&arguments).fails("ERR skein: a state key cannot be named");
        }
    });
}

/// The server finds no keys if it cannot read their count, and admits such a command: `+1` opened every key.
#[test]
fn a_count_that_the_server_cannot_read_opens_no_key() {
    on_each("", |server| {
        let mut client = server.client();
        ["grad:a", "secret"].iter().for_each(|key| client.set(key, 0, &[7.0]));
        let mut averager = averager(server);
        for count in ["+1", "01", "0", "-0", "-1", "", " 1", "1 ", "\t1", "1\0", "1.0", "1e0", "0x1", "\u{661}"] {
            let mut refused = |words: &str, what: &str| {
                let words: Vec<&[u8]> = words
                    .split(' ')
                    .map(|word| if word == "{}" { count.as_bytes() } else { word.as_bytes() })
                    .collect();
                averager.call(&words).fails(&format!("ERR skein: `{what}`"));
                client.call(&words).fails(&format!("ERR skein: `{what}`"));
            };
            refused("SKEIN.AGG avg:x 9 mean 0 {} secret", "numkeys");
            refused("SKEIN.AGG secret 9 mean 0 {} grad:a", "numkeys");
            refused("SKEIN.AGG secret 9 weighted-mean 0 {} WEIGHTS", "numkeys");
            refused(&format!("SKEIN.APPLY {{}} secret ROWS 1 grad:a {UPDATE}"), "numstate");
            refused(&format!("SKEIN.APPLY {{}} ROWS 1 secret {UPDATE} 1"), "numstate");
            refused(&format!("SKEIN.APPLY 1 avg:p ROWS {{}} secret {UPDATE}"), "numrows");
            refused(&format!("SKEIN.APPLY 1 secret ROWS {{}} {UPDATE} 1"), "numrows");
        }
        assert_eq!(client.say("EXISTS avg:x").integer(), 0);
        assert_eq!((client.get("secret"), client.say("SKEIN.META secret").array()[0].integer()), (vec![7.0], 0));
    });
}

#[test]
fn transactions_and_scripts_open_no_key_either() {
    on_each("", |server| {
        let mut client = server.client();
        ["grad:a", "avg:p", "secret"].iter().for_each(|key| client.set(key, 0, &[7.0]));
        let mut averager = averager(server);
        averager.say("MULTI").ok();
        averager.say("SKEIN.AGG avg:x 9 mean 0 +1 secret");
        averager.say("SKEIN.AGG avg:y 9 mean 0 1 grad:a");
        averager.say(&format!("SKEIN.APPLY 1 avg:p ROWS 1 grad:a {UPDATE}"));
        let answers = averager.say("EXEC").array().to_vec();
        answers[0].fails("ERR skein: `numkeys`");
        answers[1].ok();
        assert_eq!(answers[2].integer(), 1);
        let mut run = |command: &str| {
            let words: Vec<String> = command.split(' ').map(|word| format!("'{word}'")).collect();
            let script = format!("return redis.call({})", words.join(", "));
            averager.call(&[b"EVAL", script.as_bytes(), b"0"])
        };
        run("SKEIN.AGG avg:z 9 mean 0 1 grad:a").ok();
        for command in [
            "SKEIN.AGG avg:x 9 mean 0 +1 secret",
            "SKEIN.AGG avg:x 9 mean 0 1 secret",
            "SKEIN.AGG secret 9 mean 0 1 grad:a",
            "SKEIN.APPLY 01 secret ROWS 1 grad:a 1 mean 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1",
        ] {
            let answer = run(command);
            assert!(matches!(answer, Answer::Error(_)), "{command}: {answer:?}");
        }
        assert_eq!(client.say("EXISTS avg:x").integer(), 0);
        assert_eq!(["avg:p", "avg:y", "avg:z"].map(|key| client.get(key)[0]), [0.0, 7.0, 7.0]);
        assert_eq!(client.say("SKEIN.META secret").array()[0].integer(), 0);
    });
}

/// Only the first eight names of a state were checked. A ninth that is spelled like the keyword is the keyword to the
/// server, which cannot read the next word as a count and so finds no keys at all.
#[test]
fn a_state_key_cannot_hide_the_rows_behind_many_others() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("secret", 5, &[1.0]);
        let others: Vec<String> = (0..7).map(|other| format!("avg:{other}")).collect();
        others.iter().for_each(|key| client.set(key, 0, &[1.0]));
        client.set("ROWS", 0, &[1.0]);
        let command = format!("SKEIN.APPLY 9 secret {} ROWS ROWS 1 secret {UPDATE}", others.join(" "));
        averager(server).say(&command).fails("ERR skein: a state key cannot be named");
        client.say(&command).fails("ERR skein: a state key cannot be named");
    });
}

/// Commands in the log were permitted when they were first called. The server replays them as its default user, which
/// may have no permissions at all.
#[test]
fn the_command_log_is_replayed_whatever_the_default_user_may() {
    let users = "--user default on nopass resetkeys %R~hello:* +@all --user owner on >x ~* +@all";
    on_each(&format!("--appendonly yes --appendfsync no --aof-use-rdb-preamble no {users}"), |server| {
        let owner = |server: &Server| {
            let mut owner = server.client();
            owner.say("AUTH owner x").ok();
            owner
        };
        let mut client = owner(server);
        let values = noise(1, 100_000);
        ["a", "p"].iter().for_each(|key| client.set(key, 0, &values));
        server.client().say("SKEIN.AGG out 1 mean 0 1 a").fails("NOPERM");
        client.say("SKEIN.AGG out 1 mean 0 1 a").ok();
        assert_eq!(client.say(&format!("SKEIN.APPLY 1 p ROWS 1 a {UPDATE}")).integer(), 1);
        let after = client.get("p");
        server.restart();
        let mut client = owner(server);
        same_bits(&client.get("out"), &values);
        same_bits(&client.get("p"), &after);
    });
}

/// The server finds the keys at the places of the grammar, and checks exactly these against an access list.
#[test]
fn the_server_finds_the_keys_of_every_command() {
    fn check<C: Command<usize>>(client: &mut Client, command: &str) {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        assert_eq!(words[0], C::NAME.to_bytes());
        let places = key_places::<C>(words.len(), |place| words[place]).expect(command);
        let expected: Vec<String> = places.iter().map(|place| String::from_utf8_lossy(words[*place]).into()).collect();
        let keys = client.say(&format!("COMMAND GETKEYS {command}"));
        let keys: Vec<String> = keys.array().iter().map(|key| key.text()).collect();
        assert_eq!(keys, expected, "{command}");
        assert!(!keys.is_empty());
    }
    on_each("", |server| {
        let client = &mut server.client();
        check::<Set<usize>>(client, "SKEIN.SET a 1 blob 2 2");
        check::<SetRange<usize>>(client, "SKEIN.SETRANGE a 1 blob");
        check::<Get<usize>>(client, "SKEIN.GET a");
        check::<GetRange<usize>>(client, "SKEIN.GETRANGE a 1 2");
        check::<Meta<usize>>(client, "SKEIN.META a");
        check::<Stat<usize>>(client, "SKEIN.STAT a b c");
        check::<Norm<usize>>(client, "SKEIN.NORM a");
        check::<Accumulate<usize>>(client, "SKEIN.ACC s p 1 0 1 1 0 blob");
        check::<Average<usize>>(client, "SKEIN.AVERAGE d s 1");
        check::<RestoreSum<usize>>(client, "SKEIN.RESTORESUM s payload");
        check::<Aggregate<usize>>(client, "SKEIN.AGG d 1 weighted-mean 0 2 a b WEIGHTS 1 2");
        let update = "1 mean 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1";
        check::<Apply<usize>>(client, &format!("SKEIN.APPLY 2 p m ROWS 2 a b {update}"));
    });
}
