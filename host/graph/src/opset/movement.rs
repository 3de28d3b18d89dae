//! Operators that move elements without computing.

use super::{Call, Outputs};
use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim::{Dim, product};
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::resolve_axis;

pub(super) fn apply(call: &mut Call<'_>) -> Outputs {
    match call.node.op {
        "Shape" => {
            let attributes = Attributes::default().with("start", call.int("start", 0));
            let attributes = match call.node.attributes.get("end") {
                Some(end) => attributes.with("end", end.clone()),
                None => attributes,
            };
            call.with(attributes)
        }
        "Squeeze" | "Unsqueeze" => squeeze(call),
        "Flatten" => {
            let axis = call.int("axis", 1);
            as_reshape(call, Attributes::default().with("axis", axis))
        }
        "Reshape" => {
            let keeps = call.int("allowzero", 0);
            call.with(Attributes::default().with("allowzero", keeps))
        }
        "Transpose" => transpose(call),
        "Concat" | "Gather" | "GatherElements" | "OneHot" | "ArgMax" => with_axis(call),
        "Split" => split(call),
        "Slice" => slice(call),
        "Pad" => pad(call),
        "GatherND" => gather_nd(call),
        "Tile" => tile(call),
        "Trilu" => trilu(call),
        "ConstantOfShape" => {
            let value = call.node.attributes.get("value").cloned();
            let value = value.unwrap_or_else(|| Constant::floats(&[1], &[0.0]).into());
            call.with(Attributes::default().with("value", value))
        }
        "CumSum" => {
            let exclusive = call.int("exclusive", 0);
            let reverse = call.int("reverse", 0);
            call.with(Attributes::default().with("exclusive", exclusive).with("reverse", reverse))
        }
        _ => call.with(Attributes::default()),
    }
}

/// A change of shape as a `Reshape`, if the target can be written as numbers.
fn as_reshape(call: &mut Call<'_>, attributes: Attributes) -> Outputs {
    let types = crate::infer::types(&call.tape.graph, call.node.op, &call.inputs, &attributes)?;
    let shape = types[0].shape.clone();
    let is_vector_of_sizes = call.tape.graph.value(call.input(0)?).sizes.is_some();
    if is_vector_of_sizes || shape.iter().filter(|dim| dim.fixed().is_none()).count() > 1 {
        return call.with(attributes);
    }
    let x = call.input(0)?;
    Ok(vec![call.reshape(x, &shape)?])
}

fn squeeze(call: &mut Call<'_>) -> Outputs {
    if let Some(axes) = call.numbers("axes", 1)? {
        let axes = call.tape.graph.integers(&axes);
        call.inputs = vec![call.inputs[0], Some(axes)];
    }
    as_reshape(call, Attributes::default())
}

fn transpose(call: &mut Call<'_>) -> Outputs {
    let rank = call.tape.graph.rank(call.input(0)?) as i64;
    let perm = call.node.attributes.ints("perm").map_or_else(|| (0..rank).rev().collect(), <[i64]>::to_vec);
    call.with(Attributes::default().with("perm", perm))
}

fn with_axis(call: &mut Call<'_>) -> Outputs {
    let rank = call.tape.graph.rank(call.input(0)?);
    let (default, rank) = if call.node.op == "OneHot" { (-1, rank + 1) } else { (0, rank) };
    let axis = resolve_axis(call.int("axis", default), rank)?;
    if call.node.op == "OneHot" && axis + 1 != rank {
        return Err("it puts its classes on another axis than the last, which is not supported".into());
    }
    let attributes = Attributes::default().with("axis", axis as i64);
    match call.node.op {
        "ArgMax" => {
            let keeps = call.int("keepdims", 1);
            let last = call.int("select_last_index", 0);
            call.with(attributes.with("keepdims", keeps).with("select_last_index", last))
        }
        _ => call.with(attributes),
    }
}

fn split(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let shape = call.tape.graph.shape(x);
    let axis = resolve_axis(call.int("axis", 0), shape.len())?;
    let sizes = match call.numbers("split", 1)? {
        Some(sizes) => sizes,
        None => {
            let count = call.int("num_outputs", call.node.outputs.len() as i64).max(1);
            let size = shape[axis].fixed().ok_or("it splits an axis of unknown size")?;
            let part = (size + count - 1) / count;
            (0..count).map(|index| part.min(size - index * part).max(0)).collect()
        }
    };
    let sizes = call.tape.graph.integers(&sizes);
    call.tape.apply("Split", &[Some(x), Some(sizes)], Attributes::default().with("axis", axis as i64))
}

/// Turns starts, ends, axes and steps into inputs, all present.
fn slice(call: &mut Call<'_>) -> Outputs {
    let missing = || "it has no starts or ends".to_owned();
    let starts = call.numbers("starts", 1)?.ok_or_else(missing)?;
    let ends = call.numbers("ends", 2);
    // A slice to a named end, such as `x[:, :batch]`, is recognized by the sizes.
    let ends = match ends {
        Ok(ends) => ends.ok_or_else(missing)?,
        Err(reason) => whole_ends(call, &starts).ok_or(reason)?,
    };
    let axes = call.numbers("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.numbers("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let x = call.inputs[0];
    let inputs: Vec<_> =
        [starts, ends, axes, steps].iter().map(|numbers| Some(call.tape.graph.integers(numbers))).collect();
    call.inputs = [&[x], &inputs[..]].concat();
    call.with(Attributes::default())
}

/// Ends of a slice; a named size that equals the whole axis becomes `i64::MAX`.
fn whole_ends(call: &Call<'_>, starts: &[i64]) -> Option<Vec<i64>> {
    let graph = &call.tape.graph;
    let shape = graph.shape(call.optional(0)?);
    let ends = graph.value(call.optional(2)?).sizes.clone()?;
    let axes = call.numbers("axes", 3).ok()?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let end = |(axis, end): (&i64, &Dim)| match end.fixed() {
        Some(end) => Some(end),
        None => (*end == shape[resolve_axis(*axis, shape.len()).ok()?]).then_some(i64::MAX),
    };
    axes.iter().zip(&ends).map(end).collect()
}

fn pad(call: &mut Call<'_>) -> Outputs {
    let mode = call.node.attributes.text("mode").unwrap_or("constant").to_owned();
    let x = call.input(0)?;
    if mode != "constant" {
        return Err(format!("it pads with mode `{mode}`: only `constant` is supported"));
    }
    let given = call.numbers("pads", 1)?.ok_or("it has no pads")?;
    let value = call.number("value", 2)?.unwrap_or(0.0);
    let rank = call.tape.graph.rank(x);
    let axes = call.numbers("axes", 3)?.unwrap_or_else(|| (0..rank as i64).collect());
    if given.len() != 2 * axes.len() {
        return Err(format!("it has {} pads for {} axes", given.len(), axes.len()));
    }
    let mut pads = vec![0; 2 * rank];
    for (index, axis) in axes.iter().enumerate() {
        let axis = resolve_axis(*axis, rank)?;
        (pads[axis], pads[axis + rank]) = (given[index], given[index + axes.len()]);
    }
    if pads.iter().any(|pad| *pad < 0) {
        return Err("it pads by a negative number: use a slice".into());
    }
    let pads = call.tape.graph.integers(&pads);
    let value = call.scalar(value);
    call.tape.apply("Pad", &[Some(x), Some(pads), Some(value)], Attributes::default().with("mode", "constant"))
}

/// `GatherND` with constant indices: a `Gather` from the leading axes merged into one.
fn gather_nd(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let indices = call.input(1)?;
    if call.int("batch_dims", 0) != 0 {
        return Err("it gathers within batches, which is not supported".into());
    }
    let unknown = "its indices depend on data: they must be constant";
    let index_shape = call.tape.graph.fixed_shape(indices).ok_or(unknown)?;
    let numbers = call.tape.graph.integers_of(indices).ok_or(unknown)?;
    let (depth, front) = index_shape.split_last().ok_or("its indices have no dimensions")?;
    let depth = usize::try_from(*depth).ok().filter(|depth| *depth > 0).ok_or("its indices are empty")?;
    let shape = call.tape.graph.shape(x).to_vec();
    let sizes = shape.get(..depth).and_then(crate::dim::fixed).ok_or("its leading sizes are not known")?;
    let flat = |index: &[i64]| {
        index.iter().zip(&sizes).try_fold(0, |flat, (i, size)| {
            let i = if *i < 0 { i + size } else { *i };
            (0..*size).contains(&i).then(|| flat * size + i)
        })
    };
    let flat: Vec<i64> = numbers.chunks(depth).map(flat).collect::<Option<_>>().ok_or("an index is out of range")?;
    let merged = [&[Dim::from(sizes.iter().product::<i64>())], &shape[depth..]].concat();
    let rows = call.reshape(x, &merged)?;
    let flat = call.tape.graph.constant(Constant::array(front, &flat));
    Ok(vec![call.tape.apply_one("Gather", &[rows, flat], Attributes::default().with("axis", 0))?])
}

/// Repeats every axis along a new axis before it, then merges the two.
fn tile(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let shape = call.tape.graph.shape(x).to_vec();
    let repeats = call.tape.graph.integers_of(call.input(1)?).ok_or("its repeats are not constant")?;
    if repeats.len() != shape.len() || repeats.iter().any(|repeat| *repeat < 1) {
        return Err(format!("its repeats {repeats:?} do not fit {} axes", shape.len()));
    }
    let spread = |factors: &dyn Fn(usize) -> Dim| -> Vec<Dim> {
        (0..shape.len()).flat_map(|axis| [factors(axis), shape[axis].clone()]).collect()
    };
    let narrow = spread(&|_| Dim::from(1));
    let wide = spread(&|axis| Dim::from(repeats[axis]));
    let apart = call.reshape(x, &narrow)?;
    let repeated = expand(call, apart, &wide)?;
    let joined: Option<Vec<Dim>> = wide.chunks(2).map(product).collect();
    Ok(vec![call.reshape(repeated, &joined.ok_or("its result is too large")?)?])
}

/// `x` broadcast to a shape. Sizes known by name only are those of `x`, which `Expand` keeps if the target is 1.
pub(super) fn expand(call: &mut Call<'_>, x: ValueId, shape: &[Dim]) -> Result<ValueId, Reason> {
    let sizes: Vec<i64> = shape.iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
    let target = call.tape.graph.integers(&sizes);
    call.tape.apply_one("Expand", &[x, target], Attributes::default())
}

/// Selects a triangle of matrices of known sizes by a constant mask.
fn trilu(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = call.tape.graph.rank(x);
    let last = call.tape.graph.shape(x).get(rank.saturating_sub(2)..).and_then(crate::dim::fixed);
    let [rows, columns] = last.as_deref().ok_or("the sizes of its matrices are not known")? else {
        return Err("its input is not a matrix".into());
    };
    let diagonal = call.numbers("k", 1)?.and_then(|k| k.first().copied()).unwrap_or(0);
    let is_upper = call.int("upper", 1) == 1;
    let keeps = |row: i64, column: i64| {
        let offset = column - row;
        u8::from(if is_upper { offset >= diagonal } else { offset <= diagonal })
    };
    let mask: Vec<u8> = (0..*rows).flat_map(|row| (0..*columns).map(move |column| keeps(row, column))).collect();
    let mask = Constant::new(ElementType::Bool, vec![*rows, *columns], mask.into()).ok_or("its mask is too large")?;
    let mask = call.tape.graph.constant(mask);
    let zero = if call.is_float(x) { call.scalar(0.0) } else { call.tape.graph.constant(Constant::array(&[], &[0])) };
    Ok(vec![call.tape.apply_one("Where", &[mask, x, zero], Attributes::default())?])
}
