//! Element-wise operators, and normalizations, which keep the shape.

use super::{Operands, one};
use crate::constant::ElementType;
use crate::dim::{Shape, broadcast};
use crate::error::Reason;
use crate::graph::Type;

pub(super) fn types(op: &str, operands: &Operands<'_>) -> Option<Result<Vec<Type>, Reason>> {
    Some(match op {
        "Identity" => operands.get(0).map(|id| vec![operands.graph.value(id).ty.clone()]),
        "Neg" | "Abs" | "Sign" => numeric(operands),
        "Exp" | "Log" | "Sqrt" | "Reciprocal" | "Relu" | "LeakyRelu" | "Elu" | "Selu" | "Sigmoid" | "Tanh"
        | "HardSigmoid" | "HardSwish" | "Erf" | "Gelu" | "Softplus" | "Softsign" | "Sin" | "Cos" | "Floor" | "Ceil"
        | "Round" | "Softmax" | "LogSoftmax" => float(operands),
        "Clip" => numeric(operands),
        "Not" => operands.shape(0).and_then(|shape| one(ElementType::Bool, shape.to_vec())),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "Mod" | "PRelu" => {
            broadcast_all(operands).and_then(|shape| one(operands.element(0)?, shape))
        }
        "And" | "Or" | "Xor" | "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => {
            broadcast_all(operands).and_then(|shape| one(ElementType::Bool, shape))
        }
        "Where" => select(operands),
        "Cast" => cast(operands),
        "BatchNormalization" => per_channel(operands, 4),
        "InstanceNormalization" | "GroupNormalization" => per_channel(operands, 2),
        "LayerNormalization" => layer(operands),
        _ => return None,
    })
}

fn numeric(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    one(operands.element(0)?, operands.shape(0)?.to_vec())
}

fn float(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    one(ElementType::F32, operands.float_shape(0)?.to_vec())
}

fn broadcast_all(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let mut shape = operands.shape(0)?.to_vec();
    let element = operands.element(0)?;
    for index in 1..operands.inputs.len() {
        if operands.element(index)? != element {
            return Err(format!("inputs of type {element:?} and {:?} cannot be mixed", operands.element(index)?));
        }
        shape = broadcast(&shape, operands.shape(index)?)?;
    }
    Ok(shape)
}

fn select(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let values = broadcast(operands.shape(1)?, operands.shape(2)?)?;
    one(operands.element(1)?, broadcast(operands.shape(0)?, &values)?)
}

fn cast(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let code = i32::try_from(operands.attributes.int("to", 0)).unwrap_or_default();
    let to = ElementType::of_code(code).map_err(|reason| format!("its result {reason}"))?;
    one(to, operands.shape(0)?.to_vec())
}

/// An input of shape `[N, C, ..]`, and `vectors` inputs of length `C`.
fn per_channel(operands: &Operands<'_>, vectors: usize) -> Result<Vec<Type>, Reason> {
    let shape = operands.float_shape(0)?;
    let channels = shape.get(1).ok_or("its input has no channels: it needs at least two dimensions")?;
    for index in 1..=vectors {
        let vector = operands.float_shape(index)?;
        if vector != std::slice::from_ref(channels) {
            return Err(format!("input {index} has shape {}, expected [{channels}]", crate::dim::text(vector)));
        }
    }
    one(ElementType::F32, shape.to_vec())
}

fn layer(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let shape = operands.float_shape(0)?;
    let axis = operands.axis(-1, shape.len())?;
    for index in (1..3).filter(|index| operands.optional(*index).is_some()) {
        broadcast(operands.float_shape(index)?, &shape[axis..])?;
    }
    one(ElementType::F32, shape.to_vec())
}
