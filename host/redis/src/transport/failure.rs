//! Why a database did not carry out a command, and whether to try again.

use std::io;

/// Error replies that pass, and what is waited for.
const PASSING: [(&str, &str); 12] = [
    ("LOADING", "it loads its data"),
    ("BUSY", "it runs a long script"),
    ("MASTERDOWN", "it has no master"),
    ("READONLY", "it is no master"),
    ("TRYAGAIN", "it moves the keys to another node"),
    ("CLUSTERDOWN", "its cluster is down"),
    ("MOVED", "it has moved the keys to another node"),
    ("ASK", "it moves the keys to another node"),
    ("QUEUEFULL", "its module has too much to do"),
    ("CHANGED", "another command came first"),
    ("MISCONF", "it cannot save its data, and takes no more until it can: make room on its disk"),
    ("OOM", "it is out of memory: raise its `maxmemory`"),
];
/// What a server without a free connection says, with the code of any other error.
const NO_CONNECTION: &str = "max number of clients";
const NO_CONNECTION_REASON: &str = "it has no free connection: raise its `maxclients`, or end clients";

/// What went wrong with one command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server can not be reached, or the connection broke.
    #[error("{0}")]
    Lost(io::Error),
    /// The certificates of the two sides do not fit each other.
    #[error("{0}")]
    Certificate(String),
    /// This server would be told the password in clear: the one that sentinels or a cluster name.
    #[error("`{0}` is on another machine, and is reached without TLS")]
    Insecure(String),
    /// The server answered with an error.
    #[error("{code} {message}")]
    Refused {
        /// Its first word.
        code: String,
        /// The rest.
        message: String,
    },
    /// The answer is none to this command.
    #[error("an answer that makes no sense: {0}")]
    Garbled(String),
    /// Values that are more than they may be. They were not read.
    #[error("{actual} values where {expected} are expected")]
    Size {
        /// As many as there may be.
        expected: usize,
        /// As many as there are.
        actual: usize,
    },
}

impl Failure {
    /// An error reply: its first word says of which kind it is.
    pub(crate) fn reply(text: &str) -> Failure {
        let (code, message) = text.split_once(' ').unwrap_or((text, ""));
        Failure::Refused { code: code.to_owned(), message: message.to_owned() }
    }

    /// Why the same command may succeed later on another connection; none if it does not.
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

    /// Whether the server is at work on what it needs before it answers.
    pub(crate) fn is_loading(&self) -> bool {
        self.code() == Some("LOADING")
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
