//! Access lists: who may only read, and who may read here and write there.

use crate::server::on_each;

#[test]
fn access_lists_tell_reading_from_writing() {
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
        let end = "1 mean 0 WEIGHTS 0 TRAINED 2 CLIPNORM none CLIPVALUE none OPTIMIZER sgd 0 STEP 1 1";
        stepper.say(&format!("SKEIN.APPLY 1 state:p ROWS 1 pub:a {end}")).fails("NOPERM");
        stepper.say(&format!("SKEIN.APPLY 1 grad:a ROWS 1 grad:a {end}")).fails("NOPERM");
        assert_eq!(stepper.say(&format!("SKEIN.APPLY 1 state:p ROWS 1 grad:a {end}")).integer(), 1);
    });
}

/// A state key that is spelled like the keyword would hide the rows from the access list.
#[test]
fn a_state_key_can_not_hide_the_rows() {
    on_each("", |server| {
        let mut client = server.client();
        client.say("ACL SETUSER stepper on >x resetkeys %RW~ROWS* %R~1 %R~grad:* +@all").ok();
        client.set("ROWS", 0, &[1.0]);
        client.set("secret", 0, &[1.0]);
        let mut stepper = server.client();
        stepper.say("AUTH stepper x").ok();
        let end = "1 mean 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER momentum 0 0 0 STEP 1 1";
        for hiding in [&b"ROWS"[..], b"rows", b"ROWS\0more"] {
            let words = format!("SKEIN.APPLY 2 {{}} 1 ROWS 1 secret {end}");
            let arguments: Vec<&[u8]> =
                words.split(' ').map(|word| if word == "{}" { hiding } else { word.as_bytes() }).collect();
            match stepper.call(&arguments) {
                crate::client::Answer::Error(error) => {
                    assert!(error.starts_with("NOPERM") || error.starts_with("ERR"), "{error}");
                }
                other => panic!("{other:?}"),
            }
            client.call(&arguments).fails("ERR skein: a state key can not be named");
        }
    });
}

#[test]
fn the_server_knows_the_keys_of_every_command() {
    on_each("", |server| {
        let mut client = server.client();
        for (command, expected) in [
            ("SKEIN.SET a 1 blob 2 2", "a"),
            ("SKEIN.STAT a b c", "a b c"),
            ("SKEIN.ACC s p 1 0 1 1 0 blob", "s p"),
            ("SKEIN.AVERAGE d s 1", "d s"),
            ("SKEIN.AGG d 1 mean 0 2 a b WEIGHTS 1 2", "d a b"),
            (
                "SKEIN.APPLY 2 p m ROWS 2 a b 1 mean 0 WEIGHTS 0 TRAINED 1 CLIPNORM none CLIPVALUE none OPTIMIZER sgd 0 STEP 1 1",
                "p m a b",
            ),
        ] {
            let keys = client.say(&format!("COMMAND GETKEYS {command}"));
            let keys: Vec<String> = keys.array().iter().map(|key| key.text()).collect();
            assert_eq!(keys.join(" "), expected);
        }
    });
}
