//! The client of one database: finds the server, keeps connections, and tries again while it is out of reach.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use skein_redis_command::{Command, write};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::secret::SecretError;
use crate::transport::Failure;
use crate::transport::Reply;
use crate::transport::address::{Address, Endpoint, Place};
use crate::transport::certificate;
use crate::transport::invitation::Invitation;
use crate::transport::loading::{self, Startup};
use crate::transport::options::{OUTAGE_DEFAULT, Options};
use crate::transport::tensors::{CONNECT_WAIT, Login, TensorConnection, connect};
use crate::transport::tls::{PinnedCertificate, TlsError, Trust};

/// Simultaneous connections for tensors: beyond this many, the machine's memory is the limit anyway.
const CHANNELS: usize = 16;
/// Buffers kept for reuse: the parameters of two rounds.
const SPARE_MAX: usize = 2;
/// How long the server may take for one read or write, which is longer than any wait for records.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may load its data: a dump as large as the memory of the largest machines, from a slow disk.
const LOADING_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// Interval at which a wait is logged: a peer may be away for days.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// Pauses between tries: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The client of one database.
pub struct Client {
    address: Address,
    login: Login,
    /// Which certificates of the server are accepted; `None` without TLS.
    trust: Option<Trust>,
    /// A key of the peer, with which the node of a cluster is found.
    key: String,
    outage_max: Duration,
    idle: Mutex<VecDeque<TensorConnection>>,
    /// Buffers for values that are fetched later.
    spare: Mutex<Vec<Vec<f32>>>,
    permits: Semaphore,
    control: Mutex<Option<MultiplexedConnection>>,
}

/// The options of a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The password cannot be read.
    #[error(transparent)]
    Password(#[from] SecretError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS without certificates, or certificates without TLS.
    #[error("`{0}`: a `rediss` address needs a `tls` table, and a `tls` table a `rediss` address")]
    Mixed(Address),
    /// Anyone between the two machines could read the password.
    #[error("`{0}` is on another machine: use a `rediss` address and a `tls` table")]
    Insecure(Address),
}

/// How the answer to a command is read.
struct Expected<T> {
    receive: Receive<T>,
    /// Most bytes or values that the answer may have.
    max: usize,
}

/// Reads an answer of at most the given number of bytes or values.
type Receive<T> = for<'a> fn(&Client, &'a mut TensorConnection, usize) -> Received<'a, T>;
type Received<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

const REPLY: Receive<Reply> = |_, channel, bytes_max| Box::pin(channel.reply(bytes_max));
const VALUES: Receive<Option<Vec<f32>>> = |client, channel, values_max| {
    let spare = client.spare().pop().unwrap_or_default();
    Box::pin(channel.values(values_max, spare))
};

impl Client {
    /// Makes a client without connecting it. `secret` is the password if `options` name no file; `key` is one of the
    /// peer's keys, with which the node of a cluster is found.
    ///
    /// # Errors
    /// A file that the options name cannot be read, or the address and the certificates do not fit.
    pub fn new(options: &Options, secret: Option<String>, key: String) -> Result<Client, ClientError> {
        let trust = options.tls.clone().map(Trust::Signed);
        let password = options.password()?.or(secret);
        Ok(Client { outage_max: options.outage_max, ..Client::at(options.url.clone(), trust, password, key)? })
    }

    /// Makes a client that reads the database of an invitation, without connecting it. `pin` is the certificate that
    /// the invitation names.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn invited(
        invitation: &Invitation,
        pin: Option<PinnedCertificate>,
        key: String,
    ) -> Result<Client, ClientError> {
        let Invitation { url, password, .. } = invitation;
        Client::at(url.clone(), pin.map(Trust::Pinned), Some(password.clone()), key)
    }

    fn at(
        address: Address,
        trust: Option<Trust>,
        password: Option<String>,
        key: String,
    ) -> Result<Client, ClientError> {
        if address.is_tls != trust.is_some() {
            return Err(ClientError::Mixed(address));
        }
        if !address.is_tls && address.names_other_machine() {
            return Err(ClientError::Insecure(address));
        }
        let login = Login {
            tls: trust.as_ref().map(Trust::config).transpose()?,
            user: address.user.clone(),
            password,
            database: address.database,
        };
        Ok(Client {
            address,
            login,
            trust,
            key,
            outage_max: OUTAGE_DEFAULT,
            idle: Mutex::default(),
            spare: Mutex::default(),
            permits: Semaphore::new(CHANNELS),
            control: Mutex::default(),
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Why the server and this host did not accept each other's certificates, and what helps.
    pub(crate) fn explain(&self, error: &rustls::Error) -> String {
        match &self.trust {
            Some(trust) => certificate::explain(error, &self.address, trust),
            None => error.to_string(),
        }
    }

    /// Sends a command and returns its reply of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The server refuses the command, or is out of reach for longer than the options allow.
    pub fn call<'a>(&'a self, arguments: &'a [&'a [u8]], bytes_max: usize) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(self.exchange(arguments, Expected { receive: REPLY, max: bytes_max }, self.outage_max))
    }

    /// Sends a command of the module and returns its reply.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn command<'a>(&self, command: impl Command<&'a [u8]>, bytes_max: usize) -> Result<Reply, Failure> {
        let words = write(command);
        self.call(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>(), bytes_max).await
    }

    /// Sends a command and returns the values of its reply; `None` if the key does not exist.
    ///
    /// # Errors
    /// As [`Client::call`], and [`Failure::Size`] if there are more than `values_max`.
    pub fn values<'a>(
        &'a self,
        arguments: &'a [&'a [u8]],
        values_max: usize,
    ) -> BoxFuture<'a, Result<Option<Vec<f32>>, Failure>> {
        Box::pin(self.exchange(arguments, Expected { receive: VALUES, max: values_max }, self.outage_max))
    }

    /// Sends a command of the module and returns the values of its reply; `None` if the key does not exist.
    ///
    /// # Errors
    /// As [`Client::values`].
    pub(crate) async fn command_values<'a>(
        &self,
        command: impl Command<&'a [u8]>,
        values_max: usize,
    ) -> Result<Option<Vec<f32>>, Failure> {
        let words = write(command);
        self.values(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>(), values_max).await
    }

    /// Waits up to `wait` for the server to answer.
    pub(crate) async fn reach(&self, wait: Duration) -> Result<(), Failure> {
        self.exchange(&[b"PING"], Expected { receive: REPLY, max: 64 }, wait).await.map(drop)
    }

    /// Sends a command until it is answered, or `wait` has passed. If the connection breaks, the sender cannot know
    /// whether the command was carried out; all commands used here may be repeated.
    #[tracing::instrument(level = "debug", name = "command", skip_all, fields(name = %word(arguments.first())))]
    async fn exchange<T>(&self, arguments: &[&[u8]], expected: Expected<T>, wait: Duration) -> Result<T, Failure> {
        let mut tries = Tries::new(self, wait);
        loop {
            let failure = match self.once(arguments, &expected).await {
                Ok(answer) => {
                    tracing::debug!(address = %self.address, "answered");
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if failure.is_passing() {
                // The other connections lead to the same server, which may no longer be the one to ask.
                self.idle().clear();
            }
            tries.again(failure).await?;
        }
    }

    async fn once<T>(&self, arguments: &[&[u8]], expected: &Expected<T>) -> Result<T, Failure> {
        let _permit = self.permits.acquire().await;
        let idle = self.idle().pop_front();
        let mut channel = match idle {
            Some(channel) => channel,
            None => TensorConnection::open(&self.resolve().await?, &self.login, PATIENCE).await?,
        };
        channel.send(arguments).await?;
        let result = (expected.receive)(self, &mut channel, expected.max).await;
        // If the reply was read to its end, the connection can be reused.
        if matches!(result, Ok(_) | Err(Failure::Refused { .. })) {
            self.idle().push_front(channel);
        }
        result
    }

    /// Returns a buffer for reuse by values that are fetched later.
    pub fn give_back(&self, buffer: Vec<f32>) {
        let mut spare = self.spare();
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<TensorConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the current server. Sentinels and clusters may name any machine, so one that needs TLS is refused without
    /// it.
    async fn resolve(&self) -> Result<Endpoint, Failure> {
        let endpoint = self.find().await?;
        if self.address.is_tls || endpoint.is_local() {
            Ok(endpoint)
        } else {
            Err(Failure::Insecure(endpoint.to_string()))
        }
    }

    async fn find(&self) -> Result<Endpoint, Failure> {
        match &self.address.place {
            Place::Server(endpoint) => Ok(endpoint.clone()),
            Place::Sentinel { sentinels, service } => {
                let arguments: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service.as_bytes()];
                let login = Login { user: None, password: None, database: 0, ..self.login.clone() };
                let [host, port] = ask(sentinels, &login, &arguments).await?.elements()?;
                endpoint(&host, &port)
            }
            Place::Cluster { seeds } => {
                let slot = ask(seeds, &self.login, &[b"CLUSTER", b"KEYSLOT", self.key.as_bytes()]).await?.integer()?;
                for range in ask(seeds, &self.login, &[b"CLUSTER", b"SLOTS"]).await?.array()? {
                    let range = range.array()?;
                    let [first, last, master, ..] = &range[..] else { continue };
                    if !(first.integer()?..=last.integer()?).contains(&slot) {
                        continue;
                    }
                    let Reply::Array(master) = master else { continue };
                    let [host, port, ..] = &master[..] else { continue };
                    return endpoint(host, port);
                }
                Err(Failure::reply("CLUSTERDOWN no node serves the peer's keys"))
            }
        }
    }

    /// Sends a command over the connection that all commands share.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn control<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Failure> {
        let value = self.answer(command).await?;
        T::from_redis_value(value).map_err(|error| Failure::from(redis::RedisError::from(error)))
    }

    fn answer<'a>(&'a self, command: &'a redis::Cmd) -> BoxFuture<'a, Result<redis::Value, Failure>> {
        Box::pin(self.ask(command))
    }

    #[tracing::instrument(level = "debug", name = "command", skip_all, fields(name = %name_of(command)))]
    async fn ask(&self, command: &redis::Cmd) -> Result<redis::Value, Failure> {
        let mut tries = Tries::new(self, self.outage_max);
        loop {
            let result = match self.connection().await {
                Ok(mut connection) => command.query_async(&mut connection).await.map_err(Failure::from),
                Err(Failure::Lost(error)) => {
                    Err(self.ask_apart(&[b"PING"]).await.err().unwrap_or(Failure::Lost(error)))
                }
                Err(failure) => Err(failure),
            };
            let failure = match result {
                Ok(value) => {
                    tracing::debug!(address = %self.address, "answered");
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            if failure.is_passing() {
                self.shared_connection().take();
            }
            tries.again(failure).await?;
        }
    }

    /// Sends one command over a new connection, once. A failure shows why the server accepts no connection.
    async fn ask_apart(&self, arguments: &[&[u8]]) -> Result<Reply, Failure> {
        let endpoint = self.resolve().await?;
        TensorConnection::open(&endpoint, &self.login, PATIENCE).await?.call(arguments).await
    }

    /// Returns the connection that all commands share. If two callers open one at the same time, the later is kept.
    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        if let Some(connection) = &*self.shared_connection() {
            return Ok(connection.clone());
        }
        let endpoint = self.resolve().await?;
        let opened = timeout(CONNECT_WAIT, self.open_shared(&endpoint)).await;
        let connection = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        *self.shared_connection() = Some(connection.clone());
        Ok(connection)
    }

    async fn open_shared(&self, endpoint: &Endpoint) -> Result<MultiplexedConnection, Failure> {
        let stream = connect(endpoint, self.login.tls.as_ref()).await?;
        let mut settings = RedisConnectionInfo::default().set_db(self.login.database.into());
        if let Some(password) = &self.login.password {
            settings = settings.set_password(password);
            if let Some(user) = &self.login.user {
                settings = settings.set_username(user);
            }
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let (connection, driver) = MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        // It ends with the last copy of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }

    fn shared_connection(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses a server named by sentinels or a cluster.
fn endpoint(host: &Reply, port: &Reply) -> Result<Endpoint, Failure> {
    let port = u16::try_from(port.integer()?).map_err(|_| Failure::Garbled("a port is above 65535".into()))?;
    Ok(Endpoint::Tcp { host: host.text()?.to_owned(), port })
}

/// A command as the log shows it: its first word, never arguments that may be secret.
fn word<'a>(first: Option<&&'a [u8]>) -> std::borrow::Cow<'a, str> {
    first.map_or_else(Default::default, |word| String::from_utf8_lossy(word))
}

/// As [`word`], for a command of the crate `redis`.
fn name_of(command: &redis::Cmd) -> String {
    match command.args_iter().next() {
        Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}

/// Returns the first answer of several servers, asked one after the other.
async fn ask(endpoints: &[Endpoint], login: &Login, arguments: &[&[u8]]) -> Result<Reply, Failure> {
    let mut last = Failure::reply("CLUSTERDOWN no address");
    for endpoint in endpoints {
        let answer = match TensorConnection::open(endpoint, login, PATIENCE).await {
            Ok(mut channel) => channel.call(arguments).await,
            Err(failure) => Err(failure),
        };
        match answer {
            // The sentinel does not know the service.
            Ok(Reply::Nil) => last = Failure::reply("MASTERDOWN no sentinel knows the service"),
            Ok(reply) => return Ok(reply),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// The pause between tries of a command, and the times at which they end.
struct Tries<'a> {
    client: &'a Client,
    /// End of the wait for a server that does not answer.
    silent_until: Instant,
    /// End of the wait for a server that answers with a temporary error.
    refused_until: Instant,
    /// End of the wait for a server that is loading its data.
    loading_until: Instant,
    pause: Duration,
    /// When the wait was last logged.
    told: Option<Instant>,
}

impl Tries<'_> {
    fn new(client: &Client, wait: Duration) -> Tries<'_> {
        let now = Instant::now();
        Tries {
            client,
            silent_until: now + wait,
            refused_until: now + client.outage_max,
            loading_until: now + LOADING_MAX,
            pause: PAUSE_MIN,
            told: None,
        }
    }

    /// Waits before the next try, longer each time; returns the failure if another try is useless or too late.
    async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        let now = Instant::now();
        let Some(reason) = failure.passing() else { return Err(failure) };
        if failure.is_loading() {
            // The server is making progress: a failure after loading is another outage.
            self.refused_until = (now + self.client.outage_max).min(self.loading_until);
            self.silent_until = self.refused_until;
        }
        let until = if matches!(failure, Failure::Lost(_)) { self.silent_until } else { self.refused_until };
        if now + self.pause > until {
            return Err(failure);
        }
        if self.pause == PAUSE_MAX && self.told.is_none_or(|told| now > told + TELL_AGAIN) {
            self.told = Some(now);
            self.tell(&failure, reason, until.saturating_duration_since(now)).await;
        }
        // A server does not announce that it is back, so the only choice is to wait and try again.
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    async fn tell(&self, failure: &Failure, reason: &str, left: Duration) {
        let address = &self.client.address;
        if failure.is_loading()
            && let Ok(reply) = self.client.ask_apart(&[b"INFO", b"persistence"]).await
            && let Startup::Loading { percent, left } = loading::parse(&loading::text(&reply))
        {
            let seconds_left = left.map(|left| left.as_secs());
            tracing::warn!(%address, percent, seconds_left, "the database is loading its data");
            return;
        }
        tracing::warn!(%address, %failure, seconds_left = left.as_secs(), "waiting for the database: {reason}");
    }
}
