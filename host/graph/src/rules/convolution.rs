//! Convolutions over any number of spatial dimensions, grouped, strided, dilated and padded.
//!
//! With output size `o = (x + begin + end − d(k−1) − 1)/s + 1`, the last `r` elements (the remainder of the division)
//! are never read: the transposed convolution appends them, the weight gradient drops them.

use super::Gradients;
use crate::attributes::Attributes;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::Window;
use crate::lowering::{InputGradient, WeightGradient};
use crate::ops::{AxisSlice, Emitted};
use crate::tape::{Step, Tape};

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    Some(match step.op {
        "Conv" => conv(tape, step, g),
        "ConvTranspose" => transposed(tape, step, g),
        _ => return None,
    })
}

/// The values of a convolution.
struct Operands {
    /// Input of the forward convolution.
    x: ValueId,
    weight: ValueId,
    /// The gradient of the output.
    g: ValueId,
}

/// A convolution, and what its gradient needs.
struct Conv {
    operands: Operands,
    window: Window,
    group: i64,
    /// Sizes of `x` and `g` after the channels.
    input: Vec<i64>,
    output: Vec<i64>,
    /// Output channels, input channels of one group.
    channels: (i64, i64),
}

impl Conv {
    fn new(tape: &Tape, operands: Operands, attributes: &Attributes) -> Result<Conv, Reason> {
        let sizes = |id| tape.graph.fixed_shape_from(id, 2).ok_or("its sizes are not known");
        let weights = tape.graph.fixed_shape(operands.weight).ok_or("the sizes of its weight are not known")?;
        Ok(Conv {
            window: Window::of(attributes, &weights[2..])?,
            group: attributes.int("group", 1),
            input: sizes(operands.x)?,
            output: sizes(operands.g)?,
            channels: (weights[0], weights[1]),
            operands,
        })
    }

    fn rank(&self) -> usize {
        self.input.len()
    }

    fn is_pointwise(&self) -> bool {
        self.window.kernel.iter().all(|size| *size == 1) && !self.window.is_padded()
    }

    fn is_depthwise(&self) -> bool {
        self.channels == (self.group, 1)
    }

    fn rests(&self) -> Vec<i64> {
        (0..self.rank()).map(|axis| self.window.rest(axis, self.input[axis])).collect()
    }

    /// Bytes of all patches of one sample.
    fn patch_bytes(&self) -> u64 {
        let elements = self.window.kernel.iter().chain(&self.output).chain([&self.channels.1]);
        elements.fold(4u64, |bytes, size| bytes.saturating_mul(size.unsigned_abs()))
    }

    /// All offsets into the kernel, last axis fastest.
    fn taps(&self) -> Vec<Vec<i64>> {
        taps(&self.window.kernel)
    }

    /// Slices of the padded input that one tap reads, at axes counted from `first`.
    fn tap_slices(&self, tap: &[i64], first: usize) -> Vec<AxisSlice> {
        tap_slices(&self.window, &self.output, tap, first)
    }
}

/// All offsets into a kernel, last axis fastest.
pub(super) fn taps(kernel: &[i64]) -> Vec<Vec<i64>> {
    kernel.iter().fold(vec![vec![]], |taps, size| {
        let extend = |tap: Vec<i64>| (0..*size).map(move |offset| [&tap[..], &[offset]].concat());
        taps.into_iter().flat_map(extend).collect()
    })
}

/// Strided slices of the padded input that one tap of a window reads, at axes counted from `first`.
pub(super) fn tap_slices(window: &Window, output: &[i64], tap: &[i64], first: usize) -> Vec<AxisSlice> {
    let slice = |axis: usize| {
        let start = tap[axis] * window.dilations[axis];
        let step = window.strides[axis];
        AxisSlice { axis: axis + first, start, end: start + (output[axis] - 1) * step + 1, step }
    };
    (0..tap.len()).map(slice).collect()
}

fn conv(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let x = step.input(0)?;
    let weight = step.input(1)?;
    let conv = Conv::new(tape, Operands { x, weight, g }, &step.attributes)?;
    let mut gradients = vec![None; 3];
    if tape.is_active(x) {
        gradients[0] = Some(input_gradient(tape, &conv)?);
    }
    if tape.is_active(weight) {
        gradients[1] = Some(weight_gradient(tape, &conv)?);
    }
    if step.inputs.get(2).copied().flatten().is_some_and(|bias| tape.is_active(bias)) {
        let axes: Vec<usize> = (0..conv.rank() + 2).filter(|axis| *axis != 1).collect();
        gradients[2] = Some(tape.graph.reduce("ReduceSum", g, &axes, false)?);
    }
    Ok(gradients)
}

/// Attributes of a convolution over `kernel`.
fn attributes(kernel: &[i64], strides: &[i64], dilations: &[i64], pads: Vec<i64>, group: i64) -> Attributes {
    Attributes::default()
        .with("kernel_shape", kernel.to_vec())
        .with("strides", strides.to_vec())
        .with("dilations", dilations.to_vec())
        .with("pads", pads)
        .with("group", group)
}

fn input_gradient(tape: &mut Tape, conv: &Conv) -> Emitted {
    let Conv { operands, window, group, .. } = conv;
    let is_flippable = window.is_dense() && *group == 1 && flipped_pads(window).is_some();
    let prefers_flipped = tape.lowering.input_gradient == InputGradient::FlippedConv || conv.is_pointwise();
    if is_flippable && prefers_flipped {
        return flipped_conv(tape, conv);
    }
    let attributes = attributes(&window.kernel, &window.strides, &window.dilations, window.pads(), *group);
    tape.graph.op_with("ConvTranspose", &[operands.g, operands.weight], attributes.with("output_padding", conv.rests()))
}

/// Pads of the flipped convolution: `d(k−1) − p` on either side; `None` if one is negative.
fn flipped_pads(window: &Window) -> Option<Vec<i64>> {
    let room = |axis: usize| window.span(axis) - 1;
    let sides = [&window.begins, &window.ends];
    let pads = sides.iter().flat_map(|side| side.iter().enumerate().map(|(axis, pad)| room(axis) - pad));
    let pads: Vec<i64> = pads.collect();
    pads.iter().all(|pad| *pad >= 0).then_some(pads)
}

/// For a stride of 1: a convolution of the gradient with the flipped kernel, channels exchanged.
fn flipped_conv(tape: &mut Tape, conv: &Conv) -> Emitted {
    let Conv { operands, window, .. } = conv;
    let reverse = |(axis, size): (usize, &i64)| {
        (*size > 1).then_some(AxisSlice { axis: axis + 2, start: size - 1, end: -size - 1, step: -1 })
    };
    let slices: Vec<_> = window.kernel.iter().enumerate().filter_map(reverse).collect();
    let flipped = tape.graph.slice(operands.weight, &slices)?;
    let exchanged = exchange_front(tape, flipped)?;
    let pads = flipped_pads(window).ok_or("its pads are too large to be flipped")?;
    let ones = vec![1; conv.rank()];
    let attributes = attributes(&window.kernel, &ones, &window.dilations, pads, 1);
    tape.graph.op_with("Conv", &[operands.g, exchanged], attributes)
}

/// The first two axes exchanged.
fn exchange_front(tape: &mut Tape, x: ValueId) -> Emitted {
    let mut perm: Vec<usize> = (0..tape.graph.rank(x)).collect();
    perm.swap(0, 1);
    tape.graph.transpose(x, &perm)
}

fn weight_gradient(tape: &mut Tape, conv: &Conv) -> Emitted {
    let by_patches = tape.lowering.weight_gradient == WeightGradient::Patches;
    let fits = conv.patch_bytes() <= tape.lowering.patch_bytes_max;
    if conv.group == 1 && by_patches && (fits || conv.is_pointwise()) {
        return weight_by_patches(tape, conv);
    }
    if conv.is_depthwise() && by_patches {
        return weight_of_depthwise(tape, conv);
    }
    weight_by_conv(tape, conv)
}

/// Rows of all positions of all samples, channels last: `[N·positions, C]`.
fn rows(tape: &mut Tape, x: ValueId, width: i64) -> Emitted {
    let target = tape.graph.integers(&[-1, width]);
    tape.graph.op_with("Reshape", &[x, target], Attributes::default().with("allowzero", 0))
}

fn channels_last(tape: &mut Tape, x: ValueId) -> Emitted {
    let rank = tape.graph.rank(x);
    let perm: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    tape.graph.transpose(x, &perm)
}

/// One product of the gradient with all patches side by side.
fn weight_by_patches(tape: &mut Tape, conv: &Conv) -> Emitted {
    let Conv { operands, window, channels: (outputs, inputs), .. } = conv;
    let last = channels_last(tape, operands.x)?;
    let around = |pads: &[i64]| [&[0], pads, &[0]].concat();
    let padded = if window.is_padded() {
        tape.graph.pad(last, &around(&window.begins), &around(&window.ends), 0.0)?
    } else {
        last
    };
    let taps = conv.taps();
    let slices = taps.iter().map(|tap| tape.graph.slice(padded, &conv.tap_slices(tap, 1)));
    let slices = slices.collect::<Result<Vec<_>, _>>()?;
    let patches = tape.graph.concat(&slices, conv.rank() + 1)?;
    let patches = rows(tape, patches, inputs * slices.len() as i64)?;
    let gradient = exchange_front(tape, operands.g)?;
    let target = tape.graph.integers(&[*outputs, -1]);
    let gradient = tape.graph.op_with("Reshape", &[gradient, target], Attributes::default().with("allowzero", 0))?;
    let product = tape.graph.matmul(gradient, patches)?;
    let apart = [&[*outputs], &window.kernel[..], &[*inputs]].concat();
    let apart: Vec<Dim> = apart.into_iter().map(Dim::from).collect();
    let apart = tape.graph.reshape(product, &apart)?;
    let rank = conv.rank() + 2;
    let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    tape.graph.transpose(apart, &perm)
}

/// One sum of products for each tap.
fn weight_of_depthwise(tape: &mut Tape, conv: &Conv) -> Emitted {
    let Conv { operands: Operands { x, weight, g }, window, .. } = conv;
    let around = |pads: &[i64]| [&[0, 0], pads].concat();
    let padded =
        if window.is_padded() { tape.graph.pad(*x, &around(&window.begins), &around(&window.ends), 0.0)? } else { *x };
    let axes: Vec<usize> = (0..conv.rank() + 2).filter(|axis| *axis != 1).collect();
    let mut columns = Vec::new();
    for tap in conv.taps() {
        let met = tape.graph.slice(padded, &conv.tap_slices(&tap, 2))?;
        let product = tape.graph.mul(met, *g)?;
        let sum = tape.graph.reduce("ReduceSum", product, &axes, false)?;
        columns.push(tape.graph.reshape(sum, &[Dim::from(conv.channels.0), Dim::from(1)])?);
    }
    let joined = tape.graph.concat(&columns, 1)?;
    tape.graph.reshape_like(joined, *weight)
}

/// A convolution of the input with the gradient: batch and channels exchanged, stride and dilation exchanged.
fn weight_by_conv(tape: &mut Tape, conv: &Conv) -> Emitted {
    let Conv { operands, window, group, .. } = conv;
    let mut ends = Vec::new();
    let mut crops = Vec::new();
    for (axis, rest) in conv.rests().into_iter().enumerate() {
        // Convolutions forbid negative pads: elements that were never read are cut off instead.
        let end = window.ends[axis] - rest;
        crops.push(AxisSlice { axis: axis + 2, start: 0, end: conv.input[axis] + end.min(0), step: 1 });
        ends.push(end.max(0));
    }
    let x = tape.graph.slice(operands.x, &crops)?;
    let x = by_group(tape, x, *group, true)?;
    let g = by_group(tape, operands.g, *group, false)?;
    let pads = [&window.begins[..], &ends].concat();
    let kernel = tape.graph.fixed_shape_from(g, 2).ok_or("its sizes are not known")?;
    let attributes = attributes(&kernel, &window.dilations, &window.strides, pads, *group);
    let product = tape.graph.op_with("Conv", &[x, g], attributes)?;
    exchange_front(tape, product)
}

/// `[N, G·C, ..]` as `[C, G·N, ..]` for an input and as `[G·C, N, ..]` for a gradient.
fn by_group(tape: &mut Tape, x: ValueId, group: i64, is_input: bool) -> Emitted {
    if group == 1 || !is_input {
        return exchange_front(tape, x);
    }
    let shape = tape.graph.shape(x).to_vec();
    let each = shape[1].over(&Dim::from(group)).ok_or("its channels do not fit its groups")?;
    let apart = [&[shape[0].clone(), Dim::from(group), each.clone()], &shape[2..]].concat();
    let apart = tape.graph.reshape(x, &apart)?;
    let perm: Vec<usize> = [2, 1, 0].into_iter().chain(3..shape.len() + 1).collect();
    let moved = tape.graph.transpose(apart, &perm)?;
    let batch = shape[0].times(&Dim::from(group)).ok_or("its batch is too large")?;
    let joined = [&[each, batch], &shape[2..]].concat();
    tape.graph.reshape(moved, &joined)
}

/// The input gradient of a transposed convolution is a convolution. Its weight gradient is that of a convolution with
/// input and gradient exchanged.
fn transposed(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let x = step.input(0)?;
    let weight = step.input(1)?;
    let kernel = tape.graph.fixed_shape_from(weight, 2).ok_or("the sizes of its weight are not known")?;
    let window = Window::of(&step.attributes, &kernel)?;
    let group = step.attributes.int("group", 1);
    let forward = attributes(&kernel, &window.strides, &window.dilations, window.pads(), group);
    let mut gradients = vec![None; 3];
    if tape.is_active(x) {
        gradients[0] = Some(tape.graph.op_with("Conv", &[g, weight], forward.clone())?);
    }
    if tape.is_active(weight) {
        let conv = Conv::new(tape, Operands { x: g, weight, g: x }, &forward)?;
        gradients[1] = Some(weight_gradient(tape, &conv)?);
    }
    if step.inputs.get(2).copied().flatten().is_some_and(|bias| tape.is_active(bias)) {
        let axes: Vec<usize> = (0..kernel.len() + 2).filter(|axis| *axis != 1).collect();
        gradients[2] = Some(tape.graph.reduce("ReduceSum", g, &axes, false)?);
    }
    Ok(gradients)
}
