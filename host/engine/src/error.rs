//! Errors of engines, and how to fix them.

use std::path::PathBuf;

use crate::Kind;

/// An engine cannot be opened, or cannot run a graph.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine has that name.
    #[error("there is no engine `{0}`: choose `onnxruntime`, `openvino` or `rten`")]
    Unknown(String),
    /// The engine's library was not found on this machine.
    #[error("the library of `{kind}` is not in {}: install it with `skein engine install {kind}`", places(searched))]
    Missing {
        /// Engine whose library is missing.
        kind: Kind,
        /// Paths that were searched.
        searched: Vec<PathBuf>,
    },
    /// The library exists but cannot be used.
    #[error("failed to load `{}` as the library of `{kind}`: {reason}; install it with `skein engine install {kind}`", path.display())]
    Library {
        /// Engine that needs the library.
        kind: Kind,
        /// Path of the library's file.
        path: PathBuf,
        /// Message of the loader or the engine.
        reason: String,
    },
    /// The engine cannot run on the device.
    #[error("`{kind}` cannot run on {device}: {reason}")]
    Device {
        /// Engine that was to run there.
        kind: Kind,
        /// Name of the requested device.
        device: &'static str,
        /// Message of the engine, or the missing feature.
        reason: String,
    },
    /// The engine does not accept the graph.
    #[error("`{kind}` cannot compile the graph: {reason}")]
    Compile {
        /// Engine that returned the error.
        kind: Kind,
        /// Message of the engine.
        reason: String,
    },
    /// An input is missing, unknown, or of a type or shape that does not fit.
    #[error("input `{name}` of the graph: {reason}")]
    Input {
        /// Name in the graph or the call.
        name: String,
        /// The problem, in words.
        reason: String,
    },
    /// The graph has no output of that name, or its type is not supported.
    #[error("output `{name}` of the graph: {reason}")]
    Output {
        /// Name in the graph or the call.
        name: String,
        /// The problem, in words.
        reason: String,
    },
    /// The run was stopped by [`Stop`](crate::Stop).
    #[error("the run of the graph was stopped")]
    Stopped,
    /// The engine failed during a run.
    #[error("`{kind}` failed to run the graph: {reason}")]
    Run {
        /// Engine that returned the error.
        kind: Kind,
        /// Message of the engine.
        reason: String,
    },
}

fn places(searched: &[PathBuf]) -> String {
    let places: Vec<String> = searched.iter().map(|path| format!("`{}`", path.display())).collect();
    places.join(" or ")
}
