//! Cuts an ONNX file into parts that run one after another, so that a run can be stopped between two.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;

use crate::proto;

/// A part of a graph: an ONNX file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file.
    pub file: Vec<u8>,
    /// Names of its inputs: those of the whole graph, and values of earlier parts.
    pub inputs: Vec<String>,
    /// Names of its outputs: those of the whole graph, and values for later parts.
    pub outputs: Vec<String>,
}

/// A graph as parts, in the order in which they run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Names of the whole graph's inputs.
    pub inputs: Vec<String>,
    /// Names of the whole graph's outputs.
    pub outputs: Vec<String>,
    /// The parts, two at least.
    pub parts: Vec<Part>,
}

/// Operators whose work grows with the product of three or more sizes.
const HEAVY: [&str; 5] = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"];

/// Parts that a graph is cut into at most: between two parts, an engine cannot reuse memory or fuse operators.
const PARTS_MAX: usize = 12;

/// Cuts the graph of an ONNX file before operators that multiply matrices or convolve, so that all parts have about as
/// many of them. `None` if the file cannot be cut: it has no two such operators, graphs within its nodes, nodes out of order,
/// or an output that no node makes.
pub fn cut(file: Bytes) -> Option<Parts> {
    let model = proto::Model::decode(file).ok()?;
    let graph = model.graph.as_ref()?;
    if graph.node.iter().flat_map(|node| &node.attribute).any(|attribute| attribute.g.is_some()) {
        return None;
    }
    let groups = grouped(&graph.node);
    if groups.len() < 2 || !is_in_order(graph) {
        return None;
    }
    let constants: HashMap<&str, &proto::Tensor> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let is_input = |name: &str| !constants.contains_key(name);
    let inputs: Vec<&str> = graph.input.iter().map(|value| value.name.as_str()).filter(|name| is_input(name)).collect();
    let outputs: Vec<&str> = graph.output.iter().map(|value| value.name.as_str()).collect();
    let mut wanted: HashSet<&str> = outputs.iter().copied().collect();
    let mut parts = Vec::with_capacity(groups.len());
    // From the last to the first, so that it is known what later parts use.
    for nodes in groups.into_iter().rev() {
        let made: HashSet<&str> = nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let outputs: Vec<&str> = in_order(nodes, |node| &node.output).filter(|name| wanted.contains(name)).collect();
        let used: Vec<&str> =
            in_order(nodes, |node| &node.input).filter(|name| !name.is_empty() && !made.contains(name)).collect();
        let own: Vec<proto::Tensor> =
            used.iter().filter_map(|name| constants.get(name)).map(|t| (*t).clone()).collect();
        let inputs: Vec<&str> = used.into_iter().filter(|name| is_input(name)).collect();
        let part = proto::Graph {
            node: nodes.to_vec(),
            name: graph.name.clone(),
            initializer: own,
            input: inputs.iter().map(|name| value(graph, name)).collect(),
            output: outputs.iter().map(|name| value(graph, name)).collect(),
            sparse_initializer: vec![],
        };
        let file = proto::Model { graph: Some(part), ..model.clone() }.encode_to_vec();
        parts.push(Part { file, inputs: owned(&inputs), outputs: owned(&outputs) });
        wanted.extend(inputs);
    }
    parts.reverse();
    Some(Parts { inputs: owned(&inputs), outputs: owned(&outputs), parts })
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Whether every node uses only what the graph has or an earlier node makes, and nodes make all outputs.
fn is_in_order(graph: &proto::Graph) -> bool {
    let inputs = graph.input.iter().map(|value| value.name.as_str());
    let mut known: HashSet<&str> = inputs.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str())).collect();
    let mut made = HashSet::new();
    for node in &graph.node {
        if !node.input.iter().all(|name| name.is_empty() || known.contains(name.as_str())) {
            return false;
        }
        known.extend(node.output.iter().map(String::as_str));
        made.extend(node.output.iter().map(String::as_str));
    }
    graph.output.iter().all(|output| made.contains(output.name.as_str()))
}

/// The nodes in runs, each with as many heavy operators but for the last; all but the first begin with one.
fn grouped(nodes: &[proto::Node]) -> Vec<&[proto::Node]> {
    let is_heavy = |node: &&proto::Node| HEAVY.contains(&node.op_type.as_str());
    let each = nodes.iter().filter(is_heavy).count().div_ceil(PARTS_MAX).max(1);
    let mut count = nodes.iter().take(1).filter(is_heavy).count();
    let groups = nodes.chunk_by(|_, next| {
        let ends = is_heavy(&next) && count == each;
        count = if ends { 1 } else { count + usize::from(is_heavy(&next)) };
        !ends
    });
    groups.collect()
}

/// The names that a list of nodes has, each once, in the order of the nodes.
fn in_order<'a>(
    nodes: &'a [proto::Node],
    names: impl Fn(&'a proto::Node) -> &'a Vec<String>,
) -> impl Iterator<Item = &'a str> {
    let mut seen = HashSet::new();
    nodes.iter().flat_map(names).map(String::as_str).filter(move |name| seen.insert(*name))
}

/// The description of a value: that of the graph's own inputs and outputs, only the name of all others.
fn value(graph: &proto::Graph, name: &str) -> proto::ValueInfo {
    let known = graph.input.iter().chain(&graph.output).find(|value| value.name == name);
    known.cloned().unwrap_or_else(|| proto::ValueInfo { name: name.to_owned(), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, input: &str, output: &str) -> proto::Node {
        proto::Node { op_type: op.into(), input: vec![input.into()], output: vec![output.into()], ..Default::default() }
    }

    fn file(nodes: &[proto::Node], output: &str) -> Bytes {
        let named = |name: &str| vec![proto::ValueInfo { name: name.into(), ..Default::default() }];
        let graph =
            proto::Graph { node: nodes.to_vec(), input: named("x"), output: named(output), ..Default::default() };
        proto::Model { graph: Some(graph), ..Default::default() }.encode_to_vec().into()
    }

    #[test]
    fn a_part_has_what_it_uses_and_what_others_use() {
        let nodes = [node("Relu", "x", "a"), node("Conv", "a", "b"), node("Gemm", "b", "c"), node("Relu", "c", "y")];
        let Parts { inputs, outputs, parts } = cut(file(&nodes, "y")).expect("two heavy operators");
        assert_eq!([&inputs, &outputs], [&["x".to_owned()], &["y".to_owned()]]);
        let ends: Vec<_> = parts.iter().map(|part| [part.inputs.join(" "), part.outputs.join(" ")]).collect();
        assert_eq!(ends, [["x", "b"], ["b", "y"]]);
    }

    #[test]
    fn what_cannot_be_cut_is_left_whole() {
        let [first, second] = [node("Conv", "x", "a"), node("Gemm", "a", "y")];
        assert!(cut(file(&[first.clone(), second.clone()], "y")).is_some());
        assert_eq!(cut(file(&[second.clone(), first.clone()], "y")), None, "out of order");
        assert_eq!(cut(file(&[first.clone(), second], "x")), None, "an input is the output");
        assert_eq!(cut(file(&[first], "a")), None, "one heavy operator");
    }
}
