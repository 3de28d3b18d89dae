//! Maxima and means over windows of maps.

use super::positions::{Table, emit, lead_back, marks, pick};
use super::{Map, map_of, step_reshape};
use crate::attributes::Attributes;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::Window;
use crate::ops::Emitted;
use crate::tape::{Step, Tape};

/// Padding of a maximum: finite, and less than any activation.
const LOWEST: f32 = -3e38;

fn table(map: &Map, attributes: &Attributes) -> Result<Option<Table>, Reason> {
    let kernel = attributes.ints("kernel_shape").ok_or("it has no kernel")?;
    Table::new(&Window::of(attributes, kernel)?, &map.sizes)
}

/// The element-wise maximum over the taps.
pub(super) fn maximum(tape: &mut Tape, x: ValueId, attributes: &Attributes) -> Result<Option<Map>, Reason> {
    let Some(map) = map_of(tape, x, false)? else { return Ok(None) };
    let Some(table) = table(&map, attributes)? else { return Ok(None) };
    let taps = table.rows.iter().map(|row| emit(tape, map.value, row, LOWEST));
    let taps = taps.collect::<Result<Vec<_>, _>>()?;
    let value = tape.graph.op("Max", &taps)?;
    tape.record(Step {
        op: "MapMaxPool",
        inputs: vec![Some(map.value)],
        outputs: vec![value],
        attributes: marks(&table.flat()),
        saved: taps,
        origin: tape.graph.origin.clone(),
    });
    Ok(Some(map.with(value, map.channels, table.output)))
}

/// Routes the gradient to the first tap that equals the maximum, as `MaxPool` does.
pub(in crate::rules) fn maximum_backward(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let x = step.input(0)?;
    let y = step.outputs[0];
    let mut rest = g;
    let mut parts = Vec::with_capacity(step.saved.len());
    for (index, tap) in step.saved.iter().enumerate() {
        if index + 1 == step.saved.len() {
            // The last tap gets what no earlier tap has taken.
            parts.push(rest);
            break;
        }
        let is_largest = tape.graph.op("Equal", &[*tap, y])?;
        let own = tape.graph.keep_where(is_largest, rest)?;
        rest = tape.graph.sub(rest, own)?;
        parts.push(own);
    }
    let joined = tape.graph.concat(&parts, 1)?;
    let table = step.attributes.ints("table").ok_or("it has no table")?;
    let size = tape.graph.shape(x)[1].fixed().ok_or("the positions of a map are not known")?;
    lead_back(tape, joined, table, size)
}

pub(super) fn average(tape: &mut Tape, x: ValueId, attributes: &Attributes) -> Result<Option<Map>, Reason> {
    let Some(map) = map_of(tape, x, false)? else { return Ok(None) };
    let Some(table) = table(&map, attributes)? else { return Ok(None) };
    let is_partial = table.flat().contains(&None);
    if is_partial && (attributes.int("ceil_mode", 0) == 1 || attributes.int("count_include_pad", 0) == 0) {
        return Ok(None);
    }
    let taps = table.rows.len() as i64;
    let positions = table.output.iter().product::<i64>();
    let picked = pick(tape, map.value, &table.flat())?;
    let apart = [map.channels.into(), taps.into(), positions.into(), map.batch.clone()];
    let picked = step_reshape(tape, picked, &apart)?;
    let value = mean(tape, picked)?;
    Ok(Some(map.with(value, map.channels, table.output)))
}

/// The mean over axis 1, which is dropped.
fn mean(tape: &mut Tape, x: ValueId) -> Emitted {
    let axes = tape.graph.integers(&[1]);
    let attributes = Attributes::default().with("keepdims", 0).with("noop_with_empty_axes", 0);
    tape.step("ReduceMean", &[x, axes], attributes)
}

/// The mean over all positions.
pub(super) fn global(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Option<Map>, Reason> {
    let (Some(x), Some(axes)) = (inputs[0], inputs.get(1).copied().flatten()) else { return Ok(None) };
    let (Some(map), Some(axes)) = (map_of(tape, x, false)?, tape.graph.integers_of(axes)) else { return Ok(None) };
    if !axes.iter().copied().eq(2..map.sizes.len() as i64 + 2) || map.sizes.is_empty() {
        return Ok(None);
    }
    let mean = if map.positions() == 1 { map.value } else { mean(tape, map.value)? };
    let value = step_reshape(tape, mean, &[map.channels.into(), 1.into(), map.batch.clone()])?;
    let sizes = if attributes.int("keepdims", 1) == 1 { vec![1; map.sizes.len()] } else { vec![] };
    Ok(Some(map.with(value, map.channels, sizes)))
}
