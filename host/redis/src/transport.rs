//! Transport to a server: addresses, connections, replies and failures.

pub(crate) mod address;
pub(crate) mod certificate;
mod client;
mod failure;
pub(crate) mod invitation;
pub(crate) mod loading;
pub(crate) mod options;
mod reply;
mod tensors;
pub(crate) mod tls;

pub use client::{Client, ClientError};
pub use failure::Failure;
pub use reply::Reply;
pub use tls::TlsError;
