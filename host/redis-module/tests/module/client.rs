//! A minimal client of the Redis protocol, which can also misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A server's answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Text(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Answer>),
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(&self) {
        assert_eq!(*self, Answer::Text("OK".to_owned()));
    }

    #[track_caller]
    pub(crate) fn integer(&self) -> i64 {
        match self {
            Answer::Integer(integer) => *integer,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn bulk(&self) -> &[u8] {
        match self {
            Answer::Bulk(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn text(&self) -> String {
        match self {
            Answer::Text(text) => text.clone(),
            other => String::from_utf8_lossy(other.bulk()).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn array(&self) -> &[Answer] {
        match self {
            Answer::Array(answers) => answers,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn values(&self) -> Vec<f32> {
        self.bulk().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[track_caller]
    pub(crate) fn fails(&self, message: &str) {
        match self {
            Answer::Error(error) if error.starts_with(message) => {}
            other => panic!("expected error `{message}`, got {other:?}"),
        }
    }
}

/// A connection to a server's Unix socket.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Client {
        Client { stream: BufReader::new(UnixStream::connect(socket).expect("the server listens")) }
    }

    /// Sends a command without waiting for the answer.
    pub(crate) fn send(&mut self, arguments: &[&[u8]]) {
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            request.extend(format!("${}\r\n", argument.len()).into_bytes());
            request.extend_from_slice(argument);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).expect("the server reads");
    }

    /// Waits for an answer; `None` if the server closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let (kind, rest) = line.trim_end().split_at(1);
        Some(match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Integer(rest.parse().expect("a number")),
            "*" if rest == "-1" => Answer::Nil,
            "*" => {
                let count: usize = rest.parse().expect("a number");
                Answer::Array((0..count).map(|_| self.receive()).collect::<Option<_>>()?)
            }
            "$" if rest == "-1" => Answer::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a number") + 2];
                self.stream.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Answer::Bulk(bytes)
            }
            other => panic!("an answer cannot begin with `{other}`"),
        })
    }

    #[track_caller]
    pub(crate) fn call(&mut self, arguments: &[&[u8]]) -> Answer {
        self.send(arguments);
        self.receive().expect("the server answers")
    }

    /// Calls a command whose arguments are words, separated by spaces.
    #[track_caller]
    pub(crate) fn say(&mut self, command: &str) -> Answer {
        self.call(&command.split_whitespace().map(str::as_bytes).collect::<Vec<_>>())
    }

    #[track_caller]
    pub(crate) fn set(&mut self, key: &str, version: u64, values: &[f32]) {
        self.call(&[b"SKEIN.SET", key.as_bytes(), version.to_string().as_bytes(), &blob(values)]).ok();
    }

    #[track_caller]
    pub(crate) fn get(&mut self, key: &str) -> Vec<f32> {
        self.say(&format!("SKEIN.GET {key}")).values()
    }

    /// A field of `INFO skein`.
    #[track_caller]
    pub(crate) fn info(&mut self, field: &str) -> u64 {
        let info = self.say("INFO skein").text();
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("skein_{field}:")));
        line.unwrap_or_else(|| panic!("no {field} in {info}")).parse().expect("a number")
    }

    /// Repeats a question until it is answered with `true`, for at most 60 seconds.
    #[track_caller]
    pub(crate) fn until(&mut self, mut question: impl FnMut(&mut Client) -> bool) {
        let begun = std::time::Instant::now();
        while !question(self) {
            assert!(begun.elapsed().as_secs() < 60, "the server has not reached the expected state in 60 s");
            std::thread::yield_now();
        }
    }
}

pub(crate) fn blob(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Values that look random, the same for each seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| (random.below(20_001) as f32 - 10_000.0) * 0.003).collect()
}

/// Pseudo-random numbers: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

#[track_caller]
pub(crate) fn same_bits(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    let differs = actual.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(at) = differs {
        panic!("at {at}: expected {}, got {}", expected[at], actual[at]);
    }
}
