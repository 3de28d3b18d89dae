//! Types of matrix products: `MatMul` and `Gemm`.

use super::{Operands, one};
use crate::constant::ElementType;
use crate::dim::{broadcast, text};
use crate::error::Reason;
use crate::graph::Type;

pub(super) fn types(op: &str, operands: &Operands<'_>) -> Option<Result<Vec<Type>, Reason>> {
    Some(match op {
        "MatMul" => matmul(operands),
        "Gemm" => gemm(operands),
        _ => return None,
    })
}

fn matmul(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let a = operands.float_shape(0)?;
    let b = operands.float_shape(1)?;
    let misfit = || format!("{} and {} cannot be multiplied", text(a), text(b));
    let ([front_a @ .., rows, inner], [front_b @ .., inner_b, columns]) = (a, b) else { return Err(misfit()) };
    if inner != inner_b {
        return Err(misfit());
    }
    let mut shape = broadcast(front_a, front_b).map_err(|_| misfit())?;
    shape.extend([rows.clone(), columns.clone()]);
    one(ElementType::F32, shape)
}

fn gemm(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let a = operands.float_shape(0)?;
    let b = operands.float_shape(1)?;
    let misfit = || format!("{} and {} cannot be multiplied", text(a), text(b));
    let ([a0, a1], [b0, b1]) = (a, b) else { return Err(misfit()) };
    let is_set = |name| operands.attributes.int(name, 0) != 0;
    let (rows, inner) = if is_set("transA") { (a1, a0) } else { (a0, a1) };
    let (inner_b, columns) = if is_set("transB") { (b1, b0) } else { (b0, b1) };
    if inner != inner_b {
        return Err(misfit());
    }
    let shape = vec![rows.clone(), columns.clone()];
    if operands.optional(2).is_some() && broadcast(operands.float_shape(2)?, &shape)? != shape {
        return Err(format!("the addend does not fit the product's shape {}", text(&shape)));
    }
    one(ElementType::F32, shape)
}
