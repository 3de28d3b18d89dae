//! A connection that carries tensors without copies: large arguments are written from their buffers, values are read
//! into theirs.
//!
//! It carries one command at a time, in RESP2. Every read is bounded in bytes and in time, since the server may belong
//! to a Byzantine peer.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::transport::address::Endpoint;
use crate::transport::{Failure, Reply};

/// Bytes read at once if the length of the answer is unknown.
const BUFFER_BYTES: usize = 16 << 10;
/// Longest line of a reply: the text of an error.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Most elements of an array and deepest nesting: no command used here returns more.
const ELEMENTS_MAX: usize = 1 << 16;
const DEPTH_MAX: u32 = 6;
/// The longest wait for a connection to open.
pub(crate) const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Arguments up to this size are copied into one buffer with the protocol around them.
const SMALL_BYTES: usize = 1 << 10;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection that sends large arguments without a copy, after it has logged in.
pub(crate) struct TensorConnection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    read: usize,
    /// How long the server may take for each read or write.
    patience: Duration,
}

/// The settings of a connection, besides the server.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
}

impl TensorConnection {
    /// Connects and logs in.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        login: &Login,
        patience: Duration,
    ) -> Result<TensorConnection, Failure> {
        let connected = timeout(CONNECT_WAIT, connect(endpoint, login.tls.as_ref())).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut channel = TensorConnection { stream, buffer: Vec::new(), read: 0, patience };
        if let Some(password) = &login.password {
            let user = login.user.as_deref().unwrap_or("default");
            channel.call(&[b"AUTH", user.as_bytes(), password.as_bytes()]).await?;
        }
        if login.database != 0 {
            channel.call(&[b"SELECT", login.database.to_string().as_bytes()]).await?;
        }
        Ok(channel)
    }

    /// Sends one command and reads a reply of moderate size.
    pub(crate) async fn call(&mut self, arguments: &[&[u8]]) -> Result<Reply, Failure> {
        self.send(arguments).await?;
        self.reply(1 << 20).await
    }

    /// Sends one command. Large arguments go to the socket without a copy.
    pub(crate) async fn send(&mut self, arguments: &[&[u8]]) -> Result<(), Failure> {
        let failure = match self.write(arguments).await {
            Ok(()) => return Ok(()),
            Err(Failure::Lost(error)) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::Lost(error)),
            Err(failure) => failure,
        };
        // A server that hangs up before it reads, because it has no free connection, sends its reason first.
        match self.reply(LINE_BYTES_MAX).await {
            Err(refused @ Failure::Refused { .. }) => Err(refused),
            _ => Err(failure),
        }
    }

    async fn write(&mut self, arguments: &[&[u8]]) -> Result<(), Failure> {
        // Small pieces are gathered in one buffer; `cuts` has the offset at which each large argument goes between
        // them.
        let mut small = format!("*{}\r\n", arguments.len()).into_bytes();
        let mut cuts = Vec::new();
        for argument in arguments {
            small.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            match argument.len() {
                0..=SMALL_BYTES => small.extend_from_slice(argument),
                _ => cuts.push((small.len(), *argument)),
            }
            small.extend_from_slice(b"\r\n");
        }
        let mut slices = Vec::with_capacity(2 * cuts.len() + 1);
        let mut start = 0;
        for (end, large) in cuts {
            slices.extend([IoSlice::new(&small[start..end]), IoSlice::new(large)]);
            start = end;
        }
        slices.push(IoSlice::new(&small[start..]));
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let written = timeout(self.patience, self.stream.write_vectored(slices)).await;
            match written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                bytes => IoSlice::advance_slices(&mut slices, bytes),
            }
        }
        timeout(self.patience, self.stream.flush()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(())
    }

    /// Reads a reply of at most `bytes_max` bytes.
    pub(crate) async fn reply(&mut self, bytes_max: usize) -> Result<Reply, Failure> {
        let mut left = bytes_max;
        self.element(&mut left, bytes_max, 0).await
    }

    async fn element(&mut self, left: &mut usize, bytes_max: usize, depth: u32) -> Result<Reply, Failure> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| Failure::Garbled("an empty line".into()))?;
        if kind == "-" && depth == 0 {
            // The text of an error may be longer than the answer may be.
            return Err(Failure::reply(rest));
        }
        // Every element costs something, or a short reply could describe a large structure.
        take(left, line.len() + 8, bytes_max)?;
        match kind {
            "+" => Ok(Reply::Simple(rest.to_owned())),
            "-" => Err(Failure::reply(rest)),
            ":" => Ok(Reply::Integer(rest.parse().map_err(|_| garbled_line(&line))?)),
            "$" => {
                let Some(bytes) = length(rest, &line)? else { return Ok(Reply::Nil) };
                take(left, bytes, bytes_max)?;
                let mut bulk = vec![0; bytes];
                self.fill(&mut bulk).await?;
                self.end_of_bulk().await?;
                Ok(Reply::Bulk(bulk))
            }
            "*" => {
                let Some(count) = length(rest, &line)? else { return Ok(Reply::Nil) };
                if count > ELEMENTS_MAX || depth == DEPTH_MAX {
                    return Err(garbled_line(&line));
                }
                let mut elements = Vec::with_capacity(count.min(256));
                let mut refused = None;
                for _ in 0..count {
                    // An error inside an array is an element: those after it have to be read too.
                    match Box::pin(self.element(left, bytes_max, depth + 1)).await {
                        Ok(element) => elements.push(element),
                        Err(error @ Failure::Refused { .. }) => refused = refused.or(Some(error)),
                        Err(error) => return Err(error),
                    }
                }
                refused.map_or(Ok(Reply::Array(elements)), Err)
            }
            _ => Err(garbled_line(&line)),
        }
    }

    /// Reads a reply of at most `values_max` values straight into their buffer; `None` for nil. `spare` is a buffer to
    /// reuse: a new one costs a page fault for every page.
    pub(crate) async fn values(&mut self, values_max: usize, spare: Vec<f32>) -> Result<Option<Vec<f32>>, Failure> {
        let line = self.line().await?;
        let bytes = match line.split_at_checked(1) {
            Some(("$", rest)) => length(rest, &line)?,
            Some(("-", rest)) => return Err(Failure::reply(rest)),
            _ => return Err(garbled_line(&line)),
        };
        let Some(bytes) = bytes else { return Ok(None) };
        if bytes > 4 * values_max || !bytes.is_multiple_of(4) {
            return Err(Failure::Size { expected: values_max, actual: bytes.div_ceil(4) });
        }
        let mut values = if spare.capacity() >= bytes / 4 { spare } else { Vec::new() };
        values.resize(bytes / 4, 0.0);
        self.fill(bytemuck::cast_slice_mut(&mut values)).await?;
        self.end_of_bulk().await?;
        Ok(Some(values))
    }

    /// Fills `target` from the bytes read ahead, then from the socket.
    async fn fill(&mut self, target: &mut [u8]) -> Result<(), Failure> {
        let ahead = target.len().min(self.buffer.len() - self.read);
        target[..ahead].copy_from_slice(&self.buffer[self.read..][..ahead]);
        self.read += ahead;
        let mut filled = ahead;
        while filled < target.len() {
            match timeout(self.patience, self.stream.read(&mut target[filled..])).await {
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                Ok(read) => match read? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    bytes => filled += bytes,
                },
            }
        }
        Ok(())
    }

    async fn end_of_bulk(&mut self) -> Result<(), Failure> {
        let mut end = [0; 2];
        self.fill(&mut end).await?;
        if end == *b"\r\n" { Ok(()) } else { Err(Failure::Garbled("unterminated bytes".into())) }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            let ahead = &self.buffer[self.read..];
            if let Some(end) = ahead.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&ahead[..end]).into_owned();
                self.read += end + 2;
                return Ok(line);
            }
            if ahead.len() > LINE_BYTES_MAX {
                return Err(Failure::Garbled("an unterminated line".into()));
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            let kept = self.buffer.len();
            self.buffer.resize(kept + BUFFER_BYTES, 0);
            let read = timeout(self.patience, self.stream.read(&mut self.buffer[kept..])).await;
            let bytes = match read {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            };
            self.buffer.truncate(kept + bytes);
            if bytes == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// Connects, and verifies the server if there is TLS; sends nothing else.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Box<dyn Stream>, Failure> {
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
    };
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| Failure::Certificate(rustls::Error::General(format!("`{host}`: {error}"))))?;
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    Ok(Box::new(connector.connect(name, stream).await?))
}

/// Subtracts `bytes` from those that are left of a reply's `bytes_max`.
fn take(left: &mut usize, bytes: usize, bytes_max: usize) -> Result<(), Failure> {
    *left = left.checked_sub(bytes).ok_or_else(|| Failure::Garbled(format!("more than {bytes_max} bytes")))?;
    Ok(())
}

/// Parses a length; `None` for nil.
fn length(text: &str, line: &str) -> Result<Option<usize>, Failure> {
    match text {
        "-1" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| garbled_line(line)),
    }
}

fn garbled_line(line: &str) -> Failure {
    Failure::Garbled(format!("the line `{}`", line.chars().take(80).collect::<String>()))
}
