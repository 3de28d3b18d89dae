//! The store of a peer in a database: one for databases with Skein's module, one for those without.

pub(crate) mod in_database;
pub(crate) mod plain;
pub(crate) mod reader;
pub(crate) mod shared;
