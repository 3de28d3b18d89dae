//! Forward and gradient rules, by operator.
//!
//! A forward rule may compose an operator of others, whose gradients then follow by themselves, or keep values for
//! the backward rule. A backward rule gives the gradients of its inputs from those of its outputs.

mod convolution;
mod elementwise;
mod linear;
pub(crate) mod maps;
mod movement;
mod normalization;
mod pooling;
mod reduction;

use crate::attributes::Attributes;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::lowering::Layout;
use crate::tape::{Step, Tape};

/// What a forward rule did.
pub(crate) enum Forward {
    /// Nothing: the operator is emitted as it is.
    Plain,
    /// It applied other operators, which gave these outputs.
    Composed(Vec<ValueId>),
    /// It emitted nodes that gave the outputs, and the values kept for the backward rule.
    Saved(Vec<ValueId>, Vec<ValueId>),
}

/// Gradients of a step's inputs; none where there is none.
type Gradients = Result<Vec<Option<ValueId>>, Reason>;

/// Lets an operator with a forward rule emit itself.
pub(crate) fn forward(
    tape: &mut Tape,
    op: &'static str,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Forward, Reason> {
    if tape.lowering.layout == Layout::BatchLast
        && let Some(outputs) = maps::forward(tape, op, inputs, attributes)?
    {
        return Ok(Forward::Composed(outputs));
    }
    match op {
        "BatchNormalization" => normalization::batch_forward(tape, inputs, attributes),
        "Dropout" => normalization::dropout_forward(tape, inputs, attributes),
        "Gather" => movement::gather_forward(tape, inputs, attributes),
        "Transpose" => movement::transpose_forward(tape, inputs, attributes),
        "ReduceMean" | "ReduceSum" => reduction::forward(tape, inputs, attributes),
        _ => Ok(Forward::Plain),
    }
}

/// Gradients of a step's inputs, from those of its outputs, of which at least one is there.
pub(crate) fn backward(tape: &mut Tape, step: &Step, gradients: &[Option<ValueId>]) -> Gradients {
    if step.op == "Positions" || step.op == "MapMaxPool" {
        let Some(gradient) = gradients[0] else { return Ok(vec![]) };
        return first(match step.op {
            "Positions" => maps::positions_backward(tape, step, gradient),
            _ => maps::maximum_backward(tape, step, gradient),
        });
    }
    if step.op == "Split" {
        return movement::split(tape, step, gradients);
    }
    let Some(gradient) = gradients[0] else { return Ok(vec![]) };
    let families = [
        elementwise::backward,
        movement::backward,
        reduction::backward,
        linear::backward,
        normalization::backward,
        convolution::backward,
        pooling::backward,
    ];
    for family in families {
        if let Some(found) = family(tape, step, gradient) {
            return found;
        }
    }
    Err("it has no gradient: keep what is trained behind it, or freeze what is in front of it".into())
}

/// The gradient of the first input alone.
fn first(gradient: Result<ValueId, Reason>) -> Gradients {
    gradient.map(|gradient| vec![Some(gradient)])
}
