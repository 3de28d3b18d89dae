//! The paths from gradients in a database to an update, all measured in the same way.
//!
//! A path starts with the gradients in the database and ends with the new parameters there. It computes the mean of the
//! gradients and one step of plain gradient descent.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skein_kernels::mean::{MEAN, divide};
use skein_kernels::optimizer::{Optimizer, SGD, Step};
use skein_kernels::rule::Rule;
use skein_kernels::rules;
use skein_kernels::tree::add;
use skein_kernels::update::Change;
use skein_redis::transport::{Client, Reply};
use skein_redis::{Options, Scope};
use skein_redis_command::Command;
use skein_redis_command::command::{Accumulate, Apply, Average, Set};
use skein_store::{Aggregate, Ports, State, Update};
use skein_types::{Digest, PeerId, Values};

/// Parameters for the script over JSON text: as many as it can handle in a benchmark.
pub(crate) const LUA_PARAMETERS: usize = 100_000;
const LEARNING_RATE: f32 = 0.01;

/// Bound on the reply of a command that returns no values.
const REPLY_BYTES_MAX: usize = 1 << 16;
/// Keys of the parameters and of the average.
const PARAMETERS: &str = "{bench}:p";
const AVERAGE: &str = "{bench}:average";

/// A database to measure, on this machine and at a Unix socket.
pub(crate) struct Bench {
    link: Client,
    options: Options,
    socket: PathBuf,
    parameters: usize,
    gradients: usize,
}

/// Duration and traffic of one measurement.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    /// Wall time of the measured work.
    pub(crate) duration: Duration,
    /// Bytes that the server received and sent.
    pub(crate) bytes: u64,
}

impl Bench {
    /// A bench for `gradients` of `parameters` values each, in the database of `options`, at the Unix socket `socket`.
    ///
    /// # Errors
    /// The options name an unreadable file or an address that needs TLS.
    pub(crate) fn new(options: &Options, socket: &Path, parameters: usize, gradients: usize) -> Result<Bench> {
        let link = Client::new(options, None, "{bench}".to_owned())?;
        Ok(Bench { link, options: options.clone(), socket: socket.to_owned(), parameters, gradients })
    }

    /// Measures the duration of `work`, and the traffic that the server reports for it.
    async fn measured(&self, work: impl Future<Output = Result<()>>) -> Result<Measured> {
        let before = self.traffic().await?;
        let begun = Instant::now();
        work.await?;
        let duration = begun.elapsed();
        Ok(Measured { duration, bytes: self.traffic().await? - before })
    }

    async fn traffic(&self) -> Result<u64> {
        let info: String = self.link.control(redis::cmd("INFO").arg("stats")).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        Ok(field("total_net_input_bytes:").unwrap_or(0) + field("total_net_output_bytes:").unwrap_or(0))
    }

    async fn call(&self, arguments: &[&[u8]]) -> Result<()> {
        Ok(self.link.call(arguments, REPLY_BYTES_MAX).await.map(drop)?)
    }

    async fn command<'a>(&self, command: impl Command<&'a [u8]>) -> Result<()> {
        Ok(self.link.command(command, REPLY_BYTES_MAX).await.map(drop)?)
    }

    fn key(name: &str, index: usize) -> String {
        format!("{{bench}}:{name}:{index}")
    }

    /// Stores parameters and gradients as the module's tensors.
    ///
    /// # Errors
    /// The database fails a command, or does not have the module.
    pub(crate) async fn fill_module(&self) -> Result<()> {
        self.set(PARAMETERS, 0).await?;
        for index in 0..self.gradients {
            self.set(&Self::key("g", index), index + 1).await?;
        }
        Ok(())
    }

    async fn set(&self, key: &str, seed: usize) -> Result<()> {
        let values = noise(self.parameters, seed);
        let blob = bytemuck::cast_slice(&values);
        self.command(Set { key: key.as_bytes(), version: 0, blob, shape: Vec::new() }).await
    }

    /// Measures one command of the module, which computes mean and step of the round `round`.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn in_database(&self, round: u64) -> Result<Measured> {
        let rows: Vec<String> = (0..self.gradients).map(|index| Self::key("g", index)).collect();
        self.measured(self.apply(round, "mean", &rows)).await
    }

    /// One step of plain gradient descent.
    fn change(&self) -> Change {
        let step = Step { number: 1, learning_rate: LEARNING_RATE };
        let optimizer = Optimizer::new(&SGD);
        Change { trained: self.parameters, clip_norm: None, clip_value: None, optimizer, step }
    }

    async fn apply(&self, round: u64, rule: &str, rows: &[String]) -> Result<()> {
        let state = vec![PARAMETERS.as_bytes()];
        let rows = rows.iter().map(String::as_bytes).collect();
        let rule = rules::parse(rule, 1)?;
        self.command(Apply { state, rows, round, rule, change: self.change() }).await
    }

    /// Has the module sum the gradients as they arrive, and measures the work that is left after the last one.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn accumulated(&self, round: u64) -> Result<Measured> {
        let sum = format!("{{bench}}:sum:{round}");
        let sum = sum.as_bytes();
        let values = noise(self.parameters, 1);
        let count = self.gradients as u32;
        for index in 0..count {
            let parameters = PARAMETERS.as_bytes();
            let blob = bytemuck::cast_slice(&values);
            let batch = Accumulate { sum, parameters, round, index, count, samples: 1, loss: 0.5, blob };
            self.command(batch).await?;
        }
        let left = async {
            self.command(Average { destination: AVERAGE.as_bytes(), sum, round }).await?;
            self.apply(round, "mean", &[AVERAGE.to_owned()]).await
        };
        let measured = self.measured(left).await?;
        self.call(&[b"UNLINK", sum, AVERAGE.as_bytes()]).await?;
        Ok(measured)
    }

    /// Durations of at least `count` answers to `PING`, shortest first, while the module aggregates all gradients by
    /// `rule`, in as many rounds as it takes from `round` on. Also returns the round after the last.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn pings_meanwhile(
        &self,
        mut round: u64,
        rule: &str,
        count: usize,
    ) -> Result<(Vec<Duration>, u64)> {
        let rows: Vec<String> = (0..self.gradients).map(|index| Self::key("g", index)).collect();
        // Opens the connection first: a heartbeat, too, uses one that is already open.
        self.call(&[b"PING"]).await?;
        let mut pings = Vec::new();
        while pings.len() < count {
            let apply = self.apply(round, rule, &rows);
            tokio::pin!(apply);
            loop {
                let begun = Instant::now();
                tokio::select! {
                    applied = &mut apply => break applied?,
                    pong = self.call(&[b"PING"]) => pong?,
                }
                pings.push(begun.elapsed());
            }
            round += 1;
        }
        pings.sort();
        Ok((pings, round))
    }

    /// Stores parameters and gradients as strings.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn fill_strings(&self) -> Result<()> {
        self.call(&[b"SET", b"{bench}:p", bytemuck::cast_slice(&noise(self.parameters, 0))]).await?;
        for index in 0..self.gradients {
            let key = Self::key("g", index);
            let values = noise(self.parameters, index + 1);
            self.call(&[b"SET", key.as_bytes(), bytemuck::cast_slice(&values)]).await?;
        }
        Ok(())
    }

    /// Measures the fastest possible client: a blocking socket, reused buffers, no parsing. It fetches and averages the
    /// gradients and stores the average, then fetches, updates and stores the parameters, as a function does.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn raw_client(&self) -> Result<Measured> {
        let socket = self.socket.clone();
        let password = self.options.password()?;
        let user = self.options.url.user.clone();
        let parameters = self.parameters;
        let gradients = self.gradients;
        let login = user.zip(password);
        let connect = tokio::task::spawn_blocking(move || RawClient::open(&socket, login, parameters));
        let mut client = connect.await??;
        let work = async {
            let work = tokio::task::spawn_blocking(move || client.average_and_update(gradients));
            Ok(work.await??)
        };
        self.measured(work).await
    }

    /// Measures Skein's own store without the module: fetch, compute, store.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn plain_store(&self, store: &Ports, round: u64) -> Result<Measured> {
        let peers: Vec<_> = (0..self.gradients).map(|index| PeerId([index as u8; 32])).collect();
        for (index, peer) in peers.iter().enumerate() {
            store.contributions.put_contribution(round, *peer, noise(self.parameters, index + 1).into()).await?;
        }
        let aggregate = Aggregate::Contributions { rule: Rule::new(&MEAN, 0), peers };
        let work = async { Ok(store.state.apply(Update { round, aggregate, change: self.change() }).await.map(drop)?) };
        let measured = self.measured(work).await?;
        store.state.prune_before(round + 1).await?;
        Ok(measured)
    }

    /// Opens a store for [`Bench::plain_store`], at round 0.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn open_store(&self) -> Result<Ports> {
        let store = skein_redis::open(&self.options, scope(self.parameters)).await?;
        store.state.set_state(State::new(0, Values::from(noise(self.parameters, 0)), Vec::new())).await?;
        Ok(store)
    }

    /// Measures a script over gradients as JSON text, as published: Lua decodes, sums and encodes them, the client
    /// parses and stores the result. Each gradient has [`LUA_PARAMETERS`] values.
    ///
    /// # Errors
    /// The database fails a command.
    pub(crate) async fn lua_json(&self) -> Result<Measured> {
        const SCRIPT: &str = "
            local texts = redis.call('LRANGE', KEYS[1], 0, -1)
            local sum = cjson.decode(texts[1])
            for i = 2, #texts do
              local gradient = cjson.decode(texts[i])
              for j = 1, #sum do sum[j] = sum[j] + gradient[j] end
            end
            for j = 1, #sum do sum[j] = sum[j] / #texts end
            return cjson.encode(sum)";
        let key = "{bench}:json";
        for index in 0..self.gradients {
            // Python converts a 32-bit float to a 64-bit one, and writes all its digits.
            let values = noise(LUA_PARAMETERS, index + 1).into_iter().map(|value| f64::from(value).to_string());
            let values: Vec<String> = values.collect();
            let text = format!("[{}]", values.join(","));
            self.call(&[b"RPUSH", key.as_bytes(), text.as_bytes()]).await?;
        }
        let work = async {
            let arguments = ["EVAL", SCRIPT, "1", key].map(str::as_bytes);
            let reply = self.link.call(&arguments, 1 << 30).await.and_then(Reply::bytes);
            let text = reply?;
            let text = String::from_utf8_lossy(&text);
            let numbers = text.trim_matches(['[', ']']).split(',');
            let average: Vec<f32> = numbers.map(|number| number.parse().unwrap_or(f32::NAN)).collect();
            self.call(&[b"SET", b"{bench}:average", bytemuck::cast_slice(&average)]).await
        };
        let measured = self.measured(work).await?;
        self.call(&[b"UNLINK", key.as_bytes(), b"{bench}:average"]).await?;
        Ok(measured)
    }

    /// Measures how long it takes to store and to fetch the parameters over the channel of tensors.
    ///
    /// # Errors
    /// The database fails a command or returns other values.
    pub(crate) async fn channel(&self) -> Result<(Duration, Duration)> {
        let values = noise(self.parameters, 0);
        let begun = Instant::now();
        self.call(&[b"SET", b"{bench}:channel", bytemuck::cast_slice(&values)]).await?;
        let stored = begun.elapsed();
        let begun = Instant::now();
        let fetched = self.link.values(&[b"GET", b"{bench}:channel"], self.parameters).await?;
        let duration = begun.elapsed();
        match fetched {
            Some(fetched) if fetched == values => self.link.give_back(fetched),
            _ => anyhow::bail!("the database returned other values than were stored"),
        }
        Ok((stored, duration))
    }

    /// The parameters in the database, read with the command `command`.
    ///
    /// # Errors
    /// The database fails the command or has no parameters.
    pub(crate) async fn parameters(&self, command: &str) -> Result<Vec<f32>> {
        let values = self.link.values(&[command.as_bytes(), b"{bench}:p"], self.parameters).await?;
        values.context("the database lost the parameters")
    }
}

fn scope(values: usize) -> Scope {
    Scope { run: Digest([0xbe; 32]), peer: PeerId([0; 32]), values }
}

/// Reproducible values, which differ between seeds.
fn noise(len: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u32 ^ 0x9e37_79b9;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A client that does only the necessary work.
struct RawClient {
    socket: UnixStream,
    sum: Vec<f32>,
    fetched: Vec<f32>,
}

impl RawClient {
    fn open(socket: &Path, login: Option<(String, String)>, parameters: usize) -> std::io::Result<RawClient> {
        let sum = vec![1.0; parameters];
        let fetched = vec![1.0; parameters];
        let mut client = RawClient { socket: UnixStream::connect(socket)?, sum, fetched };
        if let Some((user, password)) = login {
            let command =
                format!("*3\r\n$4\r\nAUTH\r\n${}\r\n{user}\r\n${}\r\n{password}\r\n", user.len(), password.len());
            client.socket.write_all(command.as_bytes())?;
            client.line()?;
        }
        Ok(client)
    }

    fn average_and_update(&mut self, gradients: usize) -> std::io::Result<()> {
        for index in 0..gradients {
            self.fetch(&Bench::key("g", index))?;
            match index {
                0 => self.sum.copy_from_slice(&self.fetched),
                _ => add(&mut self.sum, &self.fetched),
            }
        }
        divide(&mut self.sum, gradients as f32);
        std::mem::swap(&mut self.sum, &mut self.fetched);
        self.store("{bench}:average")?;
        std::mem::swap(&mut self.sum, &mut self.fetched);
        self.fetch("{bench}:p")?;
        for (parameter, gradient) in self.fetched.iter_mut().zip(&self.sum) {
            *parameter -= LEARNING_RATE * gradient;
        }
        self.store("{bench}:p")
    }

    fn fetch(&mut self, key: &str) -> std::io::Result<()> {
        write!(self.socket, "*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len())?;
        self.line()?;
        self.socket.read_exact(bytemuck::cast_slice_mut(&mut self.fetched))?;
        self.socket.read_exact(&mut [0; 2])
    }

    fn store(&mut self, key: &str) -> std::io::Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.fetched);
        let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), bytes.len());
        let mut slices = [IoSlice::new(head.as_bytes()), IoSlice::new(bytes), IoSlice::new(b"\r\n")];
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = self.socket.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, written);
        }
        self.line()
    }

    /// Reads a line byte by byte: it is short, so this costs little compared to a tensor.
    fn line(&mut self) -> std::io::Result<()> {
        let mut byte = [0];
        let mut first = None;
        while byte[0] != b'\n' {
            self.socket.read_exact(&mut byte)?;
            first = first.or(Some(byte[0]));
        }
        match first {
            Some(b'-') => Err(std::io::Error::other("the server refused the command")),
            _ => Ok(()),
        }
    }
}
