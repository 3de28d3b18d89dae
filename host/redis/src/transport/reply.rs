//! Replies of the protocol RESP2, read within bounds: the server may belong to somebody else.

use crate::transport::Failure;

/// A reply without an error: those are [`Failure::Refused`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No value.
    Nil,
    /// A line of text.
    Simple(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Several replies.
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) fn integer(&self) -> Result<u64, Failure> {
        match self {
            Reply::Integer(number) => u64::try_from(*number).map_err(|_| self.garbled("a number that is not negative")),
            // Numbers inside of arrays of some commands come as text.
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

    /// The bytes of a reply that is bytes.
    ///
    /// # Errors
    /// It is something else.
    pub fn bytes(self) -> Result<Vec<u8>, Failure> {
        match self {
            Reply::Bulk(bytes) => Ok(bytes),
            other => Err(other.garbled("bytes")),
        }
    }

    /// The elements of an array; nil is one without any.
    pub(crate) fn array(self) -> Result<Vec<Reply>, Failure> {
        match self {
            Reply::Array(elements) => Ok(elements),
            Reply::Nil => Ok(Vec::new()),
            other => Err(other.garbled("an array")),
        }
    }

    /// An array of exactly `N` elements.
    pub(crate) fn elements<const N: usize>(self) -> Result<[Reply; N], Failure> {
        let elements = self.array()?;
        let actual = elements.len();
        elements.try_into().map_err(|_| Failure::Garbled(format!("{actual} elements where {N} are expected")))
    }

    fn garbled(&self, expected: &str) -> Failure {
        let kind = match self {
            Reply::Nil => "nothing",
            Reply::Simple(_) => "a line",
            Reply::Integer(_) => "a number",
            Reply::Bulk(_) => "bytes",
            Reply::Array(_) => "an array",
        };
        Failure::Garbled(format!("{kind} where {expected} is expected"))
    }
}
