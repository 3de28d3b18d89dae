//! Turns a forward ONNX model into the graph that trains it.
//!
//! ONNX engines run graphs; they have no notion of training. So the gradient is a graph as well: [`Model::parse`] reads
//! a forward file, [`Model::training_graph`] derives by reverse-mode differentiation one that gives the loss, every
//! parameter's gradient and the new running statistics, out of standard `ai.onnx` operators only. Any engine can run
//! it. This crate does no input or output and knows no engine.
//!
//! ```
//! # fn derive(file: Vec<u8>) -> Result<(), skein_graph::GraphError> {
//! use skein_graph::{Lowering, Model, Options};
//!
//! let model = Model::parse(file.into(), &|data| Err(format!("{} is elsewhere", data.location)))?;
//! let graph = model.training_graph(&Options { lowering: Lowering::onnxruntime(), ..Options::default() })?;
//! println!("{} gradients out of {} nodes", graph.trained.len(), graph.nodes);
//! # Ok(())
//! # }
//! ```
//!
//! Where things are: `proto` and [`Model`] read files; `opset` brings every node into one form; `graph` and
//! `builder` build and simplify (`infer`, `fold`, `simplify`); `tape` and `rules` differentiate; `export` writes.

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
mod model;
pub mod networks;
mod operators;
mod ops;
mod opset;
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
pub use model::{ExternalData, Model, ReadExternal, Tensor, TensorKind, trained_file};
pub use training::{EvaluationGraph, Options, TrainingGraph, is_frozen};
