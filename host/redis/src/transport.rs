//! Transport to a server: addresses, connections, replies and failures.

pub(crate) mod address;
mod channel;
mod failure;
mod link;
pub(crate) mod loading;
pub(crate) mod options;
mod reply;
pub(crate) mod tls;

pub use failure::Failure;
pub use link::{Link, LinkError};
pub use options::PasswordError;
pub use reply::Reply;
pub use tls::TlsError;
