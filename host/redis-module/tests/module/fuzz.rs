//! Commands with invalid arguments.

use crate::client::{Answer, Client, Random};
use crate::server::on_each;

const COMMANDS: [&str; 14] = [
    "SKEIN.SET",
    "SKEIN.SETRANGE",
    "SKEIN.GET",
    "SKEIN.GETRANGE",
    "SKEIN.META",
    "SKEIN.STAT",
    "SKEIN.NORM",
    "SKEIN.ACC",
    "SKEIN.AVERAGE",
    "SKEIN.AGG",
    "SKEIN.APPLY",
    "SKEIN.RESTORESUM",
    "SKEIN.VERSION",
    "skein.apply",
];

const WORDS: [&[u8]; 50] = [
    b"a",
    b"b",
    b"sum",
    b"text",
    b"nothing",
    b"out",
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"-1",
    b"65536",
    b"4294967295",
    b"18446744073709551615",
    b"9223372036854775807",
    b"1e308",
    b"nan",
    b"inf",
    b"0.5",
    b"",
    b"\0",
    b"\xff\xfe",
    b"abcd",
    b"abcdabcd",
    b"mean",
    b"median",
    b"trimmed-mean",
    b"weighted-mean",
    b"WEIGHTS",
    b"ROWS",
    b"TRAINED",
    b"CLIPNORM",
    b"CLIPVALUE",
    b"none",
    b"OPTIMIZER",
    b"sgd",
    b"adam",
    b"momentum(momentum=0)",
    b"STEP",
    b"+7",
    b"1.5.",
    b"multi-krum",
    b"multi-krum(selected=1)",
    b"multi-krum(selected=4294967295)",
    b"multi-krum(neighbours=1,neighbours=1)",
    b"nesterov",
    b"adam(",
    b"sgd(a\0b=x)",
    b"mean(\r\n=1)",
];

/// Valid calls, of which words are then replaced, dropped or doubled.
const VALID: [&str; 7] = [
    "SKEIN.SET a 1 abcdabcd 1 2",
    "SKEIN.SETRANGE a 1 abcd",
    "SKEIN.ACC sum a 2 0 2 3 0.5 abcdabcd",
    "SKEIN.AVERAGE out sum 2",
    "SKEIN.AGG out 1 weighted-mean 0 2 a b WEIGHTS 1 2",
    "SKEIN.AGG out 1 multi-krum(selected=1) 0 3 a b a",
    "SKEIN.APPLY 1 a ROWS 2 a b 2 trimmed-mean 0 WEIGHTS 0 TRAINED 2 CLIPNORM 1 CLIPVALUE none OPTIMIZER sgd STEP 1 0.1",
];

fn call(client: &mut Client, arguments: &[&[u8]]) {
    if let Answer::Error(error) = client.call(arguments) {
        assert!(!error.contains("internal"), "{error}: {arguments:?}");
    }
}

#[test]
fn no_argument_ends_the_server() {
    on_each("", |server| {
        let mut client = server.client();
        let mut random = Random(5);
        client.say("SET text hello").ok();
        for turn in 0..20_000u64 {
            if turn % 50 == 0 {
                ["a", "b"].iter().for_each(|key| client.set(key, 1, &[1.0, 2.0]));
            }
            let mut arguments: Vec<&[u8]> =
                VALID[random.below(VALID.len() as u64) as usize].split(' ').map(str::as_bytes).collect();
            if turn % 3 == 0 {
                let name = COMMANDS[random.below(COMMANDS.len() as u64) as usize].as_bytes();
                arguments = [name]
                    .into_iter()
                    .chain((0..random.below(12)).map(|_| WORDS[random.below(WORDS.len() as u64) as usize]))
                    .collect();
            }
            for _ in 0..random.below(4) {
                let at = random.below(arguments.len() as u64) as usize;
                match random.below(4) {
                    _ if at == 0 => {}
                    0 => _ = arguments.remove(at),
                    1 => arguments.insert(at, arguments[at]),
                    _ => arguments[at] = WORDS[random.below(WORDS.len() as u64) as usize],
                }
            }
            call(&mut client, &arguments);
        }
    });
}
