//! Runs ONNX graphs on any engine that the machine has.
//!
//! [`Engine`] compiles a graph, [`Session`] runs it by the names of its inputs and outputs. rten is built in; ONNX
//! Runtime and OpenVINO are libraries found at run time ([`library`]). [`Pool`] keeps as many sessions of a graph as
//! there are concurrent calls. Callers need not know which engine it is.

mod error;
mod onnxruntime;
mod openvino;
mod pool;
mod rten;
mod signature;
mod stop;
mod tensor;
mod warm_up;

pub mod install;
pub mod library;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

pub use error::EngineError;
pub use pool::{Pool, sessions, sessions_peak};
pub use signature::Signature;
pub use stop::Stop;
pub use tensor::{Buffer, ElementType, RANK_MAX, ShapeError, Tensor};
pub use warm_up::warm_up;

/// Identifies an engine by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// rten: built in, pure Rust.
    Rten,
    /// Microsoft's ONNX Runtime, from a shared library.
    OnnxRuntime,
    /// Intel's OpenVINO, from a shared library.
    OpenVino,
}

impl Kind {
    /// All engines, in order of preference.
    pub const ALL: [Kind; 3] = [Kind::OnnxRuntime, Kind::OpenVino, Kind::Rten];

    /// Name in configuration and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rten => "rten",
            Kind::OnnxRuntime => "onnxruntime",
            Kind::OpenVino => "openvino",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Kind, EngineError> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| EngineError::Unknown(name.to_owned()))
    }
}

/// Where a graph runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU, on every engine.
    #[default]
    Cpu,
    /// The first GPU, by CUDA: ONNX Runtime only.
    Cuda,
}

/// How a graph is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads that one run uses, at least 1.
    pub threads: usize,
    /// Device that runs the graph.
    pub device: Device,
}

/// Compiles graphs into sessions.
pub trait Engine: Send + Sync {
    /// Kind of this engine.
    fn kind(&self) -> Kind;

    /// Compiles a graph, an ONNX file.
    ///
    /// # Errors
    /// [`EngineError`]: the engine cannot run the graph, or not on that device.
    fn compile(&self, graph: &[u8], options: Options) -> Result<Box<dyn Session>, EngineError>;
}

/// A compiled graph, for one run at a time.
pub trait Session: Send {
    /// Names of the graph's inputs and outputs.
    fn signature(&self) -> &Signature;

    /// Runs the graph on named inputs and returns the requested outputs, in that order. It ends early once `stop` is
    /// stopped: ONNX Runtime and OpenVINO look between two operators, rten between two parts of the graph. A session
    /// whose run was stopped must not run again.
    ///
    /// # Errors
    /// [`EngineError`]: an input or output is unknown or does not fit, the engine failed, or the run was stopped.
    fn run(&mut self, inputs: &[(&str, Tensor)], outputs: &[&str], stop: &Stop) -> Result<Vec<Tensor>, EngineError>;
}

/// Opens an engine; its library is at `path`, or found by [`library::find`]. A process loads a library once: later
/// calls share it.
///
/// # Errors
/// [`EngineError`]: its library is missing or cannot be used, or another one is already loaded.
pub fn open(kind: Kind, path: Option<PathBuf>) -> Result<Arc<dyn Engine>, EngineError> {
    static LOADED: Mutex<Vec<(PathBuf, Arc<dyn Engine>)>> = Mutex::new(Vec::new());
    if kind == Kind::Rten {
        return Ok(Arc::new(rten::Rten));
    }
    let library = match path {
        Some(path) => library::inside(kind, &path).ok_or(EngineError::Missing { kind, searched: vec![path] })?,
        None => library::find(kind)?,
    };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((path, engine)) = loaded.iter().find(|(_, engine)| engine.kind() == kind) {
        if *path != library {
            let reason = format!("`{}` is already loaded", path.display());
            return Err(EngineError::Library { kind, path: library, reason });
        }
        return Ok(engine.clone());
    }
    let engine: Arc<dyn Engine> = match kind {
        Kind::OnnxRuntime => Arc::new(onnxruntime::OnnxRuntime::load(&library)?),
        _ => Arc::new(openvino::OpenVino::load(&library)?),
    };
    loaded.push((library, engine.clone()));
    Ok(engine)
}
