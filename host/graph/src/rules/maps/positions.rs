//! Picks positions of a map by a table, and propagates gradients back by its inverse: without scattering, and with the
//! same sums in the same order.

use crate::attributes::Attributes;
use crate::constant::Constant;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::Window;
use crate::ops::Emitted;
use crate::rules::convolution::taps;
use crate::tape::{Step, Tape};

/// Most positions of a map, and most entries of a table: enough for 49 taps over 224×224 positions, while a file that
/// claims absurd sizes costs no memory.
pub(super) const POSITIONS_MAX: i64 = 1 << 22;

/// The position that each tap of a window reads for each output: `[tap][output]`; `None` outside the map.
pub(super) struct Table {
    pub(super) rows: Vec<Vec<Option<usize>>>,
    /// Sizes of the outputs.
    pub(super) output: Vec<i64>,
}

impl Table {
    /// The table of a window over a map of the given sizes; `None` if it would be too long.
    pub(super) fn new(window: &Window, sizes: &[i64]) -> Result<Option<Table>, Reason> {
        let output = (0..sizes.len()).map(|axis| window.output(axis, sizes[axis])).collect::<Result<Vec<_>, _>>()?;
        let mut sizes_of_table = output.iter().chain(&window.kernel);
        let entries = sizes_of_table.try_fold(1i64, |count, size| count.checked_mul(*size));
        if entries.is_none_or(|entries| entries > POSITIONS_MAX) {
            return Ok(None);
        }
        let at = |tap: &[i64], position: &[i64]| {
            position.iter().enumerate().try_fold(0usize, |flat, (axis, p)| {
                let along = p * window.strides[axis] + tap[axis] * window.dilations[axis] - window.begins[axis];
                (0..sizes[axis]).contains(&along).then(|| flat * sizes[axis] as usize + along as usize)
            })
        };
        let outputs = taps(&output);
        let row = |tap: Vec<i64>| outputs.iter().map(|position| at(&tap, position)).collect();
        Ok(Some(Table { rows: taps(&window.kernel).into_iter().map(row).collect(), output }))
    }

    /// All rows, one after the other.
    pub(super) fn flat(&self) -> Vec<Option<usize>> {
        self.rows.concat()
    }
}

/// `[A, table, N]` out of `[A, P, N]`, with zeros for `None`.
pub(super) fn pick(tape: &mut Tape, x: ValueId, table: &[Option<usize>]) -> Emitted {
    let picked = emit(tape, x, table, 0.0)?;
    tape.record(Step {
        op: "Positions",
        inputs: vec![Some(x)],
        outputs: vec![picked],
        attributes: marks(table),
        saved: vec![],
        origin: tape.graph.origin.clone(),
    });
    Ok(picked)
}

/// The nodes of [`pick`] for a rule that propagates gradients itself, with `fill` for `None`.
pub(super) fn emit(tape: &mut Tape, x: ValueId, table: &[Option<usize>], fill: f32) -> Emitted {
    let size = tape.graph.shape(x)[1].fixed().ok_or("the positions of a map are not known")?;
    if table.iter().copied().eq((0..size as usize).map(Some)) {
        return Ok(x);
    }
    let source = if table.contains(&None) { tape.graph.pad(x, &[0, 0, 0], &[0, 1, 0], fill)? } else { x };
    let indices: Vec<i64> = table.iter().map(|at| at.map_or(size, |at| at as i64)).collect();
    gather(tape, source, &[indices.len() as i64], &indices)
}

/// A table as an attribute, with −1 for `None`.
pub(super) fn marks(table: &[Option<usize>]) -> Attributes {
    let marks: Vec<i64> = table.iter().map(|at| at.map_or(-1, |at| at as i64)).collect();
    Attributes::default().with("table", marks)
}

fn gather(tape: &mut Tape, x: ValueId, dims: &[i64], indices: &[i64]) -> Emitted {
    let indices = tape.graph.constant(Constant::array(dims, indices));
    tape.graph.op_with("Gather", &[x, indices], Attributes::default().with("axis", 1))
}

/// Every position gets the sum of the gradients of its picks.
pub(in crate::rules) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Emitted {
    let table = step.attributes.ints("table").ok_or("it has no table")?;
    let size = tape.graph.shape(step.input(0)?)[1].fixed().ok_or("the positions of a map are not known")?;
    lead_back(tape, g, table, size)
}

/// Sums gradients `[A, table, N]` to `[A, size, N]`.
pub(super) fn lead_back(tape: &mut Tape, g: ValueId, table: &[i64], size: i64) -> Emitted {
    let mut sources: Vec<Vec<i64>> = vec![Vec::new(); size as usize];
    for (from, to) in table.iter().enumerate() {
        if let Ok(to) = usize::try_from(*to) {
            sources[to].push(from as i64);
        }
    }
    let most = sources.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let lacks = sources.iter().any(|sources| sources.len() < most);
    let padded = if lacks { tape.graph.pad(g, &[0, 0, 0], &[0, 1, 0], 0.0)? } else { g };
    let none = table.len() as i64;
    let indices: Vec<i64> =
        (0..most).flat_map(|k| sources.iter().map(move |sources| sources.get(k).copied().unwrap_or(none))).collect();
    if most == 1 {
        return gather(tape, padded, &[size], &indices);
    }
    let gathered = gather(tape, padded, &[most as i64, size], &indices)?;
    tape.graph.reduce("ReduceSum", gathered, &[1], false)
}
