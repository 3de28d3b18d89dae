//! Why a command is refused, as the client reads it: a code, then numbers or a sentence.

use skein_kernels::Error;

/// An error reply. Its first word is the code by which clients distinguish errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("ERR skein: {0}")]
    Syntax(String),
    #[error("ERR skein: internal error, see the server's log")]
    Internal,
    #[error("NOPERM no permission to access one of the keys")]
    Forbidden,
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("NOSTATE the key holds no parameters")]
    NoState,
    #[error("LENGTH {expected} {actual}")]
    Length { expected: usize, actual: usize },
    #[error("RANGE {length}")]
    Range { length: usize },
    #[error("LEAF {index} {count}")]
    Batch { index: u32, count: u32 },
    #[error("INCOMPLETE {round}")]
    Incomplete { round: u64 },
    #[error("ORDER {version}")]
    Order { version: u64 },
    #[error("SLOTS {needed} {given}")]
    Slots { needed: usize, given: usize },
    #[error("MISSING {index}")]
    Missing { index: usize },
    #[error("FEW {needed} {present}")]
    Few { needed: usize, present: usize },
    #[error("NONFINITE {row}")]
    NonFinite { row: usize },
    #[error("WEIGHTS the weights must match the rows and sum to a positive number")]
    Weights,
    #[error("CHANGED {what}")]
    Changed { what: &'static str },
    #[error("QUEUEFULL {length} commands are waiting")]
    QueueFull { length: usize },
    #[error("OOM no memory for the result")]
    Memory,
    #[error("READONLY the server has become a replica")]
    ReadOnly,
    #[error("DAMAGED the payload is not a sum saved by this version of the module")]
    Damaged,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::TooFew { needed, present } => Failure::Few { needed, present },
            Error::Length { expected, actual, .. } => Failure::Length { expected, actual },
            Error::NonFinite { row } => Failure::NonFinite { row },
            Error::Weights => Failure::Weights,
        }
    }
}
