//! What the suite and the process that it drives send each other: one line of JSON for each request and its reply.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Argument that makes this program the one that calls functions.
pub(crate) const DRIVEN: &str = "driven";
/// Argument that makes this program compile one component.
pub(crate) const COMPILING: &str = "compiling";
/// The small convolutional network with very many classes, so that its gradient has megabytes in few tensors.
pub(crate) const WIDE: &str = "wide";
/// Argument that makes this program tell its environment instead of compiling.
pub(crate) const TELLING: &str = "telling";

/// The first line: how the process is set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The control group to join; without one, the process limits its own data.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) memory_bytes: u64,
    pub(crate) cache: PathBuf,
    /// Whether the compiling child tells its environment instead.
    pub(crate) telling: bool,
    pub(crate) compile_ms: u64,
    pub(crate) compile_memory_mib: u32,
}

/// The limits of a call.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Bounds {
    pub(crate) memory_mib: u32,
    pub(crate) cpu_ms: u64,
    pub(crate) wall_ms: u64,
    pub(crate) hostcall_mib: u32,
    pub(crate) handles: u32,
}

/// A call of a function, which is loaded for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Name of the function.
    pub(crate) name: String,
    pub(crate) component: PathBuf,
    /// Whether it is an aggregation function.
    pub(crate) aggregates: bool,
    /// The setting that the probe follows.
    pub(crate) behaviour: String,
    /// Samples of the batch, or the number of faults for an aggregation function.
    pub(crate) number: u32,
    pub(crate) bounds: Bounds,
    /// The model whose graph it may use.
    pub(crate) network: Option<Network>,
    /// The engine of graphs that it may bring along.
    pub(crate) loader: Option<String>,
    /// Loads and calls at the same time.
    pub(crate) at_once: usize,
    /// Whether each of them loads a component of its own, by a custom section at its end.
    pub(crate) distinct: bool,
}

/// A model on an engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) engine: String,
    /// A file of `tests/data/models`, [`WIDE`], or nothing for the small convolutional network.
    pub(crate) model: String,
}

/// What came of one load and call.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// `returned`, or the variant of the error.
    pub(crate) kind: String,
    /// The limit that was hit.
    pub(crate) limit: Option<String>,
    /// The error's message with its causes.
    pub(crate) message: String,
    /// Whether the component came out of the cache.
    pub(crate) cached: bool,
}

/// The reply to a request, and what the process takes after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) resident_bytes: u64,
    /// Processor time of the process since its start, without that of its children.
    pub(crate) cpu_ms: u64,
    pub(crate) threads: u64,
    /// Most sessions of engines that the process ever had at the same time.
    pub(crate) sessions_peak: usize,
}
