//! Decomposes composite operators into those that have a rule.

use super::{Call, Outputs};
use crate::attributes::Attributes;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;

pub(super) fn apply(call: &mut Call<'_>) -> Outputs {
    let one = |value: Result<ValueId, Reason>| value.map(|value| vec![value]);
    match call.node.op {
        "Swish" => one(swish(call)),
        "Mish" => one(mish(call)),
        "Selu" => one(selu(call)),
        "Celu" => one(celu(call)),
        "PRelu" => one(prelu(call)),
        "ThresholdedRelu" => one(thresholded(call)),
        "Softsign" => one(softsign(call)),
        "Mean" => one(mean(call)),
        "Max" | "Min" => one(pairwise(call)),
        "InstanceNormalization" => one(instance(call)),
        "GroupNormalization" => one(group(call)),
        "RMSNormalization" => one(rms(call)),
        "Attention" => one(attention(call)),
        _ => call.with(Attributes::default()),
    }
}

fn swish(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let alpha = call.float("alpha", 1.0);
    let alpha = call.scalar(alpha);
    let scaled = call.step("Mul", &[x, alpha])?;
    let gate = call.step("Sigmoid", &[scaled])?;
    call.step("Mul", &[x, gate])
}

fn mish(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let soft = call.step("Softplus", &[x])?;
    let gate = call.step("Tanh", &[soft])?;
    call.step("Mul", &[x, gate])
}

fn selu(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let alpha = call.float("alpha", 1.673_263_2);
    let gamma = call.float("gamma", 1.050_701);
    let elu = call.unary("Elu", Attributes::default().with("alpha", alpha))?;
    let gamma = call.scalar(gamma);
    call.step("Mul", &[elu, gamma])
}

/// `max(0, x) + min(0, α(e^(x/α) − 1))` is `α · Elu(x/α)`.
fn celu(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let alpha = call.float("alpha", 1.0);
    let alpha = call.scalar(alpha);
    let scaled = call.step("Div", &[x, alpha])?;
    let elu = call.tape.apply_one("Elu", &[scaled], Attributes::default().with("alpha", 1.0))?;
    call.step("Mul", &[elu, alpha])
}

fn prelu(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let slope = call.input(1)?;
    let zero = call.scalar(0.0);
    let is_positive = call.step("Greater", &[x, zero])?;
    let negative = call.step("Mul", &[x, slope])?;
    call.step("Where", &[is_positive, x, negative])
}

fn thresholded(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let alpha = call.float("alpha", 1.0);
    let alpha = call.scalar(alpha);
    let zero = call.scalar(0.0);
    let is_above = call.step("Greater", &[x, alpha])?;
    call.step("Where", &[is_above, x, zero])
}

fn softsign(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let size = call.step("Abs", &[x])?;
    let one = call.scalar(1.0);
    let divisor = call.step("Add", &[size, one])?;
    call.step("Div", &[x, divisor])
}

fn mean(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let inputs = (0..call.inputs.len()).map(|index| call.input(index)).collect::<Result<Vec<_>, _>>()?;
    let sum = call.step("Sum", &inputs)?;
    let count = call.scalar(inputs.len() as f32);
    call.step("Div", &[sum, count])
}

/// `Max` or `Min` of many inputs, two at a time.
fn pairwise(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let mut result = call.input(0)?;
    for index in 1..call.inputs.len() {
        let other = call.input(index)?;
        result = call.step(call.node.op, &[result, other])?;
    }
    Ok(result)
}

/// `(x − mean) / √(variance + ε)` over `axes`.
fn standardize(call: &mut Call<'_>, x: ValueId, axes: &[usize]) -> Result<ValueId, Reason> {
    let mean = call.reduce("ReduceMean", x, axes, true)?;
    let centred = call.step("Sub", &[x, mean])?;
    divide_by_norm(call, centred, axes)
}

/// `x / √(mean(x²) + ε)` over `axes`.
fn divide_by_norm(call: &mut Call<'_>, x: ValueId, axes: &[usize]) -> Result<ValueId, Reason> {
    let epsilon = call.float("epsilon", 1e-5);
    let epsilon = call.scalar(epsilon);
    let squares = call.step("Mul", &[x, x])?;
    let mean = call.reduce("ReduceMean", squares, axes, true)?;
    let shifted = call.step("Add", &[mean, epsilon])?;
    let root = call.step("Sqrt", &[shifted])?;
    call.step("Div", &[x, root])
}

fn per_channel(call: &mut Call<'_>, x: ValueId) -> Result<ValueId, Reason> {
    let scale = call.input(1)?;
    let bias = call.input(2)?;
    let shape = call.tape.graph.channel_shape(x, 1);
    let scale = call.reshape(scale, &shape)?;
    let bias = call.reshape(bias, &shape)?;
    let scaled = call.step("Mul", &[x, scale])?;
    call.step("Add", &[scaled, bias])
}

fn instance(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let axes: Vec<usize> = (2..call.tape.graph.rank(x)).collect();
    let normal = standardize(call, x, &axes)?;
    per_channel(call, normal)
}

fn group(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let shape = call.tape.graph.shape(x).to_vec();
    let groups = call.int("num_groups", 1);
    let channels = shape.get(1).and_then(Dim::fixed).filter(|channels| groups > 0 && channels % groups == 0);
    let channels = channels.ok_or_else(|| format!("its channels do not fit {groups} groups"))?;
    if call.opset < 21 {
        return Err("before operator set 21 it scales groups, not channels: export the model with a newer one".into());
    }
    let split = [&[shape[0].clone(), Dim::from(groups), Dim::from(channels / groups)], &shape[2..]].concat();
    let grouped = call.reshape(x, &split)?;
    let axes: Vec<usize> = (2..split.len()).collect();
    let normal = standardize(call, grouped, &axes)?;
    let normal = call.reshape(normal, &shape)?;
    per_channel(call, normal)
}

fn rms(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let x = call.input(0)?;
    let scale = call.input(1)?;
    let rank = call.tape.graph.rank(x);
    let axis = crate::infer::resolve_axis(call.int("axis", -1), rank)?;
    let axes: Vec<usize> = (axis..rank).collect();
    let normal = divide_by_norm(call, x, &axes)?;
    call.step("Mul", &[normal, scale])
}

/// Scaled dot-product attention of four-dimensional queries, keys and values with the same number of heads.
fn attention(call: &mut Call<'_>) -> Result<ValueId, Reason> {
    let query = call.input(0)?;
    let key = call.input(1)?;
    let value = call.input(2)?;
    let graph = &call.tape.graph;
    let is_plain = [query, key, value].iter().all(|id| graph.rank(*id) == 4)
        && graph.shape(query)[1] == graph.shape(key)[1]
        && (4..call.inputs.len()).all(|index| call.optional(index).is_none())
        && call.node.outputs.len() == 1
        && call.float("softcap", 0.0) == 0.0
        && call.int("is_causal", 0) == 0;
    if !is_plain {
        return Err("only plain attention over [batch, heads, length, size] is supported: decompose it".into());
    }
    let size = graph.shape(query)[3].fixed().ok_or("the size of its heads is not known")?;
    let scale = call.float("scale", 1.0 / (size as f32).sqrt());
    let scale = call.scalar(scale);
    let keys = call.tape.apply_one("Transpose", &[key], Attributes::default().with("perm", vec![0, 1, 3, 2]))?;
    let products = call.step("MatMul", &[query, keys])?;
    let mut scores = call.step("Mul", &[products, scale])?;
    if let Some(mask) = call.optional(3) {
        scores = if call.is_float(mask) {
            call.step("Add", &[scores, mask])?
        } else {
            let low = call.scalar(-1e30);
            call.step("Where", &[mask, scores, low])?
        };
    }
    let weights = call.tape.apply_one("Softmax", &[scores], Attributes::default().with("axis", 3))?;
    call.step("MatMul", &[weights, value])
}
