//! Writes a graph as an ONNX file: standard operators only, every attribute written out.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;

use crate::attributes::Attribute;
use crate::constant::Constant;
use crate::dim::Dim;
use crate::graph::{Graph, Node, Type, ValueId};
use crate::proto::{self, DimensionValue, attribute_type};

/// The operator set that graphs are written in.
pub(crate) const OPSET: i64 = 20;
/// The format version that goes with [`OPSET`].
pub(crate) const IR_VERSION: i64 = 9;

/// Encodes a graph as an ONNX file.
pub(crate) fn encode(graph: &Graph) -> Vec<u8> {
    let mut names = Names::new(graph);
    let mut nodes: Vec<proto::Node> = Vec::with_capacity(graph.nodes.len());
    for (index, node) in graph.nodes.iter().enumerate() {
        nodes.push(encode_node(node, index, &mut names));
    }
    let outputs: Vec<proto::ValueInfo> =
        graph.outputs.iter().map(|(name, id)| info(name, &graph.value(*id).ty)).collect();
    for (name, id) in &graph.outputs {
        if names.of(*id) != *name {
            nodes.push(proto::Node {
                input: vec![names.of(*id)],
                output: vec![name.clone()],
                name: format!("output_{name}"),
                op_type: "Identity".into(),
                ..Default::default()
            });
        }
    }
    let inputs = graph.inputs.iter().map(|id| info(&names.of(*id), &graph.value(*id).ty)).collect();
    let used: HashSet<String> = nodes.iter().flat_map(|node| node.input.iter().cloned()).collect();
    let constants = (0..graph.values.len()).map(ValueId::of_index).filter_map(|id| {
        let constant = graph.value(id).constant.as_deref()?;
        let name = names.of(id);
        used.contains(&name).then(|| tensor(name, constant))
    });
    let initializer = constants.collect();
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: "skein".into(),
        graph: Some(proto::Graph {
            node: nodes,
            name: "skein".into(),
            initializer,
            input: inputs,
            output: outputs,
            sparse_initializer: vec![],
        }),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: OPSET }],
        functions: vec![],
    };
    model.encode_to_vec()
}

/// Names of values: inputs and outputs keep theirs, others are numbered.
struct Names {
    given: HashMap<ValueId, String>,
    taken: HashSet<String>,
}

impl Names {
    fn new(graph: &Graph) -> Names {
        let inputs = graph.inputs.iter().filter_map(|id| Some((*id, graph.value(*id).name.as_ref()?.to_string())));
        let mut given: HashMap<ValueId, String> = inputs.collect();
        let mut taken: HashSet<String> = given.values().cloned().collect();
        for (name, id) in &graph.outputs {
            taken.insert(name.clone());
            if graph.producer(*id).is_some() {
                given.entry(*id).or_insert_with(|| name.clone());
            }
        }
        Names { given, taken }
    }

    fn of(&self, id: ValueId) -> String {
        match self.given.get(&id) {
            Some(name) => name.clone(),
            None => {
                let mut name = format!("v{}", id.index());
                while self.taken.contains(&name) {
                    name.push('_');
                }
                name
            }
        }
    }
}

fn encode_node(node: &Node, index: usize, names: &mut Names) -> proto::Node {
    // `indices` is internal: it marks a MaxPool whose second output is used.
    let attributes = node.attributes.iter().filter(|(name, _)| *name != "indices");
    proto::Node {
        input: node.inputs.iter().map(|id| id.map(|id| names.of(id)).unwrap_or_default()).collect(),
        output: node.outputs.iter().map(|id| names.of(*id)).collect(),
        name: format!("{}_{index}", node.op),
        op_type: node.op.to_owned(),
        attribute: attributes.map(|(name, value)| attribute(name, value)).collect(),
        ..Default::default()
    }
}

fn attribute(name: &str, value: &Attribute) -> proto::Attribute {
    let plain = proto::Attribute { name: name.to_owned(), ..Default::default() };
    match value {
        Attribute::Int(i) => proto::Attribute { i: Some(*i), r#type: attribute_type::INT, ..plain },
        Attribute::Float(f) => proto::Attribute { f: Some(*f), r#type: attribute_type::FLOAT, ..plain },
        Attribute::Text(s) => {
            proto::Attribute { s: Some(Bytes::copy_from_slice(s.as_bytes())), r#type: attribute_type::STRING, ..plain }
        }
        Attribute::Ints(ints) => proto::Attribute { ints: ints.clone(), r#type: attribute_type::INTS, ..plain },
        Attribute::Floats(floats) => {
            proto::Attribute { floats: floats.clone(), r#type: attribute_type::FLOATS, ..plain }
        }
        Attribute::Tensor(constant) => {
            proto::Attribute { t: Some(tensor(String::new(), constant)), r#type: attribute_type::TENSOR, ..plain }
        }
    }
}

fn tensor(name: String, constant: &Constant) -> proto::Tensor {
    proto::Tensor {
        dims: constant.dims().to_vec(),
        data_type: constant.ty().code(),
        name,
        raw_data: constant.bytes().clone(),
        ..Default::default()
    }
}

fn info(name: &str, ty: &Type) -> proto::ValueInfo {
    let dim = |dim: &Dim| {
        let mut symbols = dim.symbols();
        let value = match (dim.fixed(), symbols.next(), symbols.next()) {
            (Some(size), ..) => Some(DimensionValue::Size(size)),
            (None, Some(symbol), None) if *dim == Dim::symbol(symbol) => {
                Some(DimensionValue::Symbol(symbol.to_owned()))
            }
            // The format cannot express a product of sizes.
            _ => None,
        };
        proto::Dimension { value }
    };
    let shape = proto::TensorShape { dim: ty.shape.iter().map(dim).collect() };
    let tensor_type = proto::TensorType { elem_type: ty.element.code(), shape: Some(shape) };
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type: Some(tensor_type) }) }
}
