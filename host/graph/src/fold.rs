//! Folds arithmetic on shapes and small constants while the graph is built.
//!
//! Exporters compute target shapes from `Shape`, `Gather`, `Concat` and arithmetic, and write constants as casts and
//! expansions of others. All of it is evaluated here, so that none remains in a graph whose sizes are known.

mod elements;
mod shapes;

use bytes::Bytes;

use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim;
use crate::graph::{Graph, Type, ValueId};

pub(crate) use shapes::sizes;

/// Most elements of a folded result: enough for shapes, biases and masks of small attention.
const ELEMENTS_MAX: usize = 1 << 16;

/// The result of a node, if it is known.
pub(crate) fn constant(
    graph: &Graph,
    op: &str,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
    types: &[Type],
) -> Option<Constant> {
    let [ty] = types else { return None };
    let dims = dim::fixed(&ty.shape)?;
    let count = dims.iter().try_fold(1i64, |count, size| count.checked_mul(*size))?;
    if count > ELEMENTS_MAX as i64 {
        return None;
    }
    if let Some(numbers) = sizes(graph, op, inputs, attributes).and_then(|sizes| dim::fixed(&sizes)) {
        return of_integers(ty.element, dims, &numbers);
    }
    let operands: Option<Vec<&Constant>> = inputs.iter().map(|id| graph.constant_of((*id)?)).collect();
    let operands = operands.filter(|operands| !operands.is_empty())?;
    if operands.iter().any(|operand| operand.len() > ELEMENTS_MAX) {
        return None;
    }
    match op {
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => Constant::new(ty.element, dims, operands[0].bytes().clone()),
        "Expand" => elements::expand(operands[0], dims),
        "Transpose" => elements::transpose(operands[0], dims, attributes.ints("perm")?),
        "Concat" => elements::concat(&operands, dims, attributes.int("axis", 0)),
        "Gather" => elements::gather(operands[0], operands[1], dims, attributes.int("axis", 0)),
        "Range" => elements::range(operands[0], operands[2], ty.element, count),
        _ => elements::arithmetic(op, &operands, ty.element, dims),
    }
}

/// Converts numbers to a tensor of the given type and sizes.
fn of_numbers(element: ElementType, dims: Vec<i64>, numbers: &[f64]) -> Option<Constant> {
    let bytes = match element {
        ElementType::F32 => bytemuck::pod_collect_to_vec(&numbers.iter().map(|n| *n as f32).collect::<Vec<_>>()),
        ElementType::F64 => bytemuck::pod_collect_to_vec(numbers),
        ElementType::I64 => bytemuck::pod_collect_to_vec(&numbers.iter().map(|n| *n as i64).collect::<Vec<_>>()),
        ElementType::I32 => bytemuck::pod_collect_to_vec(&numbers.iter().map(|n| *n as i32).collect::<Vec<_>>()),
        ElementType::Bool => numbers.iter().map(|n| u8::from(*n != 0.0)).collect(),
        ElementType::U8 => numbers.iter().map(|n| *n as u8).collect(),
    };
    Constant::new(element, dims, bytes.into())
}

fn of_integers(element: ElementType, dims: Vec<i64>, numbers: &[i64]) -> Option<Constant> {
    match element {
        // Without conversion to floats, which cannot represent the bounds of slices.
        ElementType::I64 => Constant::new(element, dims, Bytes::copy_from_slice(bytemuck::cast_slice(numbers))),
        _ => of_numbers(element, dims, &numbers.iter().map(|n| *n as f64).collect::<Vec<_>>()),
    }
}
