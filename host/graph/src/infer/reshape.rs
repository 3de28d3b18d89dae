//! Operators that move elements without computing.

use super::{Operands, one, resolve_axis};
use crate::attributes::Attribute;
use crate::constant::ElementType;
use crate::dim::{self, Dim, Shape, broadcast, product, text};
use crate::error::Reason;
use crate::graph::Type;
use crate::infer::shape_range;

pub(super) fn types(op: &str, operands: &Operands<'_>) -> Option<Result<Vec<Type>, Reason>> {
    Some(match op {
        "Shape" => shape_of(operands),
        "Size" => one(ElementType::I64, vec![]),
        "Reshape" => same_element(operands, reshape(operands)),
        "Flatten" => same_element(operands, flatten(operands)),
        "Squeeze" => same_element(operands, squeeze(operands)),
        "Unsqueeze" => same_element(operands, unsqueeze(operands)),
        "Transpose" => same_element(operands, transpose(operands)),
        "Expand" => same_element(operands, operands.sizes(1).and_then(|sizes| broadcast(operands.shape(0)?, &sizes))),
        "Tile" => same_element(operands, tile(operands)),
        "Concat" => same_element(operands, concat(operands)),
        "Split" => split(operands),
        "Slice" => same_element(operands, slice(operands)),
        "Pad" => same_element(operands, pad(operands)),
        "Gather" => same_element(operands, gather(operands)),
        "GatherElements" => same_element(operands, operands.shape(1).map(<[Dim]>::to_vec)),
        "ScatterND" | "ScatterElements" => same_element(operands, operands.shape(0).map(<[Dim]>::to_vec)),
        "OneHot" => one_hot(operands),
        "ConstantOfShape" => constant_of_shape(operands),
        "Range" => range(operands),
        "Trilu" => same_element(operands, operands.shape(0).map(<[Dim]>::to_vec)),
        _ => return None,
    })
}

fn same_element(operands: &Operands<'_>, shape: Result<Shape, Reason>) -> Result<Vec<Type>, Reason> {
    one(operands.element(0)?, shape?)
}

fn shape_of(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let (start, end) = shape_range(operands.shape(0)?.len() as i64, operands.attributes);
    one(ElementType::I64, vec![Dim::from(end.saturating_sub(start) as i64)])
}

fn reshape(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let source = operands.shape(0)?;
    let mut target = operands.sizes(1)?;
    let keeps_zero = operands.attributes.int("allowzero", 0) == 1;
    for (axis, size) in target.iter_mut().enumerate().filter(|(_, size)| size.fixed() == Some(0) && !keeps_zero) {
        *size = source.get(axis).ok_or("its shape copies a dimension that the input lacks")?.clone();
    }
    let misfit = || format!("{} cannot be reshaped to {}", text(source), text(&operands.sizes(1).unwrap_or_default()));
    let all = product(source).ok_or_else(misfit)?;
    let free: Vec<usize> = (0..target.len()).filter(|axis| target[*axis].fixed() == Some(-1)).collect();
    match free[..] {
        [] if product(&target).as_ref() == Some(&all) => Ok(target),
        [axis] => {
            target[axis] = Dim::from(1);
            target[axis] = product(&target).and_then(|rest| all.over(&rest)).ok_or_else(misfit)?;
            Ok(target)
        }
        _ => Err(misfit()),
    }
}

fn flatten(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let axis = operands.attributes.int("axis", 1);
    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let axis = usize::try_from(axis).ok().filter(|axis| *axis <= shape.len()).ok_or("it has no such axis")?;
    let (front, back) = shape.split_at(axis);
    let size = |dims| product(dims).ok_or("its shape is too large");
    Ok(vec![size(front)?, size(back)?])
}

fn squeeze(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let dropped = match operands.optional(1) {
        Some(_) => operands.axes(1, shape.len())?,
        None => (0..shape.len()).filter(|axis| shape[*axis] == Dim::from(1)).collect(),
    };
    if let Some(axis) = dropped.iter().find(|axis| shape[**axis] != Dim::from(1)) {
        return Err(format!("axis {axis} of {} is not of size 1", text(shape)));
    }
    let kept = shape.iter().enumerate().filter(|(axis, _)| !dropped.contains(axis));
    Ok(kept.map(|(_, dim)| dim.clone()).collect())
}

fn unsqueeze(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let axes = operands.integers(1)?;
    let rank = shape.len() + axes.len();
    let added = axes.into_iter().map(|axis| resolve_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut rest = shape.iter();
    let dims = (0..rank).map(|axis| if added.contains(&axis) { Some(Dim::from(1)) } else { rest.next().cloned() });
    dims.collect::<Option<_>>().ok_or_else(|| "an axis occurs twice".into())
}

fn transpose(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let perm = operands.attributes.ints("perm").ok_or("it has no permutation")?;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..shape.len() as i64) {
        return Err(format!("{perm:?} is not a permutation of {} dimensions", shape.len()));
    }
    Ok(perm.iter().map(|axis| shape[*axis as usize].clone()).collect())
}

fn tile(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let repeats = operands.sizes(1)?;
    if shape.len() != repeats.len() {
        return Err(format!("{} repeats for {} dimensions", repeats.len(), shape.len()));
    }
    let dims = shape.iter().zip(&repeats).map(|(dim, repeat)| dim.times(repeat));
    dims.collect::<Option<_>>().ok_or_else(|| "its result is too large".into())
}

fn concat(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let first = operands.shape(0)?;
    let axis = operands.axis(0, first.len())?;
    let mut total = 0i64;
    for index in 0..operands.inputs.len() {
        let shape = operands.shape(index)?;
        let differs = |other: usize| other != axis && shape.get(other) != first.get(other);
        if shape.len() != first.len() || (0..first.len()).any(differs) {
            return Err(format!("{} and {} cannot be joined along axis {axis}", text(first), text(shape)));
        }
        let size = shape[axis].fixed().ok_or_else(|| format!("the size of axis {axis} is not known"))?;
        total = total.checked_add(size).ok_or("its result is too large")?;
    }
    let mut joined = first.to_vec();
    if operands.inputs.len() > 1 {
        joined[axis] = Dim::from(total);
    }
    Ok(joined)
}

fn split(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let shape = operands.shape(0)?;
    let axis = operands.axis(0, shape.len())?;
    let sizes = operands.integers(1)?;
    let sum = sizes.iter().try_fold(0i64, |sum, size| sum.checked_add((*size >= 0).then_some(*size)?));
    if sum.is_none() || shape[axis].fixed() != sum || sizes.is_empty() {
        return Err(format!("axis {axis} of {} cannot be split into {sizes:?}", text(shape)));
    }
    let part = |size: &i64| {
        let mut part = shape.to_vec();
        part[axis] = Dim::from(*size);
        Ok(Type::new(operands.element(0)?, part))
    };
    sizes.iter().map(part).collect()
}

fn slice(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let mut shape = operands.shape(0)?.to_vec();
    let starts = operands.integers(1)?;
    let ends = operands.integers(2)?;
    let axes = match operands.optional(3) {
        Some(_) => operands.axes(3, shape.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = match operands.optional(4) {
        Some(_) => operands.integers(4)?,
        None => vec![1; starts.len()],
    };
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err("its starts, ends, axes and steps differ in number".into());
    }
    for (((axis, start), end), step) in axes.into_iter().zip(starts).zip(ends).zip(steps) {
        let dim = shape.get(axis).ok_or("it has more starts than the input has dimensions")?;
        let takes_all = start == 0 && end >= i64::from(i32::MAX) && step == 1;
        if dim.fixed().is_none() && takes_all {
            continue;
        }
        let size = dim.fixed().ok_or_else(|| format!("the size of axis {axis}, `{dim}`, is not known"))?;
        shape[axis] = Dim::from(slice_len(size, start, end, step).ok_or("its step is 0")?);
    }
    Ok(shape)
}

/// Number of elements in a slice of one axis; `None` if the step is 0.
fn slice_len(size: i64, start: i64, end: i64, step: i64) -> Option<i64> {
    let from_front = |position: i64| if position < 0 { position.saturating_add(size) } else { position };
    let start = from_front(start);
    let end = from_front(end);
    let span = match step {
        0 => return None,
        1.. => end.clamp(0, size) - start.clamp(0, size),
        _ => start.clamp(-1, size - 1) - end.clamp(-1, size - 1),
    };
    let step = step.checked_abs()?;
    Some(span.max(0).checked_add(step - 1)? / step)
}

fn pad(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let pads = operands.integers(1)?;
    if pads.len() != 2 * shape.len() {
        return Err(format!("{} pads for {} dimensions", pads.len(), shape.len()));
    }
    let (begins, ends) = pads.split_at(shape.len());
    let dims = shape.iter().zip(begins).zip(ends).map(|((dim, begin), end)| {
        if (*begin, *end) == (0, 0) {
            return Ok(dim.clone());
        }
        let sum = dim.fixed().and_then(|size| size.checked_add(*begin)?.checked_add(*end)).filter(|size| *size >= 0);
        sum.map(Dim::from).ok_or_else(|| format!("a dimension of {} cannot be padded", text(shape)))
    });
    dims.collect()
}

fn gather(operands: &Operands<'_>) -> Result<Shape, Reason> {
    let shape = operands.shape(0)?;
    let indices = operands.shape(1)?;
    let axis = operands.axis(0, shape.len())?;
    Ok([&shape[..axis], indices, &shape[axis + 1..]].concat())
}

fn one_hot(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let depth = operands.sizes(1)?;
    let depth = depth.first().ok_or("it has no depth")?;
    one(operands.element(2)?, [operands.shape(0)?, std::slice::from_ref(depth)].concat())
}

fn constant_of_shape(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let element = match operands.attributes.get("value") {
        Some(Attribute::Tensor(value)) => value.ty(),
        _ => ElementType::F32,
    };
    one(element, operands.sizes(0)?)
}

fn range(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let element = operands.element(0)?;
    let float = |index| operands.graph.constant_of(operands.get(index).ok()?)?.to_floats()?.first().copied();
    if let (Some(start), Some(limit), Some(delta)) = (float(0), float(1), float(2)) {
        let count = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil().max(0.0);
        return one(element, vec![Dim::from(count as i64)]);
    }
    let sizes = [operands.sizes(0)?, operands.sizes(1)?, operands.sizes(2)?].concat();
    let [start, limit, delta] = &sizes[..] else { return Err("its limits are not numbers".into()) };
    let counts_up = start.fixed() == Some(0) && delta.fixed() == Some(1);
    let len = match dim::fixed(&sizes).as_deref() {
        _ if counts_up => Some(limit.clone()),
        Some([start, limit, delta]) if *delta > 0 => limit
            .checked_sub(*start)
            .and_then(|span| span.max(0).checked_add(delta - 1))
            .map(|span| (span / delta).into()),
        _ => None,
    };
    one(element, vec![len.ok_or("its length is not known")?])
}
