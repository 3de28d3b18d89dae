//! Maxima and means over windows.

use super::convolution::{tap_slices, taps};
use super::{Gradients, first};
use crate::attributes::Attributes;
use crate::constant::Constant;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::infer::Window;
use crate::lowering::PoolGradient;
use crate::ops::{AxisSlice, Emitted};
use crate::tape::{Step, Tape};

/// Padding of a maximum: finite, and less than any activation.
const LOWEST: f32 = -1e30;

/// Most elements of a constant in a gradient: 64 MiB, enough for 7×7 windows over thousands of channels.
const ELEMENTS_MAX: i64 = 1 << 24;

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    Some(match step.op {
        "MaxPool" => Pool::new(tape, step, g).and_then(|pool| first(maximum(tape, step, &pool))),
        "AveragePool" => Pool::new(tape, step, g).and_then(|pool| first(average(tape, step, &pool))),
        _ => return None,
    })
}

/// A pool, and the values that its gradient needs.
struct Pool {
    x: ValueId,
    g: ValueId,
    window: Window,
    channels: i64,
    /// Sizes of `x` and `g` after the channels.
    input: Vec<i64>,
    output: Vec<i64>,
}

impl Pool {
    fn new(tape: &Tape, step: &Step, g: ValueId) -> Result<Pool, Reason> {
        let x = step.input(0)?;
        let kernel = step.attributes.ints("kernel_shape").ok_or("it has no kernel")?;
        let sizes = |id, from| tape.graph.fixed_shape_from(id, from).ok_or("its sizes are not known");
        let window = Window::of(&step.attributes, kernel)?;
        let channels = sizes(x, 1)?[0];
        let output = sizes(g, 2)?;
        let product = |sizes: &[i64], first| sizes.iter().try_fold(first, |count: i64, size| count.checked_mul(*size));
        // Each tap of each channel has a separate kernel, as large as the window.
        let taps = product(&window.kernel, 1);
        let elements = taps.and_then(|taps| taps.checked_mul(taps)?.checked_mul(channels));
        let largest = elements.zip(product(&output, 1)).map(|(elements, positions)| elements.max(positions));
        if largest.is_none_or(|largest| largest > ELEMENTS_MAX) {
            return Err(format!("its window of {kernel:?} is too large for a gradient"));
        }
        Ok(Pool { x, g, window, channels, input: sizes(x, 2)?, output })
    }

    /// Elements from the start of the padding to the end of the last window.
    fn reach(&self, axis: usize) -> i64 {
        (self.output[axis] - 1) * self.window.strides[axis] + self.window.span(axis)
    }

    /// Padding after the input that makes every window fit.
    fn ends(&self) -> Vec<i64> {
        let end = |axis: usize| (self.reach(axis) - self.input[axis] - self.window.begins[axis]).max(0);
        (0..self.input.len()).map(end).collect()
    }

    /// Converts a gradient of the elements that windows reach to one of the input: cuts off the pads, appends zeros.
    fn crop(&self, tape: &mut Tape, reached: ValueId) -> Emitted {
        let begins = &self.window.begins;
        let inside = |axis: usize| {
            let start = begins[axis];
            AxisSlice { axis: axis + 2, start, end: self.reach(axis).min(start + self.input[axis]), step: 1 }
        };
        let slices: Vec<_> = (0..self.input.len()).map(inside).collect();
        let cut = tape.graph.slice(reached, &slices)?;
        let missing = (0..self.input.len()).map(|axis| self.input[axis] - (slices[axis].end - slices[axis].start));
        let ends: Vec<i64> = [0, 0].into_iter().chain(missing).collect();
        tape.graph.pad(cut, &vec![0; ends.len()], &ends, 0.0)
    }

    /// Propagates `gradient`, `taps` values per channel and window, back by a transposed convolution with `kernel`.
    fn spread(&self, tape: &mut Tape, gradient: ValueId, kernel: ValueId) -> Emitted {
        let window = &self.window;
        let zeros = vec![0; window.kernel.len()];
        let attributes = Attributes::default()
            .with("kernel_shape", window.kernel.clone())
            .with("strides", window.strides.clone())
            .with("dilations", window.dilations.clone())
            .with("pads", [&zeros[..], &zeros].concat())
            .with("output_padding", zeros)
            .with("group", self.channels);
        let reached = tape.graph.op_with("ConvTranspose", &[gradient, kernel], attributes)?;
        self.crop(tape, reached)
    }
}

fn maximum(tape: &mut Tape, step: &Step, pool: &Pool) -> Emitted {
    match tape.lowering.pool_gradient {
        PoolGradient::Scatter => maximum_by_scatter(tape, step, pool),
        PoolGradient::Slices => maximum_by_slices(tape, pool),
    }
}

/// Adds each gradient at the position that `MaxPool` returns.
fn maximum_by_scatter(tape: &mut Tape, step: &Step, pool: &Pool) -> Emitted {
    let attributes = step.attributes.clone().with("indices", 1);
    let indices = tape.graph.push("MaxPool", &[Some(pool.x)], attributes)?[1];
    let shape = tape.graph.shape(pool.x).to_vec();
    let count = crate::dim::product(&shape).ok_or("its input is too large")?;
    let flat = |tape: &mut Tape, x| {
        let target = tape.graph.integers(&[-1]);
        tape.graph.op_with("Reshape", &[x, target], Attributes::default().with("allowzero", 0))
    };
    let g = flat(tape, pool.g)?;
    let indices = flat(tape, indices)?;
    let zeros = match count.fixed() {
        Some(count) => super::movement::zeros(tape, &[count])?,
        None => {
            let zero = tape.graph.scalar(0.0);
            let zeros = tape.graph.expand_like(zero, pool.x)?;
            flat(tape, zeros)?
        }
    };
    let attributes = Attributes::default().with("axis", 0).with("reduction", "add");
    let scattered = tape.graph.op_with("ScatterElements", &[zeros, indices, g], attributes)?;
    tape.graph.reshape_like(scattered, pool.x)
}

/// Finds the tap of the first maximum in each window by comparing strided slices, and routes the gradient to it.
fn maximum_by_slices(tape: &mut Tape, pool: &Pool) -> Emitted {
    let around = |pads: &[i64]| [&[0, 0], pads].concat();
    let padded = tape.graph.pad(pool.x, &around(&pool.window.begins), &around(&pool.ends()), LOWEST)?;
    let taps = taps(&pool.window.kernel);
    let shape = tape.graph.shape(pool.g).to_vec();
    let column = [&shape[..2], &[Dim::from(1)], &shape[2..]].concat();
    let mut slices = Vec::new();
    for tap in &taps {
        let met = tape.graph.slice(padded, &tap_slices(&pool.window, &pool.output, tap, 2))?;
        slices.push(tape.graph.reshape(met, &column)?);
    }
    let stacked = tape.graph.concat(&slices, 2)?;
    let attributes = Attributes::default().with("axis", 2).with("keepdims", 1).with("select_last_index", 0);
    let chosen = tape.graph.op_with("ArgMax", &[stacked], attributes)?;
    let numbers: Vec<i64> = (0..taps.len() as i64).collect();
    let mut sizes = vec![1; column.len()];
    sizes[2] = numbers.len() as i64;
    let numbers = tape.graph.constant(Constant::array(&sizes, &numbers));
    let is_chosen = tape.graph.op("Equal", &[chosen, numbers])?;
    let g = tape.graph.reshape(pool.g, &column)?;
    let routed = tape.graph.keep_where(is_chosen, g)?;
    let merged = [&shape[..1], &[Dim::from(pool.channels * taps.len() as i64)], &shape[2..]].concat();
    let routed = tape.graph.reshape(routed, &merged)?;
    let kernel = one_hot_kernel(tape, pool, taps.len());
    pool.spread(tape, routed, kernel)
}

/// `[C·taps, 1, ..]` with a single 1 each: tap `i` of every channel at position `i` of the window.
fn one_hot_kernel(tape: &mut Tape, pool: &Pool, taps: usize) -> ValueId {
    let rows = pool.channels as usize * taps;
    let mut values = vec![0.0; rows * taps];
    (0..rows).for_each(|row| values[row * taps + row % taps] = 1.0);
    let sizes = [&[rows as i64, 1], &pool.window.kernel[..]].concat();
    tape.graph.constant(Constant::floats(&sizes, &values))
}

fn average(tape: &mut Tape, step: &Step, pool: &Pool) -> Emitted {
    let taps: i64 = pool.window.kernel.iter().product();
    let is_partial = pool.window.is_padded() || pool.ends().iter().any(|end| *end > 0);
    let includes_pads = step.attributes.int("count_include_pad", 0) == 1;
    if pool.window.is_ceil && is_partial {
        return Err("its windows reach past the end (`ceil_mode`), where engines disagree: pad the input".into());
    }
    let mut scaled = Pool { g: pool.g, ..Pool::new(tape, step, pool.g)? };
    if is_partial && !includes_pads {
        // Windows at the border are means over fewer elements.
        let counts = window_counts(pool);
        let sizes = [&[1, 1], &pool.output[..]].concat();
        let factors: Vec<f32> = counts.into_iter().map(|count| taps as f32 / count as f32).collect();
        let factors = tape.graph.constant(Constant::floats(&sizes, &factors));
        scaled.g = tape.graph.mul(pool.g, factors)?;
    }
    let sizes = [&[pool.channels, 1], &pool.window.kernel[..]].concat();
    let weights = vec![1.0 / taps as f32; (pool.channels * taps) as usize];
    let kernel = tape.graph.constant(Constant::floats(&sizes, &weights));
    pool.spread(tape, scaled.g, kernel)
}

/// Number of input elements in each window, in row-major order of windows.
fn window_counts(pool: &Pool) -> Vec<i64> {
    let per_axis = (0..pool.input.len()).map(|axis| {
        let window = &pool.window;
        let inside = |position: i64, tap: i64| {
            let at = position * window.strides[axis] + tap * window.dilations[axis] - window.begins[axis];
            i64::from((0..pool.input[axis]).contains(&at))
        };
        (0..pool.output[axis]).map(|p| (0..window.kernel[axis]).map(|tap| inside(p, tap)).sum()).collect::<Vec<i64>>()
    });
    per_axis.fold(vec![1], |counts, axis| counts.iter().flat_map(|count| axis.iter().map(move |a| count * a)).collect())
}
