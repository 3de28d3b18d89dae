//! Estimates the memory that an engine takes for a run of a graph.

use crate::graph::{Graph, ValueId};

/// Most bytes that the tensors which the nodes compute take at the same time, if nodes run in their order and a tensor is
/// dropped after its last use. A size with a name counts as 1. Engines also need space of their own, and reuse some of
/// this.
pub(crate) fn peak_bytes(graph: &Graph) -> u64 {
    let mut last_use = vec![0; graph.values.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().flatten().chain(&node.outputs).for_each(|id| last_use[id.index()] = index);
    }
    graph.outputs.iter().for_each(|(_, id)| last_use[id.index()] = graph.nodes.len());
    let mut held = 0u64;
    let mut peak = 0;
    for (index, node) in graph.nodes.iter().enumerate() {
        held = node.outputs.iter().fold(held, |held, id| held.saturating_add(bytes(graph, *id)));
        peak = peak.max(held);
        let mut dropped: Vec<ValueId> = node.inputs.iter().flatten().chain(&node.outputs).copied().collect();
        dropped.sort();
        dropped.dedup();
        let dropped = dropped.into_iter().filter(|id| last_use[id.index()] == index && is_computed(graph, *id));
        held = dropped.fold(held, |held, id| held.saturating_sub(bytes(graph, id)));
    }
    peak
}

fn is_computed(graph: &Graph, id: ValueId) -> bool {
    let value = graph.value(id);
    value.name.is_none() && value.constant.is_none()
}

fn bytes(graph: &Graph, id: ValueId) -> u64 {
    let size = |factor: i64| u64::try_from(factor).unwrap_or_default();
    let count = graph.shape(id).iter().fold(1u64, |count, dim| count.saturating_mul(size(dim.factor())));
    count.saturating_mul(graph.element(id).size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::constant::ElementType;
    use crate::dim::Dim;
    use crate::graph::Type;

    #[test]
    fn tensors_count_from_their_node_to_their_last_use() {
        let mut graph = Graph::default();
        let shape = |size: i64| vec![Dim::symbol("batch"), Dim::from(size)];
        let input = graph.input("x", Type::new(ElementType::F32, shape(100)));
        let mut add = |op, inputs: &[ValueId]| {
            let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
            graph.push(op, &inputs, Attributes::default()).expect("a valid node")[0]
        };
        let first = add("Relu", &[input]);
        let second = add("Exp", &[first]);
        let third = add("Add", &[second, first]);
        let last = add("Neg", &[third]);
        graph.outputs = vec![("y".into(), last)];
        // The second and the first tensor are there while the third is computed, 100 numbers of 4 bytes each.
        assert_eq!(peak_bytes(&graph), 3 * 400);
    }
}
