//! A minimal client of the Redis protocol, which shows every answer as text.

#![allow(dead_code, reason = "each of the tests that share this file uses a part of it")]

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a server.
pub(crate) struct Client<S>(BufReader<S>);

impl Client<UnixStream> {
    pub(crate) fn unix(socket: &Path) -> Result<Client<UnixStream>> {
        UnixStream::connect(socket).map(|stream| Client(BufReader::new(stream)))
    }
}

impl Client<TcpStream> {
    /// Connects to a port of this machine.
    pub(crate) fn tcp(port: &str) -> Result<Client<TcpStream>> {
        TcpStream::connect(format!("127.0.0.1:{port}")).map(|stream| Client(BufReader::new(stream)))
    }
}

/// Longest time in which something is asked again and again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Asks until the answer is yes; `false` if it never is.
pub(crate) fn until(mut question: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < WAIT_MAX {
        if question() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

impl<S: Read + Write> Client<S> {
    /// Sends a command and returns its answer: the text of an error too, the elements of an array on a line each.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Result<String> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(command.as_bytes())?;
        let mut lines = Vec::new();
        self.read(&mut lines)?;
        Ok(lines.join("\n"))
    }

    fn read(&mut self, lines: &mut Vec<String>) -> Result<()> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let wrong = || Error::new(ErrorKind::InvalidData, format!("`{line}` is not a size"));
        match kind {
            // A missing value is a line without text.
            "$" if rest == "-1" => lines.push(String::new()),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().map_err(|_| wrong())? + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                lines.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            "*" => {
                for _ in 0..rest.parse().unwrap_or(0) {
                    self.read(lines)?;
                }
            }
            _ => lines.push(rest.to_owned()),
        }
        Ok(())
    }
}
