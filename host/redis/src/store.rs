//! The store of a peer in a database: one that computes itself, and one that only keeps.

pub(crate) mod in_database;
pub(crate) mod plain;
pub(crate) mod reader;
pub(crate) mod shared;
