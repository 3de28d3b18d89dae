//! Operators on small tensors whose elements are known.

use super::of_numbers;
use crate::constant::{Constant, ElementType};

/// Integers below this bound are exact as 64-bit floats.
const EXACT_MAX: f64 = (1u64 << 53) as f64;

/// Steps from an element to the next along each axis.
fn strides(dims: &[i64]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as usize;
    }
    strides
}

/// A tensor of `dims` with the elements of `source` at the positions that `position` returns for each index.
fn rearrange(source: &Constant, dims: Vec<i64>, position: impl Fn(&[usize]) -> Option<usize>) -> Option<Constant> {
    let size = source.ty().size();
    let count = dims.iter().product::<i64>() as usize;
    let mut bytes = Vec::with_capacity(count * size);
    let steps = strides(&dims);
    let mut index = vec![0usize; dims.len()];
    for flat in 0..count {
        for axis in 0..dims.len() {
            index[axis] = flat / steps[axis] % dims[axis] as usize;
        }
        let start = position(&index)?.checked_mul(size)?;
        bytes.extend_from_slice(source.bytes().get(start..start + size)?);
    }
    Constant::new(source.ty(), dims, bytes.into())
}

/// Position of the element that broadcasting puts at `index`.
fn broadcast_position(dims: &[i64], steps: &[usize], index: &[usize]) -> usize {
    let skipped = index.len() - dims.len();
    (0..dims.len()).filter(|axis| dims[*axis] != 1).map(|axis| index[axis + skipped] * steps[axis]).sum()
}

pub(super) fn expand(source: &Constant, dims: Vec<i64>) -> Option<Constant> {
    let steps = strides(source.dims());
    rearrange(source, dims, |index| Some(broadcast_position(source.dims(), &steps, index)))
}

pub(super) fn transpose(source: &Constant, dims: Vec<i64>, perm: &[i64]) -> Option<Constant> {
    let steps = strides(source.dims());
    rearrange(source, dims, |index| Some(perm.iter().zip(index).map(|(axis, i)| steps[*axis as usize] * i).sum()))
}

pub(super) fn gather(source: &Constant, indices: &Constant, dims: Vec<i64>, axis: i64) -> Option<Constant> {
    let rank = source.dims().len();
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
    let steps = strides(source.dims());
    let index_steps = strides(indices.dims());
    let numbers = indices.to_integers()?;
    let size = source.dims()[axis];
    let index_rank = indices.dims().len();
    rearrange(source, dims, |index| {
        let at: usize = (0..index_rank).map(|i| index[axis + i] * index_steps[i]).sum();
        let number = numbers[at];
        let number = usize::try_from(if number < 0 { number + size } else { number }).ok()?;
        let before: usize = (0..axis).map(|i| index[i] * steps[i]).sum();
        let behind: usize = (axis + 1..rank).map(|i| index[i + index_rank - 1] * steps[i]).sum();
        (number < size as usize).then_some(before + number * steps[axis] + behind)
    })
}

pub(super) fn concat(parts: &[&Constant], dims: Vec<i64>, axis: i64) -> Option<Constant> {
    let axis = usize::try_from(if axis < 0 { axis + dims.len() as i64 } else { axis }).ok()?;
    let outer = dims[..axis].iter().product::<i64>() as usize;
    let mut bytes = Vec::new();
    for row in 0..outer {
        for part in parts {
            let len = part.bytes().len() / outer;
            bytes.extend_from_slice(&part.bytes()[row * len..][..len]);
        }
    }
    Constant::new(parts[0].ty(), dims, bytes.into())
}

pub(super) fn range(start: &Constant, delta: &Constant, element: ElementType, count: i64) -> Option<Constant> {
    let start = *numbers(start)?.first()?;
    let delta = *numbers(delta)?.first()?;
    let values: Vec<f64> = (0..count).map(|i| start + i as f64 * delta).collect();
    of_numbers(element, vec![count], &values)
}

/// The elements as numbers, if all are exact.
fn numbers(constant: &Constant) -> Option<Vec<f64>> {
    if let Some(integers) = constant.to_integers() {
        let numbers: Vec<f64> = integers.into_iter().map(|n| n as f64).collect();
        return numbers.iter().all(|n| n.abs() < EXACT_MAX).then_some(numbers);
    }
    match constant.ty() {
        ElementType::F64 => Some(bytemuck::pod_collect_to_vec(constant.bytes())),
        _ => Some(constant.to_floats()?.into_iter().map(f64::from).collect()),
    }
}

/// Element-wise operators, broadcast. A sum, product or quotient of two 32-bit floats that is rounded from 64 bits
/// equals the result of the 32-bit operation.
pub(super) fn arithmetic(op: &str, operands: &[&Constant], element: ElementType, dims: Vec<i64>) -> Option<Constant> {
    let values = operands.iter().map(|operand| numbers(operand)).collect::<Option<Vec<_>>>()?;
    let is_integer = !matches!(operands[0].ty(), ElementType::F32 | ElementType::F64);
    let steps: Vec<Vec<usize>> = operands.iter().map(|operand| strides(operand.dims())).collect();
    let own_steps = strides(&dims);
    let count = dims.iter().product::<i64>() as usize;
    let mut index = vec![0usize; dims.len()];
    let mut results = Vec::with_capacity(count);
    let mut arguments = vec![0.0; operands.len()];
    for flat in 0..count {
        for axis in 0..dims.len() {
            index[axis] = flat / own_steps[axis] % dims[axis] as usize;
        }
        for (i, operand) in operands.iter().enumerate() {
            arguments[i] = *values[i].get(broadcast_position(operand.dims(), &steps[i], &index))?;
        }
        results.push(apply(op, &arguments, is_integer)?);
    }
    of_numbers(element, dims, &results)
}

fn apply(op: &str, arguments: &[f64], is_integer: bool) -> Option<f64> {
    let truth = |holds: bool| f64::from(u8::from(holds));
    Some(match (op, arguments) {
        ("Neg", [a]) => -a,
        ("Abs", [a]) => a.abs(),
        ("Sign", [a]) if *a == 0.0 => 0.0,
        ("Sign", [a]) => a.signum(),
        ("Floor", [a]) => a.floor(),
        ("Ceil", [a]) => a.ceil(),
        ("Sqrt", [a]) => a.sqrt(),
        ("Exp", [a]) => a.exp(),
        ("Log", [a]) => a.ln(),
        ("Reciprocal", [a]) => a.recip(),
        ("Not", [a]) => truth(*a == 0.0),
        ("Cast", [a]) => *a,
        ("Add", [a, b]) => a + b,
        ("Sub", [a, b]) => a - b,
        ("Mul", [a, b]) => a * b,
        ("Div", [_, 0.0]) if is_integer => return None,
        ("Div", [a, b]) if is_integer => (a / b).trunc(),
        ("Div", [a, b]) => a / b,
        ("Pow", [a, b]) => a.powf(*b),
        ("Max", [first, rest @ ..]) => rest.iter().fold(*first, |max, a| max.max(*a)),
        ("Min", [first, rest @ ..]) => rest.iter().fold(*first, |min, a| min.min(*a)),
        ("Equal", [a, b]) => truth(a == b),
        ("Greater", [a, b]) => truth(a > b),
        ("GreaterOrEqual", [a, b]) => truth(a >= b),
        ("Less", [a, b]) => truth(a < b),
        ("LessOrEqual", [a, b]) => truth(a <= b),
        ("And", [a, b]) => truth(*a != 0.0 && *b != 0.0),
        ("Or", [a, b]) => truth(*a != 0.0 || *b != 0.0),
        ("Where", [condition, a, b]) => *(if *condition != 0.0 { a } else { b }),
        _ => return None,
    })
}
