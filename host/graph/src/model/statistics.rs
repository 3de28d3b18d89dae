//! Splits running statistics that several nodes of a file share.
//!
//! Exporters write equal tensors once: the running means of a fresh network are all zeros, and so are its biases. Some
//! let every node refer to the remaining tensor, others copy it with `Identity` nodes. Yet the statistics of each batch
//! normalization follow different batches. Here each node gets tensors that nothing else uses. They keep the file's
//! name if nothing else used it, take the name of the copy if the file has one, and are named after the node otherwise.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::decode::is_standard;
use crate::constant::ElementType;
use crate::proto::{Graph, Node, Tensor, ValueInfo};

/// Inputs of a batch normalization that are running statistics, and their names in PyTorch.
const STATISTICS: [(usize, &str); 2] = [(3, "running_mean"), (4, "running_var")];

/// Splits shared running statistics, so that nothing else uses those of a batch normalization.
pub(super) fn divide(graph: &mut Graph) {
    if !graph.node.iter().any(is_normalization) {
        return;
    }
    let uses = graph.uses();
    let sources = sources(graph);
    let mut names = Names::of(graph);
    let mut nodes = std::mem::take(&mut graph.node);
    let mut left = Vec::new();
    let mut replaced = HashSet::new();
    for node in nodes.iter_mut().filter(|node| is_normalization(node)) {
        let owner = if node.name.is_empty() { node.output.first().cloned() } else { Some(node.name.clone()) };
        for (input, kind) in STATISTICS {
            let Some(name) = node.input.get_mut(input) else { continue };
            let Some(source) = sources.get(name).copied() else { continue };
            let is_copy = graph.initializer[source].name != *name;
            match (uses[name], is_copy) {
                (1, false) => {}
                (1, true) => {
                    replaced.insert(name.clone());
                    copy(graph, source, name.clone());
                }
                _ => {
                    let own = names.unlike_all(format!("{}.{kind}", owner.as_deref().unwrap_or_default()));
                    copy(graph, source, own.clone());
                    left.push(std::mem::replace(name, own));
                }
            }
        }
    }
    let is_replaced =
        |node: &Node| node.op_type == "Identity" && node.output.first().is_some_and(|name| replaced.contains(name));
    left.extend(nodes.iter().filter(|node| is_replaced(node)).flat_map(|node| node.input.clone()));
    nodes.retain(|node| !is_replaced(node));
    graph.node = nodes;
    graph.drop_unused(left);
}

fn is_normalization(node: &Node) -> bool {
    is_standard(&node.domain) && node.op_type == "BatchNormalization"
}

/// Maps names of initializers and of their copies to the initializer's index in the file.
fn sources(graph: &Graph) -> HashMap<String, usize> {
    // Other tensors are not statistics, and are refused later.
    let is_vector = |tensor: &Tensor| tensor.data_type == ElementType::F32.code() && tensor.dims.len() == 1;
    let vectors = graph.initializer.iter().enumerate().filter(|(_, tensor)| is_vector(tensor));
    let mut sources: HashMap<String, usize> = vectors.map(|(index, tensor)| (tensor.name.clone(), index)).collect();
    for node in graph.node.iter().filter(|node| is_standard(&node.domain) && node.op_type == "Identity") {
        if let ([from], [to]) = (&node.input[..], &node.output[..])
            && let Some(source) = sources.get(from).copied()
        {
            sources.entry(to.clone()).or_insert(source);
        }
    }
    sources
}

/// Adds a copy of initializer `source`, and lists it among the graph's inputs if the file lists initializers there.
fn copy(graph: &mut Graph, source: usize, name: String) {
    let tensor = &mut graph.initializer[source];
    if !tensor.float_data.is_empty() {
        // All copies share one buffer: otherwise a small file could demand as many copies as it has nodes.
        tensor.raw_data = Bytes::copy_from_slice(bytemuck::cast_slice(&tensor.float_data));
        tensor.float_data = Vec::new();
    }
    let copy = Tensor { name: name.clone(), ..tensor.clone() };
    let listed = graph.input.iter().find(|input| input.name == tensor.name);
    let listed = listed.map(|input| ValueInfo { name, ..input.clone() });
    graph.input.extend(listed);
    graph.initializer.push(copy);
}

/// Every name that a file uses.
struct Names {
    taken: HashSet<String>,
    number: usize,
}

impl Names {
    fn of(graph: &Graph) -> Names {
        let initializers = graph.initializer.iter().map(|tensor| &tensor.name);
        let inputs = graph.input.iter().map(|input| &input.name);
        let outputs = graph.node.iter().flat_map(|node| &node.output);
        Names { taken: initializers.chain(inputs).chain(outputs).cloned().collect(), number: 1 }
    }

    /// The name, with a number appended if it is taken.
    fn unlike_all(&mut self, name: String) -> String {
        let mut own = name.clone();
        while !self.taken.insert(own.clone()) {
            self.number += 1;
            own = format!("{name}_{}", self.number);
        }
        own
    }
}
