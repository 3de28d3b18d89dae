//! Forward and gradient rules, by operator.
//!
//! A forward rule may compose an operator of others, which bring their own gradient rules, or keep values for the
//! backward rule. A backward rule computes the gradients of a step's inputs from those of its outputs.

mod convolution;
mod elementwise;
mod linear;
pub(crate) mod maps;
mod movement;
mod normalization;
mod pooling;
mod reduction;

use std::collections::HashMap;

use crate::attributes::Attributes;
use crate::error::{GraphError, Reason};
use crate::graph::ValueId;
use crate::lowering::Layout;
use crate::tape::{Step, Tape};

/// Result of a forward rule.
pub(crate) enum Forward {
    /// The operator has no rule and is emitted as it is.
    Plain,
    /// The rule applied other operators, with these outputs.
    Composed(Vec<ValueId>),
    /// The rule emitted nodes: their outputs, and the values kept for the backward rule.
    Saved(Vec<ValueId>, Vec<ValueId>),
}

/// Gradients of a step's inputs; `None` for an input without one.
type Gradients = Result<Vec<Option<ValueId>>, Reason>;

/// Applies the forward rule of an operator, if it has one.
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

/// Gradients of a step's inputs, from those of its outputs, of which at least one is `Some`.
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
    Err("it has no gradient: freeze the parameters before it, or train only parameters after it".into())
}

/// The gradient of the first input only.
fn first(gradient: Result<ValueId, Reason>) -> Gradients {
    gradient.map(|gradient| vec![Some(gradient)])
}

impl Tape {
    /// Adds a step of the forward computation, decomposed into other steps if it is not primitive.
    pub(crate) fn apply(
        &mut self,
        op: &'static str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<Vec<ValueId>, Reason> {
        let (outputs, saved) = match forward(self, op, inputs, &attributes)? {
            Forward::Composed(outputs) => return Ok(outputs),
            Forward::Saved(outputs, saved) => (outputs, saved),
            Forward::Plain => (self.graph.push(op, inputs, attributes.clone())?, vec![]),
        };
        self.record(Step {
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            attributes,
            saved,
            origin: self.graph.origin.clone(),
        });
        Ok(outputs)
    }

    /// [`apply`](Self::apply) for one output and inputs that are all present.
    pub(crate) fn apply_one(
        &mut self,
        op: &'static str,
        inputs: &[ValueId],
        attributes: Attributes,
    ) -> Result<ValueId, Reason> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.apply(op, &inputs, attributes)?[0])
    }

    /// Gradients of `loss`, a number, with respect to `wanted`; `None` for values that it does not depend on.
    pub(crate) fn differentiate(
        &mut self,
        loss: ValueId,
        wanted: &[ValueId],
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let mut parts: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
        let one = self.graph.scalar(1.0);
        let seed = self.graph.reshape_like(one, loss).map_err(GraphError::Request)?;
        parts.insert(loss, vec![seed]);
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            let refuse = |reason| GraphError::node(&step.origin, step.op, reason);
            self.graph.origin = step.origin.clone();
            let mut gradients = Vec::with_capacity(step.outputs.len());
            for output in &step.outputs {
                gradients.push(self.total(parts.remove(output)).map_err(refuse)?);
            }
            if gradients.iter().all(Option::is_none) {
                continue;
            }
            let found = backward(self, &step, &gradients).map_err(refuse)?;
            for (input, gradient) in step.inputs.iter().zip(found) {
                if let (Some(input), Some(gradient)) = (input, gradient)
                    && self.active.contains(input)
                {
                    parts.entry(*input).or_default().push(gradient);
                }
            }
        }
        let totals = wanted.iter().map(|id| self.total(parts.remove(id)));
        totals.collect::<Result<_, _>>().map_err(GraphError::Request)
    }
}
