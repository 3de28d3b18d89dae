//! Operators that move elements: their gradients move them back.

use super::{Forward, Gradients, first};
use crate::attributes::Attributes;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::resolve_axis;
use crate::ops::{AxisSlice, Emitted};
use crate::tape::{Step, Tape};

/// Most bytes of zeros to scatter into, such as the gradient of an embedding, that are written out as a constant.
const ZEROS_BYTES_MAX: i64 = 1 << 12;

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    let x = match step.input(0) {
        Ok(x) => x,
        Err(reason) => return Some(Err(reason)),
    };
    Some(match step.op {
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => first(tape.graph.reshape_like(g, x)),
        "Expand" => first(tape.graph.unbroadcast(g, x)),
        "Transpose" => first(transpose(tape, step, g)),
        "Concat" => concat(tape, step, g),
        "Slice" => first(slice(tape, step, g)),
        "Pad" => first(pad(tape, step, g)),
        "Gather" => first(gather(tape, step, g)),
        "GatherElements" => first(gather_elements(tape, step, g)),
        _ => return None,
    })
}

fn transpose(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let perm = step.attributes.ints("perm").ok_or("it has no permutation")?;
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, from)| inverse[*from as usize] = to);
    tape.graph.transpose(g, &inverse)
}

fn concat(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let axis = resolve_axis(step.attributes.int("axis", 0), tape.graph.rank(g))?;
    let size = |index| tape.graph.shape(step.input(index)?)[axis].fixed().ok_or("a size is not known".to_owned());
    let sizes = (0..step.inputs.len()).map(size).collect::<Result<Vec<_>, _>>()?;
    Ok(tape.graph.split(g, &sizes, axis)?.into_iter().map(Some).collect())
}

/// `Split` has one gradient per output; missing ones are zeros.
pub(super) fn split(tape: &mut Tape, step: &Step, gradients: &[Option<ValueId>]) -> Gradients {
    let axis = resolve_axis(step.attributes.int("axis", 0), tape.graph.rank(step.input(0)?))?;
    let zero = tape.graph.scalar(0.0);
    let mut parts = Vec::with_capacity(gradients.len());
    for (gradient, output) in gradients.iter().zip(&step.outputs) {
        parts.push(match gradient {
            Some(gradient) => *gradient,
            None => tape.graph.expand_like(zero, *output)?,
        });
    }
    first(tape.graph.concat(&parts, axis))
}

/// Elements outside the slice get a gradient of 0.
fn slice(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let shape = tape.graph.shape(x).to_vec();
    let known = |index| {
        let id = step.input(index)?;
        tape.graph.integers_of(id).ok_or_else(|| "its ranges are not constant".to_owned())
    };
    let starts = known(1)?;
    let axes = known(3)?;
    let steps = known(4)?;
    let mut begins = vec![0; shape.len()];
    let mut ends = vec![0; shape.len()];
    let mut spread = g;
    for ((start, axis), stride) in starts.into_iter().zip(axes).zip(steps) {
        let axis = resolve_axis(axis, shape.len())?;
        let (Some(size), Some(taken)) = (shape[axis].fixed(), tape.graph.shape(g)[axis].fixed()) else { continue };
        if taken == 0 {
            return Err("it takes no elements".into());
        }
        if stride < 0 {
            spread = flip(tape, spread, axis, taken)?;
        }
        // The first element taken, counted from the front, and the distance to the next.
        let start = if start < 0 { start.saturating_add(size) } else { start }.clamp(0, size - 1);
        let gap = stride.abs();
        let low = if stride < 0 { start - (taken - 1) * stride.abs() } else { start };
        spread = dilate(tape, spread, axis, gap)?;
        (begins[axis], ends[axis]) = (low, size - low - ((taken - 1) * gap + 1));
    }
    tape.graph.pad(spread, &begins, &ends, 0.0)
}

fn flip(tape: &mut Tape, x: ValueId, axis: usize, size: i64) -> Emitted {
    tape.graph.slice(x, &[AxisSlice { axis, start: size - 1, end: -size - 1, step: -1 }])
}

/// `x` with `gap − 1` zeros between neighbours along `axis`.
fn dilate(tape: &mut Tape, x: ValueId, axis: usize, gap: i64) -> Emitted {
    let shape = tape.graph.shape(x).to_vec();
    let Some(size) = shape[axis].fixed().filter(|size| gap > 1 && *size > 1) else { return Ok(x) };
    let mut apart = shape.clone();
    apart.insert(axis + 1, Dim::from(1));
    let mut begins = vec![0; apart.len()];
    let mut ends = vec![0; apart.len()];
    begins[axis + 1] = 0;
    ends[axis + 1] = gap - 1;
    let column = tape.graph.reshape(x, &apart)?;
    let padded = tape.graph.pad(column, &begins, &ends, 0.0)?;
    let mut joined = shape;
    joined[axis] = Dim::from(size * gap);
    let wide = tape.graph.reshape(padded, &joined)?;
    tape.graph.slice(wide, &[AxisSlice { axis, start: 0, end: (size - 1) * gap + 1, step: 1 }])
}

fn pad(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let shape = tape.graph.shape(step.input(0)?).to_vec();
    let pads = tape.graph.integers_of(step.input(1)?).ok_or("its pads are not constant")?;
    let inside = |(axis, dim): (usize, &Dim)| {
        let start = pads[axis];
        Some(AxisSlice { axis, start, end: start + dim.fixed()?, step: 1 })
    };
    let slices: Vec<_> = shape.iter().enumerate().filter_map(inside).collect();
    tape.graph.slice(g, &slices)
}

/// Moving axes of size 1 is a change of shape, and a transposed broadcast is the broadcast of a transpose.
pub(super) fn transpose_forward(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Forward, Reason> {
    let types = crate::infer::types(&tape.graph, "Transpose", inputs, attributes)?;
    let (Some(x), Some(perm)) = (inputs[0], attributes.ints("perm")) else { return Ok(Forward::Plain) };
    let shape = tape.graph.shape(x).to_vec();
    let moved = perm.iter().filter(|axis| shape[**axis as usize] != Dim::from(1));
    let target: Vec<i64> = types[0].shape.iter().map(|dim| dim.fixed().unwrap_or(-1)).collect();
    if moved.is_sorted() && target.iter().filter(|size| **size == -1).count() <= 1 && shape.contains(&Dim::from(1)) {
        let target = tape.graph.integers(&target);
        let reshaped = tape.apply_one("Reshape", &[x, target], Attributes::default().with("allowzero", 0))?;
        return Ok(Forward::Composed(vec![reshaped]));
    }
    let Some(source) = tape.graph.producer(x).filter(|node| node.op == "Expand").and_then(|node| node.inputs[0]) else {
        return Ok(Forward::Plain);
    };
    if tape.graph.rank(source) != shape.len() {
        return Ok(Forward::Plain);
    }
    let turned = tape.apply_one("Transpose", &[source], attributes.clone())?;
    let wide: Vec<i64> = types[0].shape.iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
    let wide = tape.graph.integers(&wide);
    Ok(Forward::Composed(vec![tape.apply_one("Expand", &[turned, wide], Attributes::default())?]))
}

/// Gathering a single row repeatedly is a broadcast.
pub(super) fn gather_forward(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Forward, Reason> {
    let [Some(x), Some(indices)] = inputs else { return Ok(Forward::Plain) };
    let shape = tape.graph.shape(*x).to_vec();
    let axis = attributes.int("axis", 0) as usize;
    let single = shape.get(axis) == Some(&Dim::from(1)) && tape.graph.value(*x).sizes.is_none();
    let Some(numbers) = tape.graph.integers_of(*indices).filter(|_| single) else { return Ok(Forward::Plain) };
    if numbers.iter().any(|index| !(-1..=0).contains(index)) {
        return Err("an index is out of range".into());
    }
    let index_shape = tape.graph.shape(*indices).to_vec();
    let ones = vec![Dim::from(1); index_shape.len()];
    let narrow = [&shape[..axis], &ones, &shape[axis + 1..]].concat();
    let wide = [&shape[..axis], &index_shape, &shape[axis + 1..]].concat();
    let numbers = |dims: &[Dim], unknown| dims.iter().map(|dim| dim.fixed().unwrap_or(unknown)).collect::<Vec<_>>();
    let narrow = numbers(&narrow, -1);
    let wide = numbers(&wide, 1);
    if narrow.iter().filter(|size| **size == -1).count() > 1 {
        return Ok(Forward::Plain);
    }
    let narrow = tape.graph.integers(&narrow);
    let wide = tape.graph.integers(&wide);
    let column = tape.apply_one("Reshape", &[*x, narrow], Attributes::default().with("allowzero", 0))?;
    Ok(Forward::Composed(vec![tape.apply_one("Expand", &[column, wide], Attributes::default())?]))
}

/// Rows of a table, as in an embedding: each gets the sum of the gradients of its uses.
fn gather(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let table = step.input(0)?;
    let indices = step.input(1)?;
    let rank = tape.graph.rank(table);
    let index_rank = tape.graph.rank(indices);
    let axis = resolve_axis(step.attributes.int("axis", 0), rank)?;
    let shape = tape.graph.shape(table).to_vec();
    let sizes = crate::dim::fixed(&shape).ok_or("the sizes of its table are not known")?;
    // Moves the gathered axes to the front, then makes one row of each index.
    let front = (axis..axis + index_rank).chain(0..axis).chain(axis + index_rank..rank - 1 + index_rank);
    let moved = tape.graph.transpose(g, &front.collect::<Vec<_>>())?;
    let rest: Vec<i64> = sizes.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, size)| *size).collect();
    let width = rest.iter().product::<i64>();
    let rows = flatten(tape, moved, &[-1, width])?;
    let column = flatten(tape, indices, &[-1, 1])?;
    let zeros = zeros(tape, &[sizes[axis], width])?;
    let scattered =
        tape.graph.op_with("ScatterND", &[zeros, column, rows], Attributes::default().with("reduction", "add"))?;
    let apart: Vec<Dim> = std::iter::once(sizes[axis]).chain(rest).map(Dim::from).collect();
    let apart = tape.graph.reshape(scattered, &apart)?;
    let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
    tape.graph.transpose(apart, &back)
}

fn gather_elements(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let indices = step.input(1)?;
    let zero = tape.graph.scalar(0.0);
    let zeros = tape.graph.expand_like(zero, x)?;
    let attributes = Attributes::default().with("axis", step.attributes.int("axis", 0)).with("reduction", "add");
    tape.graph.op_with("ScatterElements", &[zeros, indices, g], attributes)
}

fn flatten(tape: &mut Tape, x: ValueId, target: &[i64]) -> Emitted {
    let target = tape.graph.integers(target);
    tape.graph.op_with("Reshape", &[x, target], Attributes::default().with("allowzero", 0))
}

/// Zeros of known sizes: written out if they are few, otherwise created when the graph runs.
pub(super) fn zeros(tape: &mut Tape, sizes: &[i64]) -> Emitted {
    if sizes.iter().product::<i64>() * 4 <= ZEROS_BYTES_MAX {
        let zeros = vec![0.0; sizes.iter().product::<i64>() as usize];
        return Ok(tape.graph.constant(crate::constant::Constant::floats(sizes, &zeros)));
    }
    let target = tape.graph.integers(sizes);
    let zero = crate::constant::Constant::floats(&[1], &[0.0]);
    tape.graph.op_with("ConstantOfShape", &[target], Attributes::default().with("value", zero))
}
