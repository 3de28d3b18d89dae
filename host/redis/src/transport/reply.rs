//! Replies of the protocol RESP2. They may come from another peer's server, so conversions check them.

use crate::transport::Failure;

/// A reply that is not an error; errors are [`Failure::Refused`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No value, as for a key that does not exist.
    Nil,
    /// A line of text, such as `OK`.
    Simple(String),
    /// A signed 64-bit integer, such as a count.
    Integer(i64),
    /// Bytes of any content.
    Bulk(Vec<u8>),
    /// Several replies, which may be arrays again.
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) fn integer(&self) -> Result<u64, Failure> {
        match self {
            Reply::Integer(number) => u64::try_from(*number).map_err(|_| self.garbled("a non-negative number")),
            // Some commands return numbers inside arrays as text.
            Reply::Bulk(_) | Reply::Simple(_) => self.parse(),
            _ => Err(self.garbled("a number")),
        }
    }

    pub(crate) fn parse<T: std::str::FromStr>(&self) -> Result<T, Failure> {
        self.text()?.parse().map_err(|_| self.garbled("a number"))
    }

    pub(crate) fn text(&self) -> Result<&str, Failure> {
        match self {
            Reply::Simple(text) => Ok(text),
            Reply::Bulk(bytes) => std::str::from_utf8(bytes).map_err(|_| self.garbled("text")),
            _ => Err(self.garbled("text")),
        }
    }

    /// Returns the bytes of a bulk reply.
    ///
    /// # Errors
    /// The reply is of another kind.
    pub fn bytes(self) -> Result<Vec<u8>, Failure> {
        match self {
            Reply::Bulk(bytes) => Ok(bytes),
            other => Err(other.garbled("bytes")),
        }
    }

    /// Returns the elements of an array; nil counts as an empty one.
    pub(crate) fn array(self) -> Result<Vec<Reply>, Failure> {
        match self {
            Reply::Array(elements) => Ok(elements),
            Reply::Nil => Ok(Vec::new()),
            other => Err(other.garbled("an array")),
        }
    }

    /// Returns the elements of an array of exactly `N`.
    pub(crate) fn elements<const N: usize>(self) -> Result<[Reply; N], Failure> {
        let elements = self.array()?;
        let actual = elements.len();
        elements.try_into().map_err(|_| Failure::Garbled(format!("expected {N} elements, got {actual}")))
    }

    fn garbled(&self, expected: &str) -> Failure {
        let kind = match self {
            Reply::Nil => "nothing",
            Reply::Simple(_) => "a line",
            Reply::Integer(_) => "a number",
            Reply::Bulk(_) => "bytes",
            Reply::Array(_) => "an array",
        };
        Failure::Garbled(format!("expected {expected}, got {kind}"))
    }
}
