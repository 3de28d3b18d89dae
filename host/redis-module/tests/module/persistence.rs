//! Saving, loading, copying: values survive a restart, and damaged ones do not end the server.

use crate::client::{Client, Random, blob, noise, same_bits};
use crate::server::{Server, on_each};

/// Stores tensors, and sums in every state: begun, complete, closed.
fn fill(client: &mut Client) {
    client.set("parameters", 3, &noise(1, 1000));
    client.call(&[b"SKEIN.SET", b"shaped", b"7", &blob(&noise(2, 100_000)), b"100", b"10", b"100"]).ok();
    client.set("empty", 0, &[]);
    for (sum, leaves, sent) in [("begun", 7, &[0, 2, 3, 6][..]), ("complete", 3, &[0, 1, 2]), ("closed", 2, &[0, 1])] {
        for leaf in sent {
            let words = format!("SKEIN.ACC {sum} parameters 4 {leaf} {leaves} {} 0.5", leaf + 1);
            let values = blob(&noise(*leaf as u64, 1000));
            let arguments: Vec<&[u8]> = words.split(' ').map(str::as_bytes).chain([values.as_slice()]).collect();
            assert_eq!(client.call(&arguments).integer(), 1);
        }
    }
    client.say("SKEIN.AVERAGE average closed 4");
}

const KEYS: &str = "parameters shaped empty begun complete closed average";

fn digests(client: &mut Client) -> Vec<String> {
    let answer = client.say(&format!("DEBUG DIGEST-VALUE {KEYS}"));
    let digests: Vec<String> = answer.array().iter().map(|digest| digest.text()).collect();
    assert!(!digests.contains(&"0".repeat(40)), "{digests:?}");
    digests
}

/// Sends the missing batches, and checks that the sums continue as without a restart.
fn resume(client: &mut Client) {
    for leaf in [1, 4, 5] {
        let words = format!("SKEIN.ACC begun parameters 4 {leaf} 7 {} 0.5", leaf + 1);
        let values = blob(&noise(leaf as u64, 1000));
        let arguments: Vec<&[u8]> = words.split(' ').map(str::as_bytes).chain([values.as_slice()]).collect();
        assert_eq!(client.call(&arguments).integer(), 1);
    }
    let rows: Vec<Vec<f32>> = (0..7).map(|leaf| noise(leaf, 1000)).collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let mut expected = vec![0.0; 1000];
    skein_kernels::mean::weighted_mean(&rows, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &mut expected).unwrap();
    assert_eq!(client.say("SKEIN.AVERAGE out begun 4").array()[0].integer(), 28);
    same_bits(&client.get("out"), &expected);
    assert_eq!(client.say("SKEIN.AVERAGE out2 complete 4").array()[0].integer(), 6);
    assert_eq!(client.say("SKEIN.AVERAGE out2 closed 4").array()[0].integer(), 3);
}

#[test]
fn snapshots_keep_everything() {
    on_each("", |server| {
        fill(&mut server.client());
        let before = digests(&mut server.client());
        server.client().say("SAVE").ok();
        server.restart();
        assert_eq!(digests(&mut server.client()), before);
        resume(&mut server.client());
    });
}

#[test]
fn the_command_log_keeps_everything() {
    // A server that syncs every second does not always write before it answers.
    on_each("--appendonly yes --appendfsync no --aof-use-rdb-preamble no", |server| {
        fill(&mut server.client());
        let before = digests(&mut server.client());
        server.restart();
        assert_eq!(digests(&mut server.client()), before, "after replaying the commands themselves");
        let mut client = server.client();
        client.say("BGREWRITEAOF");
        client.until(|client| client.say("INFO persistence").text().contains("aof_rewrite_in_progress:0"));
        assert!(client.say("INFO persistence").text().contains("aof_last_bgrewrite_status:ok"));
        server.restart();
        assert_eq!(digests(&mut server.client()), before, "after replaying the rewritten log");
        resume(&mut server.client());
    });
}

/// A snapshot has each batch that workers add during it either wholly or not at all.
#[test]
fn a_snapshot_during_aggregation_is_consistent() {
    on_each("threads 2", |server| {
        let len = 500_000;
        server.client().set("parameters", 0, &vec![0.0; len]);
        std::thread::scope(|scope| {
            let clients = (0..4usize).map(|number| {
                let mut client = server.client();
                scope.spawn(move || {
                    for leaf in (number..32).step_by(4) {
                        let words = format!("SKEIN.ACC sum parameters 1 {leaf} 32 1 0");
                        let values = blob(&noise(leaf as u64, len));
                        client
                            .call(&words.split(' ').map(str::as_bytes).chain([values.as_slice()]).collect::<Vec<_>>());
                    }
                })
            });
            let clients: Vec<_> = clients.collect();
            let mut client = server.client();
            client.until(|client| client.say("EXISTS sum").integer() == 1);
            client.say("BGSAVE");
            client.until(|client| client.say("INFO persistence").text().contains("rdb_bgsave_in_progress:0"));
            assert!(client.say("INFO persistence").text().contains("rdb_last_bgsave_status:ok"));
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        server.client().say("SKEIN.AVERAGE average sum 1");
        let expected = server.client().get("average");
        server.restart();
        let mut client = server.client();
        let mut counted = 0;
        for leaf in 0..32 {
            let words = format!("SKEIN.ACC sum parameters 1 {leaf} 32 1 0");
            let values = blob(&noise(leaf as u64, len));
            let arguments: Vec<&[u8]> = words.split(' ').map(str::as_bytes).chain([values.as_slice()]).collect();
            counted += client.call(&arguments).integer();
        }
        println!("{counted} batches came after the snapshot");
        client.say("SKEIN.AVERAGE average sum 1");
        same_bits(&client.get("average"), &expected);
    });
}

#[test]
fn copies_change_independently() {
    on_each("", |server| {
        let mut client = server.client();
        fill(&mut client);
        let before = digests(&mut client);
        for key in KEYS.split(' ') {
            assert_eq!(client.say(&format!("COPY {key} copy:{key}")).integer(), 1);
            assert!(client.say(&format!("MEMORY USAGE {key}")).integer() > 0);
        }
        assert!(client.say("MEMORY USAGE shaped").integer() >= 400_000);
        resume(&mut client);
        client.say("SKEIN.SETRANGE parameters 0 abcd").ok();
        for key in KEYS.split(' ') {
            client.say(&format!("RENAME copy:{key} {key}")).ok();
        }
        assert_eq!(digests(&mut client), before);
        assert_eq!(client.say(&format!("UNLINK {KEYS}")).integer(), 7);
        client.say("DEL out out2");
        client.until(|client| client.info("tensor_bytes") == 0);
    });
}

/// CRC-64 as the server appends it to a dump: Jones's polynomial, reflected.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u64::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 },
        )
    })
}

fn restore(server: &Server, client: &mut Client, payload: &[u8]) -> bool {
    let payload = [payload, &crc64(payload).to_le_bytes()].concat();
    match client.call(&[b"RESTORE", b"damaged", b"0", &payload, b"REPLACE"]) {
        crate::client::Answer::Error(_) => false,
        answer => {
            answer.ok();
            // An accepted value may be used like any other.
            for command in [
                "SKEIN.GET damaged",
                "SKEIN.STAT damaged",
                "SKEIN.AVERAGE out damaged 4",
                "DUMP damaged",
                "DEBUG DIGEST-VALUE damaged",
                "COPY damaged copied REPLACE",
                "SKEIN.ACC damaged parameters 4 1 7 1 1 abcd",
            ] {
                client.say(command);
            }
            assert!(server.socket().exists());
            true
        }
    }
}

#[test]
fn damaged_dumps_are_refused_or_harmless() {
    on_each("", |server| {
        let mut client = server.client();
        fill(&mut client);
        client.set("small", 3, &noise(1, 5));
        let mut random = Random(11);
        let mut refused = 0;
        let mut accepted = 0;
        for key in ["small", "begun", "complete", "closed", "empty"] {
            let dump = client.say(&format!("DUMP {key}")).bulk().to_vec();
            let whole = &dump[..dump.len() - 8];
            assert_eq!(crc64(whole).to_le_bytes(), dump[dump.len() - 8..]);
            assert!(restore(server, &mut client, whole), "an unchanged dump of {key}");
            for turn in 0..700u64 {
                let mut payload = whole.to_vec();
                for _ in 0..=turn % 3 {
                    // The server owns the type's name and the version at the end; most fields are near the beginning.
                    let end = if turn % 2 == 0 { payload.len().min(80) } else { payload.len() } as u64 - 2;
                    let at = 10 + random.below(end - 10) as usize;
                    match random.below(5) {
                        0 => payload[at] = 0xff,
                        1 => payload[at] = random.below(256) as u8,
                        2 => payload[at] ^= 1 << random.below(8),
                        3 => payload.insert(at, random.below(256) as u8),
                        _ => _ = payload.remove(at),
                    }
                }
                if restore(server, &mut client, &payload) { accepted += 1 } else { refused += 1 }
            }
        }
        println!("{refused} refused, {accepted} accepted");
        assert!(refused > 500 && accepted > 0);
        assert_eq!(client.say("PING").text(), "PONG");
    });
}

/// Fields of which each alone makes the value invalid.
#[test]
fn a_dump_is_checked_field_by_field() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("a", 3, &[1.0, 2.0]);
        let dump = client.say("DUMP a").bulk().to_vec();
        let whole = &dump[..dump.len() - 8];
        // Type, nine bytes of module and version, then pairs of opcode and number. Numbers below 64 take one byte.
        assert_eq!(whole[10..20], [2, 1, 2, 3, 2, 1, 2, 2, 5, 8]);
        for (at, byte) in [(11, 0), (11, 2), (15, 0), (15, 33), (17, 1), (17, 3), (19, 4), (19, 7)] {
            let mut payload = whole.to_vec();
            payload[at] = byte;
            assert!(!restore(server, &mut client, &payload), "{byte} at {at}");
        }
        let mut payload = whole.to_vec();
        payload[13] = 9;
        assert!(restore(server, &mut client, &payload), "any version is valid");
        // A length of 2^62 without the bytes.
        let huge = [&whole[..19], &[0x81], &(1u64 << 62).to_be_bytes(), &whole[20..]].concat();
        assert!(!restore(server, &mut client, &huge));
    });
}

#[test]
fn a_dumped_sum_is_checked_field_by_field() {
    on_each("", |server| {
        let mut client = server.client();
        client.set("parameters", 3, &[0.0, 0.0]);
        for leaf in [0, 2] {
            client.say(&format!("SKEIN.ACC sum parameters 4 {leaf} 3 1 0 abcdabcd"));
        }
        let dump = client.say("DUMP sum").bulk().to_vec();
        let whole = &dump[..dump.len() - 8];
        // Format, round, leaves, length, closed; two batches with index, samples, loss; two parts with level, index.
        assert_eq!(whole[10..22], [2, 1, 2, 4, 2, 3, 2, 2, 2, 0, 2, 2]);
        assert_eq!(whole[22..42], [2, 0, 2, 1, 2, 0, 2, 2, 2, 1, 2, 0, 2, 2, 2, 0, 2, 0, 5, 8]);
        assert_eq!(whole[50..56], [2, 1, 2, 1, 5, 8]);
        assert!(restore(server, &mut client, whole));
        for (at, byte) in [
            (11, 2),
            (15, 0),
            (15, 2),
            (17, 3),
            (17, 1),
            (19, 1),
            (19, 2),
            (21, 1),
            (21, 4),
            (23, 1),
            (29, 0),
            (29, 3),
            (35, 1),
            (35, 3),
            (37, 1),
            (37, 17),
            (39, 1),
            (39, 3),
            (51, 0),
            (51, 2),
            (53, 0),
            (53, 2),
            (41, 4),
        ] {
            let mut payload = whole.to_vec();
            payload[at] = byte;
            assert!(!restore(server, &mut client, &payload), "{byte} at {at}");
        }
    });
}
