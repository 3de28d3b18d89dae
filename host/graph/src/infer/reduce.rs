//! Operators that reduce many elements to one.

use super::{Operands, one};
use crate::constant::ElementType;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::Type;

pub(super) fn types(op: &str, operands: &Operands<'_>) -> Option<Result<Vec<Type>, Reason>> {
    Some(match op {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" => reduce(operands),
        "ArgMax" => argmax(operands),
        "GlobalAveragePool" | "GlobalMaxPool" => global_pool(operands),
        "CumSum" => operands.shape(0).and_then(|shape| one(operands.element(0)?, shape.to_vec())),
        _ => return None,
    })
}

fn reduce(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let shape = operands.shape(0)?;
    let axes = operands.axes(1, shape.len())?;
    let keeps = operands.attributes.int("keepdims", 1) == 1;
    let dims = shape
        .iter()
        .enumerate()
        .filter_map(|(axis, dim)| if axes.contains(&axis) { keeps.then(|| Dim::from(1)) } else { Some(dim.clone()) });
    one(operands.element(0)?, dims.collect())
}

fn argmax(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let mut shape = operands.shape(0)?.to_vec();
    let axis = operands.axis(0, shape.len())?;
    match operands.attributes.int("keepdims", 1) {
        1 => shape[axis] = Dim::from(1),
        _ => drop(shape.remove(axis)),
    }
    one(ElementType::I64, shape)
}

fn global_pool(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let mut shape = operands.float_shape(0)?.to_vec();
    if shape.len() < 3 {
        return Err("its input has no spatial dimensions".into());
    }
    shape[2..].fill(Dim::from(1));
    one(ElementType::F32, shape)
}
