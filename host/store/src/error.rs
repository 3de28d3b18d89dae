//! Why stores refuse or fail, with what a caller needs to act on it.

use skein_types::PeerId;

/// Why a store refused or failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No state was set yet.
    #[error("the store holds no state")]
    NoState,
    /// There are not as many values as parameters.
    #[error("the model has {expected} values, got {actual}")]
    Length {
        /// Values of the model.
        expected: usize,
        /// Values passed to the store.
        actual: usize,
    },
    /// The batch does not fit the others of its round.
    #[error("batch {index} of {count} does not fit round {round}")]
    Batch {
        /// Round that the batch was for.
        round: u64,
        /// Index of the batch.
        index: u32,
        /// Batches of the round, as passed with this batch.
        count: u32,
    },
    /// The server of the store was started again: it may have lost what was written since its last save.
    #[error("the server of the store was started again")]
    Restarted,
    /// Batches of the round are still missing.
    #[error("round {round} still waits for batches")]
    Incomplete {
        /// Round whose batches are incomplete.
        round: u64,
    },
    /// A contribution to aggregate is missing.
    #[error("the store lost the contribution of peer {peer} to round {round}")]
    Missing {
        /// Round of the missing contribution.
        round: u64,
        /// Peer whose contribution is missing.
        peer: PeerId,
    },
    /// The rule refuses the contributions.
    #[error("the contributions to round {round} cannot be aggregated")]
    Rule {
        /// Round whose contributions were refused.
        round: u64,
        /// The error of the rule.
        source: skein_kernels::Error,
    },
    /// The round does not follow the state.
    #[error("round {round} cannot be applied to the state of round {state}")]
    OutOfOrder {
        /// Round that was to be applied.
        round: u64,
        /// Round of the state.
        state: u64,
    },
    /// The database cannot be reached. Nothing is known to be lost: another try may help.
    #[error("the database `{address}` is out of reach")]
    Unreachable {
        /// The address in the options.
        address: String,
        /// The failure of the last try.
        source: std::io::Error,
    },
    /// The two sides do not accept each other's certificates.
    #[error("the database `{address}` and this host do not accept each other's certificates: {reason}")]
    Certificate {
        /// The address in the options.
        address: String,
        /// What is wrong with which certificate, and what helps.
        reason: String,
    },
    /// The server is on another machine and would be reached without TLS: anyone in between could read the password.
    #[error(
        "the database `{address}` leads to `{server}` on another machine without TLS: use a `rediss` address and a \
         `tls` table"
    )]
    Insecure {
        /// The address in the options.
        address: String,
        /// The server that it leads to.
        server: String,
    },
    /// The user may not do this, or cannot log in.
    #[error("the database `{address}` denies access: {reason}")]
    Denied {
        /// The address in the options.
        address: String,
        /// The server's message, with the command or the key.
        reason: String,
    },
    /// The database has no memory left.
    #[error("the database `{address}` is out of memory: raise its `maxmemory`")]
    OutOfMemory {
        /// The address in the options.
        address: String,
    },
    /// A key holds a value of another type than Skein stores there.
    #[error("the key `{key}` of the database `{address}` holds unexpected data: delete it, or use another database")]
    WrongType {
        /// The address in the options.
        address: String,
        /// Key that holds the unexpected data.
        key: String,
    },
    /// A key does not hold the value that was stored.
    #[error("the key `{key}` of the database `{address}` does not hold the value that was stored")]
    Corrupt {
        /// The address in the options.
        address: String,
        /// Key whose value is missing, or differs from its recorded hash or length.
        key: String,
    },
    /// The options cannot be used: a file is missing, or they contradict each other.
    #[error("the options of the database `{address}` cannot be used")]
    Options {
        /// The address in the options.
        address: String,
        /// What is wrong with the options.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database answers, but did not become ready in time.
    #[error("the database `{address}` is not ready: {reason}")]
    Unready {
        /// The address in the options.
        address: String,
        /// Why, and what would help.
        reason: &'static str,
    },
    /// The database does not meet the options.
    #[error("the database `{address}` cannot be used: {reason}")]
    Unfit {
        /// The address in the options.
        address: String,
        /// Why, and what would help.
        reason: String,
    },
    /// The server has a known vulnerability, which the options do not allow.
    #[error("the database `{address}` cannot be used: {reason}, or set `allow_vulnerable = true`")]
    Vulnerable {
        /// The address in the options.
        address: String,
        /// The vulnerability, and the version without it.
        reason: String,
    },
    /// The database returned an unexpected answer.
    #[error("the database `{address}` returned an unexpected answer: {reason}")]
    Answer {
        /// The address in the options.
        address: String,
        /// The answer, or why it cannot be used.
        reason: String,
    },
}
