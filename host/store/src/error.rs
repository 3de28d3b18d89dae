//! Why a store did not do as told.

use skein_types::PeerId;

/// Why a store did not do as told. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No state was set yet.
    #[error("the store holds no state")]
    NoState,
    /// Values that are not as long as the parameters.
    #[error("{actual} values where the model has {expected}")]
    Length {
        /// Values of the model.
        expected: usize,
        /// Values that were given.
        actual: usize,
    },
    /// A batch that does not fit the others of its round.
    #[error("batch {index} of {leaves} does not fit round {round}")]
    Leaf {
        /// The round.
        round: u64,
        /// Index of the batch.
        index: u32,
        /// Batches it says the round has.
        leaves: u32,
    },
    /// Batches of the round are still missing.
    #[error("round {round} still waits for batches")]
    Incomplete {
        /// The round.
        round: u64,
    },
    /// A contribution that is to be aggregated is not there.
    #[error("the store lost the contribution of peer {peer} to round {round}")]
    Missing {
        /// The round.
        round: u64,
        /// Whose contribution.
        peer: PeerId,
    },
    /// The rule refuses the contributions.
    #[error("the contributions to round {round} can not be aggregated")]
    Rule {
        /// The round.
        round: u64,
        /// Why.
        source: skein_kernels::Error,
    },
    /// A round that does not follow the state.
    #[error("round {round} can not be applied to the state of round {state}")]
    OutOfOrder {
        /// Round to apply.
        round: u64,
        /// Round of the state.
        state: u64,
    },
    /// The database can not be reached. Nothing is known to be lost: another try may help.
    #[error("the database `{address}` is out of reach")]
    Unreachable {
        /// Its address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The two sides do not accept each other's certificates.
    #[error("the database `{address}` and this host do not accept each other's certificates: {reason}")]
    Certificate {
        /// Its address.
        address: String,
        /// Why.
        reason: String,
    },
    /// A server on another machine that would be reached without TLS: everybody in between reads the password.
    #[error(
        "the database `{address}` leads to `{server}` on another machine without TLS: use an address with `rediss` and a \
         table `tls`"
    )]
    Insecure {
        /// The address in the options.
        address: String,
        /// The server that it leads to.
        server: String,
    },
    /// The user may not do this, or is not let in at all.
    #[error("the database `{address}` denies access: {reason}")]
    Denied {
        /// Its address.
        address: String,
        /// In the server's words, with the command or the key.
        reason: String,
    },
    /// The database has no memory left.
    #[error("the database `{address}` is out of memory: raise its `maxmemory`")]
    OutOfMemory {
        /// Its address.
        address: String,
    },
    /// A key holds something else than this program puts there.
    #[error(
        "the key `{key}` of the database `{address}` holds something else than Skein puts there: delete it, or use another database"
    )]
    WrongType {
        /// Its address.
        address: String,
        /// The key.
        key: String,
    },
    /// A value is not the one that was stored.
    #[error("the value of `{key}` in the database `{address}` is not the one that was stored")]
    Corrupt {
        /// Its address.
        address: String,
        /// The key.
        key: String,
    },
    /// Options that can not be followed: a file that is not there, or what does not belong together.
    #[error("the database `{address}` can not be reached as the options say")]
    Options {
        /// Its address.
        address: String,
        /// What is wrong with them.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database is there, and did not get ready in time.
    #[error("the database `{address}` does not serve: {reason}")]
    Unready {
        /// Its address.
        address: String,
        /// Why, and what would help.
        reason: &'static str,
    },
    /// The database is not what the options ask for.
    #[error("the database `{address}` can not be used: {reason}")]
    Unfit {
        /// Its address.
        address: String,
        /// Why, and what would help.
        reason: String,
    },
    /// The database answered with something that no answer should be.
    #[error("the database `{address}` gave an unexpected answer: {reason}")]
    Answer {
        /// Its address.
        address: String,
        /// The answer.
        reason: String,
    },
}
