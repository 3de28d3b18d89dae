//! A forward model as its file describes it: inputs, parameters, buffers and nodes.

mod channel_dropout;
mod decode;
mod inline;
mod removed;
mod statistics;
mod trained;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim::{Dim, Shape};
use crate::error::GraphError;
use crate::graph::Type;
use crate::operators;
use crate::proto;

pub use decode::{ExternalData, ReadExternal};
pub use removed::Removed;
pub use trained::trained_file;

/// Supported operator sets of `ai.onnx`.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;

/// A forward model, read and checked. Cloning shares its tensors.
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) inputs: Vec<(String, Type)>,
    pub(crate) outputs: Vec<String>,
    pub(crate) nodes: Vec<SourceNode>,
    pub(crate) constants: BTreeMap<String, Constant>,
    pub(crate) opset: i64,
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
}

/// A named tensor of a model, with its values from the file.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Values in the file: 32-bit floats.
    pub initial: Constant,
    /// Role in the model, for drawing new initial values.
    pub kind: TensorKind,
}

/// Role of a tensor in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// Factor of a matrix product or convolution.
    Weight {
        /// Number of inputs that contribute to each output.
        fan_in: i64,
    },
    /// Scale of a normalization.
    Scale,
    /// Bias, or any other parameter.
    Bias,
    /// Running mean of a batch normalization.
    Mean,
    /// Running variance of a batch normalization.
    Variance,
}

/// A node as the file describes it.
#[derive(Debug, Clone)]
pub(crate) struct SourceNode {
    pub(crate) name: Arc<str>,
    pub(crate) op: &'static str,
    /// The module that it was made from, if the file names it.
    pub(crate) layer: Option<String>,
    /// An empty name is an omitted input.
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: Attributes,
}

impl Model {
    /// Reads an ONNX file; `read` fetches tensors that are stored in other files.
    ///
    /// # Errors
    /// [`GraphError`]: the file is damaged, or has a tensor or node that cannot be used.
    pub fn parse(file: Bytes, read: &ReadExternal<'_>) -> Result<Model, GraphError> {
        let malformed = |reason: &str| GraphError::Malformed(reason.to_owned());
        let proto = proto::Model::decode(file).map_err(|error| GraphError::Malformed(error.to_string()))?;
        let opset = decode::opset(&proto, &OPSETS)?;
        let graph = unfolded(proto.graph, &proto.functions, opset)?;
        if !graph.sparse_initializer.is_empty() {
            return Err(malformed("it has sparse tensors, which are not supported: export it with dense ones"));
        }
        let nodes = graph.node.into_iter().map(decode::node).collect::<Result<Vec<_>, _>>()?;
        let mut initial = BTreeMap::new();
        for tensor in graph.initializer {
            let name = tensor.name.clone();
            let constant =
                decode::tensor(tensor, read).map_err(|reason| GraphError::Tensor { name: name.clone(), reason })?;
            if initial.insert(name.clone(), constant).is_some() {
                return Err(GraphError::Malformed(format!("initializer `{name}` occurs twice")));
            }
        }
        // Files from before 2019 list initializers among the inputs.
        let declared = graph.input.into_iter().filter(|input| !initial.contains_key(&input.name));
        let inputs = declared.map(decode::input).collect::<Result<Vec<_>, _>>()?;
        let outputs: Vec<String> = graph.output.into_iter().map(|output| output.name).collect();
        if outputs.is_empty() || inputs.is_empty() {
            return Err(malformed("its graph has no input or no output"));
        }
        let mut model =
            Model { inputs, outputs, nodes, constants: initial, opset, parameters: vec![], buffers: vec![] };
        model.sort_initializers()?;
        Ok(model)
    }

    /// Tensors that training changes, sorted by name.
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// Running means and variances of batch normalizations, one per node, sorted by name. A tensor that several nodes
    /// share in the file becomes `<node>.running_mean` or `<node>.running_var` of each.
    pub fn buffers(&self) -> &[Tensor] {
        &self.buffers
    }

    /// Names and shapes of the inputs.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.inputs.iter().map(|(name, ty)| (name.as_str(), &ty.shape))
    }

    /// Names and element types of the inputs.
    pub fn input_types(&self) -> impl Iterator<Item = (&str, ElementType)> {
        self.inputs.iter().map(|(name, ty)| (name.as_str(), ty.element))
    }

    /// Number of nodes, and how often each operator occurs.
    pub fn operators(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.nodes.iter().for_each(|node| *counts.entry(node.op).or_default() += 1);
        counts
    }

    /// The error with the layer that its node was made from, if the file names it.
    pub(crate) fn located(&self, error: GraphError) -> GraphError {
        error.with_layer(|name| self.nodes.iter().find(|node| &*node.name == name)?.layer.clone())
    }

    /// Sets named sizes, such as `batch` to 64.
    ///
    /// # Errors
    /// [`GraphError::Request`] if no input has a size of that name.
    pub fn with_sizes(mut self, sizes: &BTreeMap<String, i64>) -> Result<Model, GraphError> {
        for (name, size) in sizes {
            let mut is_known = false;
            for dim in self.inputs.iter_mut().flat_map(|(_, ty)| &mut ty.shape) {
                if dim.symbols().eq([name.as_str()]) {
                    (*dim, is_known) = (Dim::from(*size), true);
                }
            }
            if !is_known {
                return Err(GraphError::Request(format!("no input of the model has a size named `{name}`")));
            }
        }
        Ok(self)
    }

    /// Sets the named sizes of the first input so that its samples have the shape `sample`.
    ///
    /// # Errors
    /// [`GraphError::Request`] if the shape contradicts the model's.
    pub fn with_sample_shape(self, sample: &[i64]) -> Result<Model, GraphError> {
        let (name, ty) = &self.inputs[0];
        let asked = || {
            GraphError::Request(format!(
                "input `{name}` has shape {}, but samples have {sample:?}",
                crate::dim::text(&ty.shape)
            ))
        };
        let own = ty.shape.get(1..).filter(|own| own.len() == sample.len()).ok_or_else(asked)?;
        let mut sizes = BTreeMap::new();
        for (dim, size) in own.iter().zip(sample) {
            match (dim.fixed(), dim.symbols().next()) {
                (Some(fixed), _) if fixed == *size => {}
                (None, Some(symbol)) if *sizes.entry(symbol.to_owned()).or_insert(*size) == *size => {}
                _ => return Err(asked()),
            }
        }
        self.with_sizes(&sizes)
    }

    /// Separates parameters and buffers from constants by how the nodes use them.
    fn sort_initializers(&mut self) -> Result<(), GraphError> {
        let mut learned = BTreeSet::new();
        let mut running = BTreeSet::new();
        let mut kinds = BTreeMap::new();
        for node in &self.nodes {
            for (index, name) in node.inputs.iter().enumerate() {
                match operators::role(node.op, index) {
                    operators::Role::Operand => drop(learned.insert(name)),
                    operators::Role::Running => drop(running.insert(name)),
                    operators::Role::Setting => continue,
                }
                if let Some(kind) = self.constants.get(name).and_then(|constant| kind(node, index, constant.dims())) {
                    kinds.insert(name.clone(), kind);
                }
            }
        }
        let is_float = |constant: &Constant| matches!(constant.ty(), ElementType::F32 | ElementType::F64);
        let take = |names: BTreeSet<&String>| {
            let of_file = names.into_iter().filter_map(|name| Some((name.clone(), self.constants.get(name)?.clone())));
            of_file.filter(|(_, constant)| is_float(constant) && !constant.dims().is_empty()).collect::<Vec<_>>()
        };
        let learned = take(learned);
        let running = take(running);
        for (target, found) in [(&mut self.parameters, learned), (&mut self.buffers, running)] {
            for (name, initial) in found {
                if initial.ty() != ElementType::F32 {
                    let reason = "has type float64: export the model in float32".to_owned();
                    return Err(GraphError::Tensor { name, reason });
                }
                self.constants.remove(&name);
                let kind = kinds.get(&name).copied().unwrap_or(TensorKind::Bias);
                target.push(Tensor { name, initial, kind });
            }
        }
        Ok(())
    }
}

/// A file's graph with function calls inlined, the dropout of channels as one node, and running statistics split per node.
fn unfolded(
    graph: Option<proto::Graph>,
    functions: &[proto::Function],
    opset: i64,
) -> Result<proto::Graph, GraphError> {
    let mut graph = graph.ok_or_else(|| GraphError::Malformed("it has no graph".into()))?;
    graph.node = inline::calls(graph.node, functions)?;
    channel_dropout::restore(&mut graph, opset);
    statistics::divide(&mut graph);
    Ok(graph)
}

/// The role of a tensor of sizes `dims` as input `index` of a node.
fn kind(node: &SourceNode, index: usize, dims: &[i64]) -> Option<TensorKind> {
    let inputs = |outputs: usize| {
        let others = dims.iter().enumerate().filter(|(axis, _)| *axis != outputs).map(|(_, size)| *size);
        Some(TensorKind::Weight { fan_in: others.product::<i64>().max(1) })
    };
    match (node.op, index) {
        (normalization, 1) if normalization.ends_with("Normalization") => Some(TensorKind::Scale),
        ("BatchNormalization", 3) => Some(TensorKind::Mean),
        ("BatchNormalization", 4) => Some(TensorKind::Variance),
        ("Conv", 1) => inputs(0),
        ("ConvTranspose", 1) => inputs(1),
        ("Gemm", 1) => inputs(if node.attributes.int("transB", 0) == 1 { 0 } else { 1 }),
        ("MatMul", 1) => inputs(dims.len().checked_sub(1)?),
        _ => None,
    }
}
