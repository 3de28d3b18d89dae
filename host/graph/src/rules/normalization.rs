//! Batch and layer normalization, and dropout.

use super::reduction::count;
use super::{Forward, Gradients, first};
use crate::attributes::Attributes;
use crate::error::Reason;
use crate::graph::{Type, ValueId};
use crate::ops::Emitted;
use crate::tape::{Mode, Step, Tape};

pub(super) fn backward(tape: &mut Tape, step: &Step, g: ValueId) -> Option<Gradients> {
    Some(match step.op {
        "BatchNormalization" => batch(tape, step, g),
        "LayerNormalization" => layer(tape, step, g),
        "Dropout" => first(tape.graph.mul(g, step.saved[0])),
        _ => return None,
    })
}

/// A batch normalization of rows `[C, values]` instead of `[N, C, ..]`.
pub(super) fn rows(tape: &mut Tape, inputs: [ValueId; 5], attributes: &Attributes) -> Emitted {
    let (y, saved) = by_batch(tape, inputs, 0, attributes)?;
    tape.record(Step {
        op: "BatchNormalization",
        inputs: inputs.map(Some).to_vec(),
        outputs: vec![y],
        attributes: attributes.clone().with("channel_axis", 0),
        saved,
        origin: tape.graph.origin.clone(),
    });
    Ok(y)
}

/// Normalizes each channel by the statistics of the batch.
fn by_batch(
    tape: &mut Tape,
    [x, scale, bias, mean, variance]: [ValueId; 5],
    channel_axis: usize,
    attributes: &Attributes,
) -> Result<(ValueId, Vec<ValueId>), Reason> {
    let axes = batch_axes(tape, x, channel_axis);
    check_count(tape, x, &axes)?;
    let shape = tape.graph.channel_shape(x, channel_axis);
    let scale = tape.graph.reshape(scale, &shape)?;
    let bias = tape.graph.reshape(bias, &shape)?;
    let batch_mean = tape.graph.mean(x, &axes)?;
    let centred = tape.graph.sub(x, batch_mean)?;
    let squares = tape.graph.mul(centred, centred)?;
    let batch_variance = tape.graph.mean(squares, &axes)?;
    let inverse = inverse_root(tape, batch_variance, attributes.float("epsilon", 1e-5))?;
    let slope = tape.graph.mul(scale, inverse)?;
    let scaled = tape.graph.mul(centred, slope)?;
    let y = tape.graph.add(scaled, bias)?;
    let momentum = attributes.float("momentum", 0.9);
    let unbiased = unbiased(tape, batch_variance, x, &axes)?;
    follow(tape, mean, batch_mean, momentum)?;
    follow(tape, variance, unbiased, momentum)?;
    Ok((y, vec![centred, inverse, slope]))
}

/// All axes except that of the channels.
fn batch_axes(tape: &Tape, x: ValueId, channels: usize) -> Vec<usize> {
    (0..tape.graph.rank(x)).filter(|axis| *axis != channels).collect()
}

/// Checks that a channel has several values, as far as their number is known. A single one is its own mean: whatever it is,
/// the output would be the bias, and no gradient would pass.
fn check_count(tape: &Tape, x: ValueId, axes: &[usize]) -> Result<(), Reason> {
    let Some(shape) = tape.graph.fixed_shape(x) else { return Ok(()) };
    if axes.iter().map(|axis| shape[*axis]).product::<i64>() == 1 {
        return Err(
            "in training it normalizes each channel over the values of the batch, and there is only 1 value per \
                    channel: choose a batch size of at least 2"
                .into(),
        );
    }
    Ok(())
}

/// Training normalizes by batch statistics, and updates the running ones as PyTorch does: with the unbiased variance.
/// Evaluation normalizes by running statistics.
pub(super) fn batch_forward(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Forward, Reason> {
    crate::infer::types(&tape.graph, "BatchNormalization", inputs, attributes)?;
    let [Some(x), Some(scale), Some(bias), Some(mean), Some(variance)] = *inputs else {
        return Err("it lacks an input".into());
    };
    if tape.mode == Mode::Evaluation {
        let graph = &mut tape.graph;
        let shape = graph.channel_shape(x, 1);
        let epsilon = attributes.float("epsilon", 1e-5);
        let scale = graph.reshape(scale, &shape)?;
        let bias = graph.reshape(bias, &shape)?;
        let mean = graph.reshape(mean, &shape)?;
        let variance = graph.reshape(variance, &shape)?;
        let inverse = inverse_root(tape, variance, epsilon)?;
        let slope = tape.graph.mul(scale, inverse)?;
        let shift = tape.graph.mul(mean, slope)?;
        let shift = tape.graph.sub(bias, shift)?;
        let scaled = tape.graph.mul(x, slope)?;
        return Ok(Forward::Saved(vec![tape.graph.add(scaled, shift)?], vec![]));
    }
    let (y, saved) = by_batch(tape, [x, scale, bias, mean, variance], 1, attributes)?;
    Ok(Forward::Saved(vec![y], saved))
}

/// `1 / √(x + ε)`
fn inverse_root(tape: &mut Tape, x: ValueId, epsilon: f32) -> Emitted {
    let shifted = tape.graph.offset(x, epsilon)?;
    let root = tape.graph.op("Sqrt", &[shifted])?;
    tape.graph.op("Reciprocal", &[root])
}

/// A variance over M elements times `M / (M − 1)`; unchanged for a single element, where that is undefined.
fn unbiased(tape: &mut Tape, variance: ValueId, x: ValueId, axes: &[usize]) -> Emitted {
    let count = count(tape, x, axes)?;
    let less = tape.graph.offset(count, -1.0)?;
    let one = tape.graph.scalar(1.0);
    let less = tape.graph.op("Max", &[less, one])?;
    let factor = tape.graph.div(count, less)?;
    tape.graph.mul(variance, factor)
}

/// Updates a running statistic after a batch, if it is one of the model's buffers.
fn follow(tape: &mut Tape, running: ValueId, batch: ValueId, momentum: f32) -> Result<(), Reason> {
    let Some(name) = tape.graph.value(running).name.clone() else { return Ok(()) };
    let batch = tape.graph.reshape_like(batch, running)?;
    let kept = tape.graph.scale(running, momentum)?;
    let moved = tape.graph.scale(batch, 1.0 - momentum)?;
    let new = tape.graph.add(kept, moved)?;
    tape.statistics.insert(name.to_string(), new);
    Ok(())
}

/// `dx = s·(g − mean(g) − x̂·mean(g·x̂))` with `s = γ/σ` (Ioffe and Szegedy, 2015), with per-channel values.
fn batch(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let [centred, inverse, slope] = step.saved[..] else {
        return Err("it normalizes by running statistics, which has no gradient here".into());
    };
    let x = step.input(0)?;
    let scale = step.input(1)?;
    let bias = step.input(2)?;
    let axes = batch_axes(tape, x, step.attributes.int("channel_axis", 1) as usize);
    let graph = &mut tape.graph;
    let sum = graph.sum(g, &axes)?;
    let product = graph.mul(g, centred)?;
    let correlation = graph.sum(product, &axes)?;
    let scale_gradient = graph.mul(correlation, inverse)?;
    let count = count(tape, x, &axes)?;
    let graph = &mut tape.graph;
    // s·g + a·(x − μ) + b, with a and b per channel: four passes over the elements.
    let share = graph.div(slope, count)?;
    let share = graph.neg(share)?;
    let inclination = graph.mul(inverse, scale_gradient)?;
    let inclination = graph.mul(share, inclination)?;
    let offset = graph.mul(share, sum)?;
    let along = graph.mul(centred, inclination)?;
    let rest = graph.add(along, offset)?;
    let scaled = graph.mul(g, slope)?;
    let own = graph.add(scaled, rest)?;
    let scale = graph.reshape_like(scale_gradient, scale)?;
    let bias = graph.reshape_like(sum, bias)?;
    Ok(vec![Some(own), Some(scale), Some(bias)])
}

/// `dx = (γg − mean(γg) − x̂·mean(γg·x̂)) / σ` (Ba, Kiros and Hinton, 2016)
fn layer(tape: &mut Tape, step: &Step, g: ValueId) -> Gradients {
    let x = step.input(0)?;
    let scale = step.input(1)?;
    let first = step.attributes.int("axis", -1) as usize;
    let axes: Vec<usize> = (first..tape.graph.rank(x)).collect();
    let graph = &mut tape.graph;
    let mean = graph.mean(x, &axes)?;
    let centred = graph.sub(x, mean)?;
    let squares = graph.mul(centred, centred)?;
    let variance = graph.mean(squares, &axes)?;
    let inverse = inverse_root(tape, variance, step.attributes.float("epsilon", 1e-5))?;
    let graph = &mut tape.graph;
    let normal = graph.mul(centred, inverse)?;
    let weighted = graph.mul(g, scale)?;
    let level = graph.mean(weighted, &axes)?;
    let product = graph.mul(weighted, normal)?;
    let correlation = graph.mean(product, &axes)?;
    let along = graph.mul(normal, correlation)?;
    let rest = graph.sub(weighted, level)?;
    let rest = graph.sub(rest, along)?;
    let own = graph.mul(rest, inverse)?;
    let products = graph.mul(g, normal)?;
    let scale_gradient = graph.unbroadcast(products, scale)?;
    let bias = match step.inputs.get(2).copied().flatten() {
        Some(bias) => Some(graph.unbroadcast(g, bias)?),
        None => None,
    };
    Ok(vec![Some(own), Some(scale_gradient), bias])
}

/// Keeps an element if its noise, uniform in [0, 1), is below the share to keep, and scales it up.
pub(super) fn dropout_forward(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Forward, Reason> {
    let x = inputs.first().copied().flatten().ok_or("input 0 is missing")?;
    let keep = 1.0 - attributes.float("ratio", 0.5);
    if tape.mode != (Mode::Training { dropout: true }) || keep == 1.0 {
        return Ok(Forward::Composed(vec![x]));
    }
    let ty = tape.graph.value(x).ty.clone();
    let name = format!("noise.{}", tape.graph.origin);
    let noise = tape.graph.input(&name, Type::new(ty.element, ty.shape));
    let is_kept = tape.graph.compare("Less", noise, keep)?;
    let factor = tape.graph.scalar(1.0 / keep);
    let zero = tape.graph.scalar(0.0);
    let mask = tape.graph.op("Where", &[is_kept, factor, zero])?;
    Ok(Forward::Saved(vec![tape.graph.mul(x, mask)?], vec![mask]))
}
