//! Failures of commands, and whether to try again.

use std::io;

/// Codes of temporary errors, and their reasons.
const PASSING: [(&str, &str); 12] = [
    ("LOADING", "it is loading its data"),
    ("BUSY", "it is running a long script"),
    ("MASTERDOWN", "it has no master"),
    ("READONLY", "it is not a master"),
    ("TRYAGAIN", "it is moving the keys to another node"),
    ("CLUSTERDOWN", "its cluster is down"),
    ("MOVED", "it has moved the keys to another node"),
    ("ASK", "it is moving the keys to another node"),
    ("QUEUEFULL", "its module has too many commands waiting"),
    ("CHANGED", "another command came first"),
    ("MISCONF", "it cannot save its data and refuses writes until it can: make room on its disk"),
    ("OOM", "it is out of memory: raise its `maxmemory`"),
];
/// Part of the message of a server without a free connection; its code is not specific.
const NO_CONNECTION: &str = "max number of clients";
const NO_CONNECTION_REASON: &str = "it has no free connection: raise its `maxclients`, or stop clients";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server cannot be reached, or the connection broke.
    #[error("{0}")]
    Lost(io::Error),
    /// The two sides do not accept each other's certificates.
    #[error("{0}")]
    Certificate(rustls::Error),
    /// The sentinels or the cluster name a server that would receive the password in clear text.
    #[error("`{0}` is on another machine and would be reached without TLS")]
    Insecure(String),
    /// The server answered with an error.
    #[error("{code} {message}")]
    Refused {
        /// The first word of the error, such as `OOM`.
        code: String,
        /// The rest of the error.
        message: String,
    },
    /// The answer is malformed, or does not fit the command.
    #[error("malformed answer: {0}")]
    Garbled(String),
    /// Too many values, or bytes that are not whole values. They were not read.
    #[error("expected {expected} values, got {actual}")]
    Size {
        /// The most values that are accepted.
        expected: usize,
        /// Values of the answer, rounded up.
        actual: usize,
    },
}

impl Failure {
    /// Parses an error reply, whose first word is its code.
    pub(crate) fn reply(text: &str) -> Failure {
        let (code, message) = text.split_once(' ').unwrap_or((text, ""));
        Failure::Refused { code: code.to_owned(), message: message.to_owned() }
    }

    /// Returns the reason of a temporary failure; `None` if another try of the command cannot succeed.
    pub(crate) fn passing(&self) -> Option<&'static str> {
        match self {
            Failure::Lost(_) => Some("it is out of reach"),
            Failure::Refused { message, .. } if message.contains(NO_CONNECTION) => Some(NO_CONNECTION_REASON),
            Failure::Refused { code, .. } => {
                PASSING.iter().find(|(passing, _)| passing == code).map(|(_, reason)| *reason)
            }
            _ => None,
        }
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.passing().is_some()
    }

    /// Whether the server is still loading its data.
    pub(crate) fn is_loading(&self) -> bool {
        self.code() == Some("LOADING")
    }

    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Failure::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the server does not know the command, for example because it lacks the module.
    pub(crate) fn is_unknown_command(&self) -> bool {
        matches!(self, Failure::Refused { message, .. } if message.starts_with("unknown command"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        // Another try does not change the certificates.
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(refused) => Failure::Certificate(refused.clone()),
            None => Failure::Lost(error),
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
