//! Convolutions of maps as matrix products, in a form chosen by the geometry.

use super::positions::{Table, pick};
use super::{Map, gemm, map_of, matrix, step, step_reshape, winograd};
use crate::attributes::Attributes;
use crate::constant::Constant;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::Window;
use crate::ops::Emitted;
use crate::tape::Tape;

/// A convolution of a map.
pub(super) struct Conv {
    pub(super) map: Map,
    pub(super) weight: ValueId,
    pub(super) bias: Option<ValueId>,
    pub(super) outputs: i64,
    pub(super) window: Window,
    /// Input channels of one group.
    inputs: i64,
    group: i64,
}

/// What a window reads of a map.
struct Reads {
    /// Taps of the kernel that read any position.
    taps: Vec<usize>,
    /// Positions that these taps read, one tap after the other; `None` outside the map.
    picked: Vec<Option<usize>>,
    /// Number of positions of the result.
    positions: i64,
}

impl Reads {
    fn new(table: &Table) -> Reads {
        let is_read = |tap: &usize| table.rows[*tap].iter().any(Option::is_some);
        let taps: Vec<usize> = (0..table.rows.len()).filter(is_read).collect();
        let picked = taps.iter().flat_map(|tap| table.rows[*tap].clone()).collect();
        Reads { taps, picked, positions: table.output.iter().product() }
    }
}

/// Applies a convolution, unless its patches exceed the budget.
pub(super) fn forward(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Option<Map>, Reason> {
    let (Some(x), Some(weight)) = (inputs[0], inputs.get(1).copied().flatten()) else { return Ok(None) };
    let Some(weights) = tape.graph.fixed_shape(weight) else { return Ok(None) };
    let window = Window::of(attributes, &weights[2..])?;
    let Some(map) = map_of(tape, x, true)? else { return Ok(None) };
    let Some(table) = Table::new(&window, &map.sizes)? else { return Ok(None) };
    let patch_bytes =
        weights[1..].iter().chain(&table.output).fold(4u64, |b, size| b.saturating_mul(size.unsigned_abs()));
    if patch_bytes > tape.lowering.patch_bytes_max {
        return Ok(None);
    }
    let conv = Conv {
        map,
        weight,
        bias: inputs.get(2).copied().flatten(),
        outputs: weights[0],
        window,
        inputs: weights[1],
        group: attributes.int("group", 1),
    };
    let value = conv.apply(tape, &table)?;
    Ok(Some(conv.map.with(value, conv.outputs, table.output)))
}

impl Conv {
    fn apply(&self, tape: &mut Tape, table: &Table) -> Emitted {
        let reads = Reads::new(table);
        let positions = self.map.positions() as usize;
        let is_whole = reads.picked.iter().copied().eq((0..positions).map(Some));
        if self.group == 1 && is_whole && (reads.taps.len() == 1 || reads.positions == 1) {
            return self.dense(tape, &reads);
        }
        if self.group == 1 {
            if let Some(value) = winograd::forward(tape, self)? {
                return self.add_bias(tape, value);
            }
            if self.inputs >= 2 * self.outputs && self.window.is_dense() {
                return self.by_outputs(tape, &reads, table);
            }
        }
        self.by_patches(tape, &reads)
    }

    /// The weight of the taps that read any position, `[O, C·taps]`.
    fn factor(&self, tape: &mut Tape, used: &[usize]) -> Emitted {
        let taps: i64 = self.window.kernel.iter().product();
        let rows = self.outputs * self.inputs;
        let kept = if used.len() as i64 == taps {
            self.weight
        } else {
            // A product with ones and zeros: slices and pads within the last axes are slow.
            let flat = step_reshape(tape, self.weight, &[rows.into(), taps.into()])?;
            let mut ones = vec![0.0; taps as usize * used.len()];
            used.iter().enumerate().for_each(|(column, tap)| ones[tap * used.len() + column] = 1.0);
            let ones = tape.graph.constant(Constant::floats(&[taps, used.len() as i64], &ones));
            step(tape, "MatMul", &[flat, ones])?
        };
        step_reshape(tape, kept, &[self.outputs.into(), (self.inputs * used.len() as i64).into()])
    }

    fn bias_column(&self, tape: &mut Tape) -> Result<Option<ValueId>, Reason> {
        let shape = [self.outputs.into(), 1.into()];
        self.bias.map(|bias| step_reshape(tape, bias, &shape)).transpose()
    }

    fn add_bias(&self, tape: &mut Tape, value: ValueId) -> Emitted {
        match self.bias {
            None => Ok(value),
            Some(bias) => {
                let bias = step_reshape(tape, bias, &[self.outputs.into(), 1.into(), 1.into()])?;
                step(tape, "Add", &[value, bias])
            }
        }
    }

    fn output(&self, tape: &mut Tape, product: ValueId, positions: i64) -> Emitted {
        step_reshape(tape, product, &[self.outputs.into(), positions.into(), self.map.batch.clone()])
    }

    /// One product over the whole map: a 1×1 kernel, a kernel with one used tap on a 1×1 map, or one as large as the
    /// map.
    fn dense(&self, tape: &mut Tape, reads: &Reads) -> Emitted {
        let factor = self.factor(tape, &reads.taps)?;
        let columns = matrix(tape, &self.map, self.inputs * reads.taps.len() as i64)?;
        let bias = self.bias_column(tape)?;
        let product = gemm(tape, factor, columns, bias)?;
        self.output(tape, product, reads.positions)
    }

    /// All patches side by side, `[C·taps, positions·N]`, by group.
    fn by_patches(&self, tape: &mut Tape, reads: &Reads) -> Emitted {
        let patches = pick(tape, self.map.value, &reads.picked)?;
        let columns = Dim::from(reads.positions).times(&self.map.batch).ok_or("its batch is too large")?;
        let rows = self.inputs * reads.taps.len() as i64;
        let factor = self.factor(tape, &reads.taps)?;
        if self.group == 1 {
            let patches = step_reshape(tape, patches, &[rows.into(), columns])?;
            let bias = self.bias_column(tape)?;
            let product = gemm(tape, factor, patches, bias)?;
            return self.output(tape, product, reads.positions);
        }
        let patches = step_reshape(tape, patches, &[self.group.into(), rows.into(), columns])?;
        let factor = step_reshape(tape, factor, &[self.group.into(), (self.outputs / self.group).into(), rows.into()])?;
        let product = step(tape, "MatMul", &[factor, patches])?;
        let value = self.output(tape, product, reads.positions)?;
        self.add_bias(tape, value)
    }

    /// For few outputs of many channels: multiplies each tap with the whole map, `[O·taps, positions·N]`, then adds up
    /// the products of each output. The copy is as large as the outputs, not the inputs.
    fn by_outputs(&self, tape: &mut Tape, reads: &Reads, table: &Table) -> Emitted {
        let taps = reads.taps.len() as i64;
        let size = self.map.positions();
        let factor = self.factor(tape, &reads.taps)?;
        let apart = step_reshape(tape, factor, &[self.outputs.into(), self.inputs.into(), taps.into()])?;
        let turned = tape.step("Transpose", &[apart], Attributes::default().with("perm", vec![0, 2, 1]))?;
        let rows = step_reshape(tape, turned, &[(self.outputs * taps).into(), self.inputs.into()])?;
        let columns = matrix(tape, &self.map, self.inputs)?;
        let products = gemm(tape, rows, columns, None)?;
        let products =
            step_reshape(tape, products, &[self.outputs.into(), (taps * size).into(), self.map.batch.clone()])?;
        let met = |(index, tap): (usize, &usize)| {
            table.rows[*tap].iter().map(move |at| at.map(|at| index * size as usize + at)).collect::<Vec<_>>()
        };
        let picked: Vec<Option<usize>> = reads.taps.iter().enumerate().flat_map(met).collect();
        let picked = pick(tape, products, &picked)?;
        let apart = [self.outputs.into(), taps.into(), reads.positions.into(), self.map.batch.clone()];
        let picked = step_reshape(tape, picked, &apart)?;
        let axes = tape.graph.integers(&[1]);
        let reduction = Attributes::default().with("keepdims", 0).with("noop_with_empty_axes", 0);
        let sum = tape.step("ReduceSum", &[picked, axes], reduction)?;
        self.add_bias(tape, sum)
    }
}
