//! Follows sizes through the shape arithmetic of exporters, some of them by name only.

use crate::attributes::{Attribute, Attributes};
use crate::constant::ElementType;
use crate::dim::{self, Dim};
use crate::graph::{Graph, ValueId};
use crate::infer;

/// The elements of a result that was computed from shapes.
pub(crate) fn sizes(graph: &Graph, op: &str, inputs: &[Option<ValueId>], attributes: &Attributes) -> Option<Vec<Dim>> {
    let operand = |index: usize| {
        let value = graph.value(inputs.get(index).copied().flatten()?);
        value.sizes.clone()
    };
    match op {
        "Shape" => {
            let shape = graph.shape(inputs[0]?);
            let (start, end) = infer::shape_range(shape.len() as i64, attributes);
            Some(shape[start..end.max(start)].to_vec())
        }
        "Size" => Some(vec![dim::product(graph.shape(inputs[0]?))?]),
        "Cast" => {
            let to = ElementType::of_code(i32::try_from(attributes.int("to", 0)).ok()?).ok()?;
            matches!(to, ElementType::I64 | ElementType::I32).then(|| operand(0)).flatten()
        }
        "Identity" | "Squeeze" | "Unsqueeze" | "Reshape" => {
            (infer_rank(graph, op, inputs, attributes)? <= 1).then(|| operand(0)).flatten()
        }
        "Gather" => {
            let source = operand(0)?;
            let indices = graph.integers_of(inputs.get(1).copied().flatten()?)?;
            let at = |index: &i64| source.get(position(*index, source.len())?).cloned();
            indices.iter().map(at).collect()
        }
        "Concat" => {
            let parts: Option<Vec<_>> = (0..inputs.len()).map(operand).collect();
            Some(parts?.concat())
        }
        "Slice" => slice(graph, inputs, operand(0)?),
        "Add" | "Sub" | "Mul" | "Div" => arithmetic(op, &operand(0)?, &operand(1)?),
        "ReduceProd" => Some(vec![dim::product(&operand(0)?)?]),
        "ConstantOfShape" => fill(&dim::fixed(&operand(0)?)?, attributes),
        "Range" => range(&dim::fixed(&[operand(0)?, operand(1)?, operand(2)?].concat())?),
        "Where" => {
            let condition = operand(0)?;
            let a = operand(1)?;
            let b = operand(2)?;
            let pick = |index: usize| {
                let chosen = if condition.get(index)?.fixed()? != 0 { &a } else { &b };
                chosen.get(index.min(chosen.len().checked_sub(1)?)).cloned()
            };
            (0..condition.len()).map(pick).collect()
        }
        "Equal" => {
            let a = dim::fixed(&operand(0)?)?;
            let b = dim::fixed(&operand(1)?)?;
            let is_pair = a.len() == b.len() || b.len() == 1;
            is_pair.then(|| (0..a.len()).map(|i| Dim::from(i64::from(a[i] == b[i.min(b.len() - 1)]))).collect())
        }
        _ => None,
    }
}

fn position(index: i64, len: usize) -> Option<usize> {
    usize::try_from(if index < 0 { index + len as i64 } else { index }).ok().filter(|index| *index < len)
}

fn infer_rank(graph: &Graph, op: &str, inputs: &[Option<ValueId>], attributes: &Attributes) -> Option<usize> {
    infer::types(graph, op, inputs, attributes).ok()?.first().map(|ty| ty.shape.len())
}

fn slice(graph: &Graph, inputs: &[Option<ValueId>], source: Vec<Dim>) -> Option<Vec<Dim>> {
    let number = |index: usize| match inputs.get(index).copied().flatten() {
        Some(id) => graph.integers_of(id)?.first().copied(),
        None => Some(1),
    };
    let start = number(1)?;
    let end = number(2)?;
    let step = number(4)?;
    if step != 1 {
        return None;
    }
    let len = source.len() as i64;
    let clamp = |position: i64| (if position < 0 { position + len } else { position }).clamp(0, len) as usize;
    let start = clamp(start);
    let end = clamp(end);
    Some(source[start..end.max(start)].to_vec())
}

fn arithmetic(op: &str, a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    if a.is_empty() || b.is_empty() || (a.len() != b.len() && a.len() != 1 && b.len() != 1) {
        return None;
    }
    let compute = |a: &Dim, b: &Dim| match op {
        "Mul" => a.times(b),
        "Div" => match (a.fixed(), b.fixed()) {
            // Integer division truncates.
            (Some(a), Some(b)) => a.checked_div(b).map(Dim::from),
            _ => a.over(b),
        },
        "Add" => a.fixed()?.checked_add(b.fixed()?).map(Dim::from),
        _ => a.fixed()?.checked_sub(b.fixed()?).map(Dim::from),
    };
    let count = a.len().max(b.len());
    (0..count).map(|i| compute(&a[i.min(a.len() - 1)], &b[i.min(b.len() - 1)])).collect()
}

fn fill(dims: &[i64], attributes: &Attributes) -> Option<Vec<Dim>> {
    let Some(Attribute::Tensor(value)) = attributes.get("value") else { return None };
    let value = *value.to_integers()?.first()?;
    let count = usize::try_from(*dims.first().filter(|_| dims.len() == 1)?).ok()?;
    (count <= super::ELEMENTS_MAX).then(|| vec![Dim::from(value); count])
}

fn range(numbers: &[i64]) -> Option<Vec<Dim>> {
    let [start, limit, delta] = numbers else { return None };
    let count = limit.checked_sub(*start)?.checked_div(*delta)?;
    if *delta < 1 || count > super::ELEMENTS_MAX as i64 {
        return None;
    }
    Some((*start..*limit).step_by(usize::try_from(*delta).ok()?).map(Dim::from).collect())
}
