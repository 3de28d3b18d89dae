//! Removes nodes without effect, and brings equivalent nodes into one form.

use crate::attributes::Attributes;
use crate::constant::Constant;
use crate::dim::Dim;
use crate::graph::{Graph, Type, ValueId};

/// The input that a node would return unchanged, if any.
pub(crate) fn unchanged_input(
    graph: &mut Graph,
    op: &str,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
    types: &[Type],
) -> Option<ValueId> {
    let first = inputs.first().copied().flatten()?;
    let keeps_type = graph.value(first).ty == types[0];
    let is_uniform = |input: usize, value: f32| {
        inputs.get(input).copied().flatten().and_then(|id| graph.uniform_of(id)) == Some(value)
    };
    let is_noop = match op {
        "Identity" => true,
        "Cast" | "Expand" | "Reshape" => keeps_type,
        "Sum" | "Concat" => inputs.len() == 1,
        "Transpose" => {
            let perm = attributes.ints("perm")?;
            keeps_type && perm.iter().enumerate().all(|(axis, from)| axis as i64 == *from)
        }
        "Add" | "Sub" => keeps_type && is_uniform(1, 0.0),
        "Mul" | "Div" => keeps_type && is_uniform(1, 1.0),
        "Pad" => inputs.get(1).copied().flatten().and_then(|id| graph.integers_of(id))?.iter().all(|pad| *pad == 0),
        "Slice" => keeps_type && positive_steps(graph, inputs),
        "ReduceSum" | "ReduceMean" | "ReduceMax" => {
            // Over dimensions of size 1 a reduction with `keepdims` changes nothing.
            keeps_type && inputs.get(1).is_some_and(Option::is_some)
        }
        _ => false,
    };
    if is_noop {
        return Some(first);
    }
    match op {
        "Mul" if types[0] == graph.value(inputs[1]?).ty && is_uniform(0, 1.0) => inputs[1],
        "Add" if types[0] == graph.value(inputs[1]?).ty && is_uniform(0, 0.0) => inputs[1],
        _ => None,
    }
}

fn positive_steps(graph: &Graph, inputs: &[Option<ValueId>]) -> bool {
    match inputs.get(4).copied().flatten() {
        Some(steps) => graph.integers_of(steps).is_some_and(|steps| steps.iter().all(|step| *step > 0)),
        None => true,
    }
}

/// The normal form of a node: a target shape as numbers if possible, and no chained reshapes.
pub(crate) fn canonical(
    graph: &mut Graph,
    op: &str,
    inputs: &[Option<ValueId>],
    types: &[Type],
) -> Vec<Option<ValueId>> {
    let mut inputs = inputs.to_vec();
    let numbers = match op {
        "Reshape" => reshape_target(&types[0].shape),
        "Expand" => expand_target(graph, inputs[0], &types[0].shape),
        _ => None,
    };
    let Some(numbers) = numbers else { return inputs };
    inputs[1] = Some(graph.constant(Constant::integers(&numbers)));
    if op == "Reshape"
        && let Some(source) = inputs[0]
        && let Some(node) = graph.producer(source).filter(|node| node.op == "Reshape")
    {
        inputs[0] = node.inputs[0];
    }
    inputs
}

/// A reshape target as numbers; `None` if more than one size is known by name only.
fn reshape_target(shape: &[Dim]) -> Option<Vec<i64>> {
    let unknown = shape.iter().filter(|size| size.fixed().is_none()).count();
    // A size of 0 would copy the input's size.
    let is_plain = unknown <= 1 && shape.iter().all(|size| size.fixed() != Some(0));
    is_plain.then(|| shape.iter().map(|size| size.fixed().unwrap_or(-1)).collect())
}

/// An expand target as numbers, with 1 for named sizes that the input already has.
fn expand_target(graph: &Graph, source: Option<ValueId>, shape: &[Dim]) -> Option<Vec<i64>> {
    let own = graph.shape(source?);
    let added = shape.len().checked_sub(own.len())?;
    let size = |(axis, size): (usize, &Dim)| match size.fixed() {
        Some(size) => Some(size),
        None => (axis >= added && own[axis - added] == *size).then_some(1),
    };
    shape.iter().enumerate().map(size).collect()
}
