//! Turns a forward ONNX model into the graph that trains it.
//!
//! ONNX engines run graphs and have no notion of training, so the gradient is a graph as well. [`Model::parse`] reads a
//! forward file. [`Model::training_graph`] derives a graph by reverse-mode differentiation: it computes the loss, every
//! parameter's gradient and the new running statistics with standard `ai.onnx` operators only, so any engine can run
//! it. This crate does no I/O and depends on no engine.
//!
//! ```
//! # fn derive(file: Vec<u8>) -> Result<(), skein_graph::GraphError> {
//! use skein_graph::{Lowering, Model, Options};
//!
//! let model = Model::parse(file.into(), &|data| Err(format!("{} is elsewhere", data.location)))?;
//! let graph = model.training_graph(&Options { lowering: Lowering::onnxruntime(), ..Options::default() })?;
//! println!("{} gradients, {} nodes", graph.trained.len(), graph.nodes);
//! # Ok(())
//! # }
//! ```
//!
//! Modules: `proto` and [`Model`] read files; `opset` brings every node into one form; `graph` and `builder` build and
//! simplify (`infer`, `fold`, `simplify`); `tape` and `rules` differentiate; `export` writes; [`parts`] cuts what was written.

mod attributes;
mod builder;
mod constant;
mod dim;
mod error;
mod export;
mod fold;
mod graph;
mod infer;
mod loss;
mod lowering;
mod memory;
mod model;
pub mod networks;
mod operators;
mod ops;
mod opset;
pub mod parts;
mod proto;
mod rules;
mod simplify;
mod tape;
mod training;

pub use constant::{Constant, ElementType};
pub use dim::{Dim, Shape};
pub use error::GraphError;
pub use loss::{LOSSES, Loss, UnknownLoss};
pub use lowering::{InputGradient, Layout, Lowering, PoolGradient, WeightGradient};
pub use model::{ExternalData, Model, ReadExternal, Removed, Tensor, TensorKind, trained_file};
pub use operators::NAMES as OPERATORS;
pub use training::{EvaluationGraph, Options, TrainingGraph, is_frozen};
