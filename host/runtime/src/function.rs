//! The description of a function to load.

use std::collections::BTreeMap;

use crate::graphs::Graphs;
use crate::options::Limits;

/// A function to load: its name in the job and what it may use.
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// Name in the job; errors and metrics carry it.
    pub name: String,
    /// Limits of each call.
    pub limits: Limits,
    /// Memory in MiB that an engine takes for one call of the guest, as far as it is known.
    pub engine_mib: u32,
    /// Settings that the guest reads through `skein:train/settings`.
    pub settings: BTreeMap<String, String>,
    /// Graphs that the guest may use through `wasi:nn`.
    pub graphs: Graphs,
}
