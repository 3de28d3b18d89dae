//! Gradients of element-wise operators.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use super::{Gradients, first};
use crate::error::Reason;
use crate::graph::ValueId;
use crate::ops::Emitted;
use crate::tape::{Step, Tape};

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    Some(match step.op {
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" => binary(tape, step, g),
        "Sum" => (0..step.inputs.len()).map(|i| tape.graph.unbroadcast(g, step.input(i)?).map(Some)).collect(),
        "Where" => select(tape, step, g),
        "Pow" => pow(tape, step, g),
        "Clip" => first(clip(tape, step, g)),
        "Relu" | "Neg" | "Identity" | "Cast" | "Exp" | "Log" | "Sqrt" | "Reciprocal" | "Abs" | "Sigmoid" | "Tanh"
        | "HardSigmoid" | "HardSwish" | "Erf" | "Gelu" | "LeakyRelu" | "Elu" | "Softplus" | "Sin" | "Cos" => {
            first(unary(tape, step, g))
        }
        _ => return None,
    })
}

fn unary(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let y = step.outputs[0];
    let graph = &mut tape.graph;
    match step.op {
        "Identity" | "Cast" => Ok(g),
        "Neg" => graph.neg(g),
        "Exp" => graph.mul(g, y),
        "Log" => graph.div(g, x),
        "Sqrt" => {
            let half = graph.scale(g, 0.5)?;
            graph.div(half, y)
        }
        "Reciprocal" => {
            let square = graph.mul(y, y)?;
            let product = graph.mul(g, square)?;
            graph.neg(product)
        }
        "Abs" => {
            let sign = graph.op("Sign", &[x])?;
            graph.mul(g, sign)
        }
        "Relu" => {
            let is_positive = graph.compare("Greater", y, 0.0)?;
            graph.keep_where(is_positive, g)
        }
        "Sigmoid" => {
            let square = graph.mul(y, y)?;
            let slope = graph.sub(y, square)?;
            graph.mul(g, slope)
        }
        "Tanh" => {
            let square = graph.mul(y, y)?;
            let product = graph.mul(g, square)?;
            graph.sub(g, product)
        }
        "Softplus" => {
            let gate = graph.op("Sigmoid", &[x])?;
            graph.mul(g, gate)
        }
        "Sin" => {
            let slope = graph.op("Cos", &[x])?;
            graph.mul(g, slope)
        }
        "Cos" => {
            let slope = graph.op("Sin", &[x])?;
            let product = graph.mul(g, slope)?;
            graph.neg(product)
        }
        _ => activation(tape, step, g),
    }
}

/// Activations whose gradients need constants.
fn activation(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let y = step.outputs[0];
    let alpha = step.attributes.float("alpha", 1.0);
    let graph = &mut tape.graph;
    match step.op {
        "HardSigmoid" => {
            let above = graph.compare("Greater", y, 0.0)?;
            let below = graph.compare("Less", y, 1.0)?;
            let is_inside = graph.op("And", &[above, below])?;
            let slope = graph.scale(g, alpha)?;
            graph.keep_where(is_inside, slope)
        }
        "HardSwish" => {
            // Between −3 and 3 the slope is x/3 + 1/2; it is 0 below and 1 above.
            let third = graph.scale(x, 1.0 / 3.0)?;
            let slope = graph.offset(third, 0.5)?;
            let is_low = graph.compare("LessOrEqual", x, -3.0)?;
            let is_high = graph.compare("GreaterOrEqual", x, 3.0)?;
            let zero = graph.scalar(0.0);
            let one = graph.scalar(1.0);
            let slope = graph.op("Where", &[is_low, zero, slope])?;
            let slope = graph.op("Where", &[is_high, one, slope])?;
            graph.mul(g, slope)
        }
        "Erf" => {
            let square = graph.mul(x, x)?;
            let bell = gauss(tape, square, -1.0)?;
            let slope = tape.graph.scale(bell, FRAC_2_SQRT_PI)?;
            tape.graph.mul(g, slope)
        }
        "LeakyRelu" => {
            let is_positive = graph.compare("Greater", x, 0.0)?;
            let scaled = graph.scale(g, alpha)?;
            graph.op("Where", &[is_positive, g, scaled])
        }
        "Elu" => {
            // Below 0, y = α(eˣ − 1), whose slope is y + α.
            let is_positive = graph.compare("Greater", x, 0.0)?;
            let slope = graph.offset(y, alpha)?;
            let scaled = graph.mul(g, slope)?;
            graph.op("Where", &[is_positive, g, scaled])
        }
        _ => gelu(tape, step, g),
    }
}

/// `e^(factor · square)`
fn gauss(tape: &mut Tape, square: ValueId, factor: f32) -> Emitted {
    let exponent = tape.graph.scale(square, factor)?;
    tape.graph.op("Exp", &[exponent])
}

/// `Gelu`, exact or by its approximation with `Tanh` (Hendrycks and Gimpel, 2016).
fn gelu(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let square = tape.graph.mul(x, x)?;
    let slope = if step.attributes.text("approximate") == Some("tanh") {
        let graph = &mut tape.graph;
        let scale = (2.0 / PI).sqrt();
        let cubic = 0.044_715;
        let growth = graph.scale(square, cubic)?;
        let growth = graph.offset(growth, 1.0)?;
        let inner = graph.scale(x, scale)?;
        let inner = graph.mul(inner, growth)?;
        let t = graph.op("Tanh", &[inner])?;
        let half = graph.scale(t, 0.5)?;
        let gate = graph.offset(half, 0.5)?;
        let t_square = graph.mul(t, t)?;
        let t_slope = graph.neg(t_square)?;
        let t_slope = graph.offset(t_slope, 1.0)?;
        let inner_slope = graph.scale(square, 3.0 * cubic)?;
        let inner_slope = graph.offset(inner_slope, 1.0)?;
        let half_x = graph.scale(x, 0.5 * scale)?;
        let product = graph.mul(half_x, t_slope)?;
        let product = graph.mul(product, inner_slope)?;
        graph.add(gate, product)?
    } else {
        let scaled = tape.graph.scale(x, FRAC_1_SQRT_2)?;
        let erf = tape.graph.op("Erf", &[scaled])?;
        let half = tape.graph.scale(erf, 0.5)?;
        let gate = tape.graph.offset(half, 0.5)?;
        let bell = gauss(tape, square, -0.5)?;
        let density = tape.graph.scale(bell, 1.0 / (2.0 * PI).sqrt())?;
        let product = tape.graph.mul(x, density)?;
        tape.graph.add(gate, product)?
    };
    tape.graph.mul(g, slope)
}

fn binary(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let a = step.input(0)?;
    let b = step.input(1)?;
    let mut gradients = vec![None, None];
    for (index, operand) in [a, b].into_iter().enumerate() {
        if !tape.is_active(operand) {
            continue;
        }
        let own = match (step.op, index) {
            ("Add", _) | ("Sub", 0) => g,
            ("Sub", _) => {
                // Summing over broadcast axes first leaves fewer elements to negate.
                let summed = tape.graph.unbroadcast(g, b)?;
                tape.graph.neg(summed)?
            }
            ("Mul", 0) => tape.graph.mul(g, b)?,
            ("Mul", _) => tape.graph.mul(g, a)?,
            ("Div", 0) => tape.graph.div(g, b)?,
            ("Div", _) => {
                let quotient = step.outputs[0];
                let graph = &mut tape.graph;
                let product = graph.mul(g, quotient)?;
                let product = graph.div(product, b)?;
                graph.neg(product)?
            }
            _ => extremum(tape, step, g, [operand, if index == 0 { b } else { a }])?,
        };
        gradients[index] = Some(tape.graph.unbroadcast(own, operand)?);
    }
    Ok(gradients)
}

/// `Max` and `Min` of two: the gradient goes to the chosen one, half to each if they are equal.
fn extremum(tape: &mut Tape, step: &Step, g: ValueId, [own, other]: [ValueId; 2]) -> Emitted {
    let graph = &mut tape.graph;
    let is_chosen = graph.op(if step.op == "Max" { "Greater" } else { "Less" }, &[own, other])?;
    let is_tied = graph.op("Equal", &[own, other])?;
    let half = graph.scale(g, 0.5)?;
    let tied = graph.keep_where(is_tied, half)?;
    graph.op("Where", &[is_chosen, g, tied])
}

fn select(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let condition = step.input(0)?;
    let a = step.input(1)?;
    let b = step.input(2)?;
    let mut gradients = vec![None; 3];
    if tape.is_active(a) {
        let kept = tape.graph.keep_where(condition, g)?;
        gradients[1] = Some(tape.graph.unbroadcast(kept, a)?);
    }
    if tape.is_active(b) {
        let zero = tape.graph.scalar(0.0);
        let kept = tape.graph.op("Where", &[condition, zero, g])?;
        gradients[2] = Some(tape.graph.unbroadcast(kept, b)?);
    }
    Ok(gradients)
}

/// `x^c` for a `c` that is not trained.
fn pow(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let x = step.input(0)?;
    let exponent = step.input(1)?;
    if tape.is_active(exponent) {
        return Err("its exponent is trained, which has no rule".into());
    }
    let lower = match tape.graph.uniform_of(exponent) {
        Some(2.0) => x,
        _ => {
            let less = tape.graph.offset(exponent, -1.0)?;
            tape.graph.op("Pow", &[x, less])?
        }
    };
    let slope = tape.graph.mul(lower, exponent)?;
    let product = tape.graph.mul(g, slope)?;
    first(tape.graph.unbroadcast(product, x))
}

fn clip(tape: &mut Tape, step: &Step, g: ValueId) -> Result<ValueId, Reason> {
    let x = step.input(0)?;
    let mut inside = None;
    for (op, bound) in [("Greater", 1), ("Less", 2)] {
        if let Some(bound) = step.inputs.get(bound).copied().flatten() {
            let holds = tape.graph.op(op, &[x, bound])?;
            inside = Some(match inside {
                Some(other) => tape.graph.op("And", &[other, holds])?,
                None => holds,
            });
        }
    }
    inside.map_or(Ok(g), |inside| tape.graph.keep_where(inside, g))
}
