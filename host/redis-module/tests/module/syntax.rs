//! Arguments that do not fit, and their error messages.

use skein_kernels::rules::RULES;

use crate::client::{Answer, Client, blob, noise};
use crate::server::{on_each, programs, refusal};

#[test]
fn every_error_has_its_code() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("a", 5, &[1.0, 2.0]);
        client.set("b", 5, &[1.0, 2.0, 3.0]);
        client.set("bad", 5, &[1.0, f32::NAN]);
        client.say("SET text hello").ok();
        client.call(&[b"SKEIN.SET", b"a", b"1", b"12345"]).fails("LENGTH 4 5");
        client.call(&[b"SKEIN.SET", b"a", b"1", &blob(&[1.0; 6]), b"2", b"2"]).fails("LENGTH 4 6");
        client
            .call(&[b"SKEIN.SET", b"a", b"1", &blob(&[1.0; 6]), b"4294967295", b"4294967295", b"4294967295"])
            .fails("LENGTH");
        for (command, message) in [
            ("SKEIN.GET text", "WRONGTYPE"),
            ("SKEIN.STAT a text", "WRONGTYPE"),
            ("SKEIN.SET text 1 abcd", "WRONGTYPE"),
            ("SKEIN.SET a x abcd", "ERR"),
            ("SKEIN.SET a 9223372036854775808 abcd", "ERR"),
            ("SKEIN.AGG out 1 mean 0 2 a b", "LENGTH 2 3"),
            ("SKEIN.AGG out 1 mean 0 3 a a nothing", "MISSING 2"),
            ("SKEIN.AGG out 1 mean 0 2 a bad", "NONFINITE 1"),
            ("SKEIN.AGG out 1 median 1 2 a a", "FEW 3 2"),
            ("SKEIN.AGG out 1 mean 0 0 a", "ERR"),
            ("SKEIN.AGG out 1 mean 0 3 a a", "ERR"),
            ("SKEIN.AGG out 1 mean 0 18446744073709551615 a a", "ERR"),
            ("SKEIN.AGG out 1 mode 0 1 a", "ERR"),
            ("SKEIN.AGG out 1 weighted-mean 0 2 a a WEIGHTS 1", "WEIGHTS"),
            ("SKEIN.AGG out 1 weighted-mean 0 2 a a WEIGHTS 1 -1", "WEIGHTS"),
            ("SKEIN.AGG out 1 weighted-mean 0 2 a a WEIGHTS 1 NaN", "WEIGHTS"),
            ("SKEIN.AGG text 1 mean 0 1 a", "WRONGTYPE"),
            ("SKEIN.AGG out 1 mean 0 1 text", "WRONGTYPE"),
            ("SKEIN.SETRANGE nothing 0 abcd", "RANGE 0"),
            ("SKEIN.SETRANGE a 0 abc", "LENGTH 0 3"),
            ("SKEIN.AVERAGE a a 1", "WRONGTYPE"),
            ("SKEIN.ACC a a 6 0 1 1 0 abcdabcd", "WRONGTYPE"),
            ("SKEIN.ACC sum text 6 0 1 1 0 abcdabcd", "WRONGTYPE"),
            ("SKEIN.ACC sum a 6 0 1 1 0 abcdabc", "LENGTH 8 7"),
            ("SKEIN.RESTORESUM sum hello", "DAMAGED"),
            ("SKEIN.RESTORESUM text hello", "DAMAGED"),
        ] {
            client.say(command).fails(message);
        }
        assert_eq!(client.say("DBSIZE").integer(), 4);
    });
}

/// The sorting network of a median grows faster than the number of rows. If its allocation failed, the server ended.
#[test]
fn more_keys_than_memory_allows_are_refused() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("a", 0, &[1.0]);
        let most = " a".repeat(1024);
        for kind in RULES {
            let weights = if kind.takes_weights { format!(" WEIGHTS{}", " 1".repeat(1024)) } else { String::new() };
            client.say(&format!("SKEIN.AGG out 1 {} 0 1024{most}{weights}", kind.name)).ok();
        }
        let refusal = "must be between 1 and 1024";
        client.say(&format!("SKEIN.AGG out 2 median 0 1025{most} a")).fails(&format!("ERR skein: `numkeys` {refusal}"));
        let end = "1 median 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1";
        let apply = format!("SKEIN.APPLY 1 a ROWS 1025{most} a {end}");
        client.say(&apply).fails(&format!("ERR skein: `numrows` {refusal}"));
        assert_eq!(client.say(&format!("SKEIN.STAT{most}")).array().len(), 1024);
        client.say(&format!("SKEIN.STAT{most} a")).fails("ERR skein: at most 1024 keys are allowed, got 1025");
        assert_eq!(client.say("SKEIN.META out").array()[0].integer(), 1);
    });
}

/// A message has a code and is short, whatever the client sent.
#[test]
fn the_error_of_a_long_text_form_is_short() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("a", 0, &[1.0]);
        let refused = |client: &mut Client, rule: &[u8]| {
            let answer = client.call(&[b"SKEIN.AGG", b"out", b"1", rule, b"0", b"1", b"a"]);
            let Answer::Error(error) = answer else { panic!("{answer:?}") };
            assert!(error.starts_with("ERR skein: ") && error.len() < 400, "{error}");
            error
        };
        let long = "x".repeat(1 << 20);
        refused(&mut client, long.as_bytes());
        refused(&mut client, format!("mean({long}=1)").as_bytes());
        refused(&mut client, format!("multi-krum(selected={long})").as_bytes());
        refused(&mut client, "multi-krum(selected=1,)".repeat(1 << 16).as_bytes());
        let error = refused(&mut client, b"mean(a\0b\r\n=1)");
        assert_eq!(error, "ERR skein: `mean` takes no parameters, got `a\\0b\\r\\n`");
        let error = refused(&mut client, b"multi-krum(selected=1,selected=1)");
        assert_eq!(error, "ERR skein: `selected` of `multi-krum` is given twice");
    });
}

#[test]
fn an_update_that_does_not_fit_changes_nothing() {
    on_each("", |server| {
        let mut client = server.client();
        ["p", "m"].iter().for_each(|key| client.set(key, 5, &[1.0, 2.0]));
        client.set("g", 6, &[1.0, 1.0]);
        client.set("long", 6, &[1.0; 3]);
        client.set("bad", 6, &[1.0, f32::INFINITY]);
        let sgd = "TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 0.1";
        let momentum = "TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER momentum STEP 1 0.1";
        for (state, rows, end, message) in [
            ("1 nothing", "1 g 6 mean 0 WEIGHTS 0", sgd, "NOSTATE"),
            ("0", "1 g 6 mean 0 WEIGHTS 0 ", sgd, "ERR"),
            ("1 p", "0 6 mean 0 WEIGHTS 0", sgd, "ERR"),
            ("2 p nothing", "1 g 6 mean 0 WEIGHTS 0", momentum, "NOSTATE"),
            ("1 p", "1 g 7 mean 0 WEIGHTS 0", sgd, "ORDER 5"),
            ("1 p", "1 g 4 mean 0 WEIGHTS 0", sgd, "ORDER 5"),
            ("1 p", "1 g 6 mean 0 WEIGHTS 0", momentum, "SLOTS 1 0"),
            ("2 p m", "1 g 6 mean 0 WEIGHTS 0", sgd, "SLOTS 0 1"),
            ("2 p p", "1 g 6 mean 0 WEIGHTS 0", momentum, "ERR"),
            ("2 p rows", "1 g 6 mean 0 WEIGHTS 0", momentum, "ERR"),
            ("2 p long", "1 g 6 mean 0 WEIGHTS 0", momentum, "LENGTH 2 3"),
            ("1 p", "2 g long 6 mean 0 WEIGHTS 0", sgd, "LENGTH 2 3"),
            ("1 p", "2 g nothing 6 mean 0 WEIGHTS 0", sgd, "MISSING 1"),
            ("1 p", "2 g bad 6 mean 0 WEIGHTS 0", sgd, "NONFINITE 1"),
            ("1 p", "2 g g 6 trimmed-mean 1 WEIGHTS 0", sgd, "FEW 3 2"),
            ("1 p", "1 g 6 weighted-mean 0 WEIGHTS 2 1 1", sgd, "WEIGHTS"),
            ("1 p", "1 g 6 mean 0 WEIGHTS 1 1", sgd, "WEIGHTS"),
            (
                "1 p",
                "1 g 6 mean 0 WEIGHTS 0",
                "TRAINED 3 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1",
                "LENGTH 2 3",
            ),
            ("1 p", "1 g 6 mean 0 WEIGHTS 0", "TRAINED 2 CLIPNORM -1 CLIPVALUE none OPTIMIZER sgd STEP 1 1", "ERR"),
            ("1 p", "1 g 6 mean 0 WEIGHTS 0", "TRAINED 2 CLIPNORM none CLIPVALUE NaN OPTIMIZER sgd STEP 1 1", "ERR"),
            ("1 p", "1 g 6 mean 0 WEIGHTS 0", "TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 0 1", "ERR"),
            ("1 p", "1 g 6 mean 0 WEIGHTS 0", "TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER lion STEP 1 1", "ERR"),
            ("1 p", "1 g 6 mean 0 WEIGHTS 0", "TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER sgd STEP 1 1 1", "ERR"),
        ] {
            client.say(&format!("SKEIN.APPLY {state} ROWS {rows} {end}")).fails(message);
        }
        assert_eq!((client.get("p"), client.get("m")), (vec![1.0, 2.0], vec![1.0, 2.0]));
        let good = format!("SKEIN.APPLY 2 p m ROWS 1 g 6 mean 0 WEIGHTS 0 {momentum}");
        assert_eq!(client.say(&good).integer(), 6);
        let after = client.get("p");
        assert_eq!(client.say(&good).integer(), 6, "the round was already applied");
        assert_eq!(client.get("p"), after);
    });
}

#[test]
fn a_new_value_does_not_expire_with_the_old_one() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("a", 0, &noise(1, 10));
        client.say("EXPIRE a 1000");
        client.say("SKEIN.SETRANGE a 0 abcd").ok();
        assert!(client.say("TTL a").integer() > 0);
        client.set("a", 1, &noise(2, 10));
        assert_eq!(client.say("TTL a").integer(), -1);
    });
}

#[test]
fn arguments_of_the_module_are_checked() {
    for program in programs() {
        for (arguments, reason) in [
            ("threads 0", "`threads` must be between 1 and 64, got `0`"),
            ("threads many", "`threads` must be between 1 and 64, got `many`"),
            ("speed 9", "`speed 9` is not an option: use `threads N` or `queue N`"),
        ] {
            let log = refusal(&program, arguments);
            assert!(log.contains(reason), "{log}");
        }
    }
    on_each("threads 3", |server| assert_eq!(server.client().info("threads"), 3));
}

#[test]
fn the_module_is_loaded_once() {
    on_each("--enable-module-command yes", |server| {
        let mut client = server.client();
        client.set("a", 1, &noise(1, 10));
        // Servers bring their own modules, and list all in no fixed order.
        let modules = client.say("MODULE LIST").array().to_vec();
        let answers = modules.iter().flat_map(|module| module.array().iter());
        let is_name =
            |answer: &Answer| matches!(answer, Answer::Bulk(_)) && answer.text() == skein_redis_module::MODULE_NAME;
        assert!({ answers }.any(is_name));
        let file = std::env::current_exe().unwrap().with_file_name(skein_redis_module::FILE_NAME);
        client.say(&format!("MODULE LOAD {}", file.display())).fails("ERR");
        assert_eq!(client.get("a"), noise(1, 10));
        client.say("MODULE UNLOAD skein").fails("ERR");
    });
}

#[test]
fn info_counts() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("a", 1, &noise(1, 100_000));
        assert_eq!(client.say("SKEIN.GET text"), Answer::Nil);
        client.say("SKEIN.AGG out 1 mean 0 1 nothing").fails("MISSING 0");
        assert_eq!((client.info("commands_done"), client.info("commands_failed")), (2, 1));
        assert_eq!(client.info("values_processed"), 100_000);
        assert_eq!(client.info("tensor_bytes"), 400_000);
        client.say("DEL a");
        // Valkey deletes in the background.
        client.until(|client| client.info("recycled_bytes") == 400_000);
        assert_eq!(client.info("tensor_bytes"), 0);
        client.set("a", 1, &noise(1, 100_000));
        assert_eq!((client.info("tensor_bytes"), client.info("recycled_bytes")), (400_000, 0));
    });
}
