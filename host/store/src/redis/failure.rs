//! Why a database did not carry out a command, and whether to try again.

use std::io;

/// Error replies that pass: the server starts, runs somebody's long script, has no master at the moment, has handed the
/// keys over, or its module has too much to do or was overtaken by another command.
const PASSING: [&str; 9] =
    ["LOADING", "BUSY", "MASTERDOWN", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "QUEUEFULL", "CHANGED"];

/// What went wrong with one command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server can not be reached, or the connection broke.
    #[error("{0}")]
    Lost(io::Error),
    /// The certificates of the two sides do not fit each other.
    #[error("{0}")]
    Certificate(String),
    /// The server answered with an error.
    #[error("{code} {message}")]
    Refused { code: String, message: String },
    /// The answer is none to this command.
    #[error("an answer that makes no sense: {0}")]
    Garbled(String),
    /// Values that are more than they may be. They were not read.
    #[error("{actual} values where {expected} are expected")]
    Size { expected: usize, actual: usize },
}

impl Failure {
    /// An error reply: its first word says of which kind it is.
    pub(crate) fn reply(text: &str) -> Failure {
        let (code, message) = text.split_once(' ').unwrap_or((text, ""));
        Failure::Refused { code: code.to_owned(), message: message.to_owned() }
    }

    /// Whether the same command may succeed later on another connection.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Failure::Lost(_) => true,
            Failure::Refused { code, .. } => PASSING.contains(&code.as_str()),
            _ => false,
        }
    }

    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Failure::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the server does not know the command, as one without the module does not.
    pub(crate) fn is_unknown_command(&self) -> bool {
        matches!(self, Failure::Refused { message, .. } if message.starts_with("unknown command"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        // What a certificate lacks does not come with another try.
        match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => Failure::Certificate(error.to_string()),
            _ => Failure::Lost(error),
        }
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Failure {
        match error.code() {
            Some(code) => Failure::Refused { code: code.to_owned(), message: error.detail().unwrap_or("").to_owned() },
            None if error.is_unrecoverable_error() || error.is_io_error() || error.is_timeout() => {
                Failure::Lost(io::Error::other(error))
            }
            None => Failure::Garbled(error.to_string()),
        }
    }
}
