//! What can go wrong with an engine, and what would help.

use std::path::PathBuf;

use crate::Kind;

/// An engine can not be opened, or can not run a graph.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no engine of that name.
    #[error("there is no engine `{0}`: choose `onnxruntime`, `openvino` or `rten`")]
    Unknown(String),
    /// The engine's library is not on this machine.
    #[error("the library of `{kind}` is not in {}: install it with `skein engine install {kind}`", places(searched))]
    Missing {
        /// The engine.
        kind: Kind,
        /// Folders that were searched.
        searched: Vec<PathBuf>,
    },
    /// The library is there, but it is not one that can be used.
    #[error("failed to load `{}` as the library of `{kind}`: {reason}; install it with `skein engine install {kind}`", path.display())]
    Library {
        /// The engine.
        kind: Kind,
        /// The library.
        path: PathBuf,
        /// What its loader said.
        reason: String,
    },
    /// The engine can not run there.
    #[error("`{kind}` can not run on {device}: {reason}")]
    Device {
        /// The engine.
        kind: Kind,
        /// The device asked for.
        device: &'static str,
        /// What the engine said, or what is missing.
        reason: String,
    },
    /// The engine does not accept the graph.
    #[error("`{kind}` can not compile the graph: {reason}")]
    Compile {
        /// The engine.
        kind: Kind,
        /// What the engine said.
        reason: String,
    },
    /// An input is missing, unknown, or of a type or shape that does not fit.
    #[error("input `{name}` of the graph: {reason}")]
    Input {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no output of that name, or it has a type that tensors do not have.
    #[error("output `{name}` of the graph: {reason}")]
    Output {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The engine failed while it ran.
    #[error("`{kind}` failed to run the graph: {reason}")]
    Run {
        /// The engine.
        kind: Kind,
        /// What the engine said.
        reason: String,
    },
}

fn places(searched: &[PathBuf]) -> String {
    let places: Vec<String> = searched.iter().map(|path| format!("`{}`", path.display())).collect();
    places.join(" or ")
}
