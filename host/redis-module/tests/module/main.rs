//! The module in real servers: Redis, and Valkey if `SKEIN_VALKEY_SERVER` names one.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

mod acl;
mod bits;
mod client;
mod faults;
mod fuzz;
mod persistence;
mod replication;
mod server;
mod sums;
mod syntax;
mod workers;
