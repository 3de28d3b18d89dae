//! The module in real servers: the one that all tests run on, and Valkey.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

mod acl;
mod bits;
mod client;
mod faults;
mod fuzz;
mod persistence;
#[path = "../../../redis/tests/redis/ready.rs"]
mod ready;
mod replication;
mod server;
mod sums;
mod syntax;
mod workers;
