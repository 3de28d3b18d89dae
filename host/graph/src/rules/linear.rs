//! Gradients of matrix products: `MatMul` and `Gemm`.

use super::Gradients;
use crate::dim::Dim;
use crate::graph::ValueId;
use crate::ops::{Emitted, Factor};
use crate::tape::{Step, Tape};

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    Some(match step.op {
        "MatMul" => matmul(tape, step, g),
        "Gemm" => gemm(tape, step, g),
        _ => return None,
    })
}

fn matmul(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let a = step.input(0)?;
    let b = step.input(1)?;
    let mut gradients = vec![None, None];
    let is_matrix = tape.graph.rank(b) == 2;
    if tape.is_active(a) {
        gradients[0] = Some(if is_row(tape, a) && tape.graph.rank(a) == tape.graph.rank(b) && !is_matrix {
            // A single row, as a depthwise kernel has: transposing `b` would cost more than the product.
            let product = tape.graph.mul(b, g)?;
            let last = tape.graph.rank(product) - 1;
            let sum = tape.graph.reduce("ReduceSum", product, &[last], false)?;
            tape.graph.reshape_like(sum, a)?
        } else {
            let transposed = tape.graph.transpose_last(b)?;
            let product = tape.graph.matmul(g, transposed)?;
            tape.graph.unbroadcast(product, a)?
        });
    }
    if tape.is_active(b) {
        let own = if is_matrix {
            // One product over all rows instead of one per batch.
            let rows = Factor { value: rows_of(tape, a)?, is_transposed: true };
            let products = Factor { value: rows_of(tape, g)?, is_transposed: false };
            tape.graph.gemm(rows, products)?
        } else {
            let transposed = tape.graph.transpose_last(a)?;
            let product = tape.graph.matmul(transposed, g)?;
            tape.graph.unbroadcast(product, b)?
        };
        gradients[1] = Some(own);
    }
    Ok(gradients)
}

/// Whether every matrix of a stack has a single row, and no axis is broadcast.
fn is_row(tape: &Tape, a: ValueId) -> bool {
    let shape = tape.graph.shape(a);
    let (front, last) = shape.split_at(shape.len() - 2);
    last[0] == Dim::from(1) && front.iter().all(|dim| *dim != Dim::from(1))
}

/// Merges all leading axes into one.
fn rows_of(tape: &mut Tape, x: ValueId) -> Emitted {
    let width = tape.graph.shape(x).last().and_then(Dim::fixed).ok_or("the width of a matrix is not known")?;
    if tape.graph.rank(x) == 2 {
        return Ok(x);
    }
    let target = tape.graph.integers(&[-1, width]);
    tape.graph.op_with("Reshape", &[x, target], crate::attributes::Attributes::default().with("allowzero", 0))
}

fn gemm(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let is_set = |name| step.attributes.int(name, 0) != 0;
    let a = Factor { value: step.input(0)?, is_transposed: is_set("transA") };
    let b = Factor { value: step.input(1)?, is_transposed: is_set("transB") };
    let alpha = step.attributes.float("alpha", 1.0);
    let beta = step.attributes.float("beta", 1.0);
    let mut gradients = vec![None; 3];
    let scaled = Factor { value: tape.graph.scale(g, alpha)?, is_transposed: false };
    if tape.is_active(a.value) {
        gradients[0] = Some(if a.is_transposed {
            tape.graph.gemm(b, scaled.transpose())?
        } else {
            tape.graph.gemm(scaled, b.transpose())?
        });
    }
    if tape.is_active(b.value) {
        gradients[1] = Some(if b.is_transposed {
            tape.graph.gemm(scaled.transpose(), a)?
        } else {
            tape.graph.gemm(a.transpose(), scaled)?
        });
    }
    if let Some(c) = step.inputs.get(2).copied().flatten().filter(|c| tape.is_active(*c)) {
        let scaled = tape.graph.scale(g, beta)?;
        gradients[2] = Some(tape.graph.unbroadcast(scaled, c)?);
    }
    Ok(gradients)
}
