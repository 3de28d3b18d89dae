//! Operators that reduce many elements to one: each element receives its share of the gradient.

use super::{Forward, Gradients, first};
use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::ops::Emitted;
use crate::tape::{Step, Tape};

/// A sum or mean over axes of size 1 only is a change of shape.
pub(super) fn forward(tape: &mut Tape, inputs: &[Option<ValueId>], attributes: &Attributes) -> Result<Forward, Reason> {
    let (Some(x), Some(axes)) = (inputs[0], inputs.get(1).copied().flatten()) else { return Ok(Forward::Plain) };
    let types = crate::infer::types(&tape.graph, "ReduceMean", inputs, attributes)?;
    let shape = tape.graph.shape(x);
    let axes = tape.graph.integers_of(axes).unwrap_or_default();
    let is_idle = axes.iter().all(|axis| shape.get(*axis as usize) == Some(&Dim::from(1))) && !axes.is_empty();
    let target: Vec<i64> = types[0].shape.iter().map(|dim| dim.fixed().unwrap_or(-1)).collect();
    if !is_idle || target.iter().filter(|size| **size == -1).count() > 1 {
        return Ok(Forward::Plain);
    }
    let target = tape.graph.integers(&target);
    let reshaped = tape.apply_one("Reshape", &[x, target], Attributes::default().with("allowzero", 0))?;
    Ok(Forward::Composed(vec![reshaped]))
}

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    Some(match step.op {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" => first(reduce(tape, step, g)),
        "Softmax" => first(softmax(tape, step, g)),
        "LogSoftmax" => first(log_softmax(tape, step, g)),
        _ => return None,
    })
}

fn reduce(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let shape = tape.graph.shape(x).to_vec();
    let axes = tape.graph.integers_of(step.input(1)?).ok_or("its axes are not constant")?;
    let axes: Vec<usize> = axes.into_iter().map(|axis| axis as usize).collect();
    let kept: Vec<Dim> =
        shape.iter().enumerate().map(|(i, dim)| if axes.contains(&i) { Dim::from(1) } else { dim.clone() }).collect();
    let as_kept = |tape: &mut Tape, value| {
        if tape.graph.shape(value) == kept { Ok(value) } else { tape.graph.reshape(value, &kept) }
    };
    let gradient = as_kept(tape, g)?;
    match step.op {
        "ReduceSum" => repeat(tape, gradient, x, &axes),
        "ReduceMean" => {
            let share = share(tape, gradient, x, &axes)?;
            tape.graph.expand_like(share, x)
        }
        _ => {
            // All elements equal to the extremum share the gradient.
            let extremum = as_kept(tape, step.outputs[0])?;
            let is_chosen = tape.graph.op("Equal", &[x, extremum])?;
            let ones = tape.graph.cast(is_chosen, ElementType::F32)?;
            let count = tape.graph.sum(ones, &axes)?;
            let share = tape.graph.div(gradient, count)?;
            tape.graph.keep_where(is_chosen, share)
        }
    }
}

/// `gradient` broadcast to `x`. Along only a short last axis it is a product with ones, which engines run several times
/// faster.
fn repeat(tape: &mut Tape, gradient: ValueId, x: ValueId, axes: &[usize]) -> Emitted {
    let shape = tape.graph.shape(x).to_vec();
    let last = shape.last().and_then(Dim::fixed).filter(|size| (2..=64).contains(size));
    let Some(size) = last.filter(|_| axes == [shape.len() - 1] && shape.len() > 1) else {
        return tape.graph.expand_like(gradient, x);
    };
    let ones = tape.graph.constant(Constant::floats(&[1, size], &vec![1.0; size as usize]));
    let target = tape.graph.integers(&[-1, 1]);
    let column = Attributes::default().with("allowzero", 0);
    let column = tape.graph.op_with("Reshape", &[gradient, target], column)?;
    let repeated = tape.graph.matmul(column, ones)?;
    tape.graph.reshape_like(repeated, x)
}

/// `gradient` divided by the number of elements of `x` along `axes`.
fn share(tape: &mut Tape, gradient: ValueId, x: ValueId, axes: &[usize]) -> Emitted {
    let sizes: Vec<Dim> = axes.iter().map(|axis| tape.graph.shape(x)[*axis].clone()).collect();
    match crate::dim::fixed(&sizes) {
        Some(sizes) => tape.graph.scale(gradient, 1.0 / sizes.iter().product::<i64>() as f32),
        None => {
            let count = count(tape, x, axes)?;
            tape.graph.div(gradient, count)
        }
    }
}

/// The number of elements of `x` along `axes`, as a float.
pub(super) fn count(tape: &mut Tape, x: ValueId, axes: &[usize]) -> Emitted {
    let sizes: Vec<Dim> = axes.iter().map(|axis| tape.graph.shape(x)[*axis].clone()).collect();
    if let Some(sizes) = crate::dim::fixed(&sizes) {
        return Ok(tape.graph.scalar(sizes.iter().product::<i64>() as f32));
    }
    let graph = &mut tape.graph;
    let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
    let shape = graph.op("Shape", &[x])?;
    let axes = graph.integers(&axes);
    let sizes = graph.op_with("Gather", &[shape, axes], crate::attributes::Attributes::default().with("axis", 0))?;
    let product = graph.reduce("ReduceProd", sizes, &[0], false)?;
    graph.cast(product, ElementType::F32)
}

/// `y·(g − Σ g·y)`
fn softmax(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let y = step.outputs[0];
    let axis = step.attributes.int("axis", -1) as usize;
    let product = tape.graph.mul(g, y)?;
    let sum = tape.graph.sum(product, &[axis])?;
    let centred = tape.graph.sub(g, sum)?;
    tape.graph.mul(y, centred)
}

/// `g − e^y·Σ g`
fn log_softmax(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let y = step.outputs[0];
    let axis = step.attributes.int("axis", -1) as usize;
    let probability = tape.graph.op("Exp", &[y])?;
    let sum = tape.graph.sum(g, &[axis])?;
    let product = tape.graph.mul(probability, sum)?;
    tape.graph.sub(g, product)
}
