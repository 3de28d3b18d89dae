//! The layout `[C, positions, N]` for tensors with channels and a batch: the batch is innermost.
//!
//! A weight `[O, C, k, k]` is then the left factor of a matrix product as it is, and its gradient has the parameter's
//! order. Patches are one gather of runs of N values, per-channel operators work on long runs, and 1×1 maps are
//! matrices over the whole batch. Only products, gathers and element-wise operators remain, which every engine runs
//! well. Operators without a rule here see the model's layout, restored by a transpose.

mod convolution;
mod pooling;
mod positions;
mod winograd;

pub(super) use pooling::maximum_backward;
pub(super) use positions::backward as positions_backward;

use crate::attributes::Attributes;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::ops::Emitted;
use crate::rules::normalization;
use crate::tape::{Map, Mode, Tape};

type Found = Result<Option<Vec<ValueId>>, Reason>;

impl Map {
    fn positions(&self) -> i64 {
        self.sizes.iter().product()
    }

    /// Shape in the model's layout.
    fn shape(&self) -> Vec<Dim> {
        let sizes = self.sizes.iter().copied().map(Dim::from);
        [self.batch.clone(), Dim::from(self.channels)].into_iter().chain(sizes).collect()
    }

    /// A map of the same batch with other channels and sizes.
    fn with(&self, value: ValueId, channels: i64, sizes: Vec<i64>) -> Map {
        Map { value, channels, sizes, batch: self.batch.clone(), is_input: false, repeats: None }
    }
}

/// Operators that have a rule in this layout.
const KNOWN: [&str; 30] = [
    "Conv",
    "Gemm",
    "BatchNormalization",
    "MaxPool",
    "AveragePool",
    "ReduceMean",
    "Concat",
    "Reshape",
    "Expand",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Relu",
    "LeakyRelu",
    "Elu",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Gelu",
    "Erf",
    "Softplus",
    "Exp",
    "Neg",
    "Abs",
    "Sqrt",
    "Clip",
];

/// Applies an operator in this layout, if it has a rule here and its input is a map.
pub(super) fn forward(tape: &mut Tape, op: &'static str, inputs: &[Option<ValueId>], attributes: &Attributes) -> Found {
    let Some(Some(x)) = inputs.first().copied() else { return Ok(None) };
    if !KNOWN.contains(&op) {
        return Ok(None);
    }
    // The rules rely on the checks of inference.
    crate::infer::types(&tape.graph, op, inputs, attributes)?;
    let map = match op {
        "Conv" => convolution::forward(tape, inputs, attributes)?,
        "Gemm" => dense(tape, inputs, attributes)?,
        "BatchNormalization" => batch_normalization(tape, inputs, attributes)?,
        "MaxPool" => pooling::maximum(tape, x, attributes)?,
        "AveragePool" => pooling::average(tape, x, attributes)?,
        "ReduceMean" => pooling::global(tape, inputs, attributes)?,
        "Concat" => concat(tape, inputs, attributes)?,
        "Reshape" => reshape(tape, inputs, attributes)?,
        "Expand" => expand(tape, inputs)?,
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" => binary(tape, op, inputs)?,
        _ => unary(tape, op, inputs, attributes)?,
    };
    map.map(|map| Ok(vec![to_model_layout(tape, map)?])).transpose()
}

/// A value in this layout; values in the model's layout are transposed if `converts`.
fn map_of(tape: &mut Tape, x: ValueId, converts: bool) -> Result<Option<Map>, Reason> {
    if let Some(map) = tape.maps.get(&x) {
        return Ok(Some(map.clone()));
    }
    let shape = tape.graph.shape(x).to_vec();
    let is_float = tape.graph.element(x) == crate::constant::ElementType::F32;
    let known = shape.get(1..).and_then(crate::dim::fixed).filter(|rest| !rest.is_empty());
    let (Some(rest), true, true) = (known, converts, is_float) else { return Ok(None) };
    if is_too_large(&rest[1..]) {
        return Ok(None);
    }
    let is_input = tape.graph.producer(x).is_none();
    let flat = step_reshape(tape, x, &[shape[0].clone(), Dim::from(rest.iter().product::<i64>())])?;
    let turned = tape.apply_one("Transpose", &[flat], Attributes::default().with("perm", vec![1, 0]))?;
    let sizes = rest[1..].to_vec();
    let map = Map { value: turned, channels: rest[0], sizes, batch: shape[0].clone(), is_input, repeats: None };
    let value = step_reshape(tape, turned, &[rest[0].into(), map.positions().into(), shape[0].clone()])?;
    let map = Map { value, ..map };
    tape.maps.insert(x, map.clone());
    Ok(Some(map))
}

/// Whether a map of these sizes has more positions than a table may have.
fn is_too_large(sizes: &[i64]) -> bool {
    let count = sizes.iter().try_fold(1i64, |count, size| count.checked_mul(*size));
    count.is_none_or(|count| count > positions::POSITIONS_MAX)
}

/// A map in the model's layout. Its nodes are dropped if only maps use it.
fn to_model_layout(tape: &mut Tape, map: Map) -> Emitted {
    let rows = Dim::from(map.channels * map.positions());
    let flat = step_reshape(tape, map.value, &[rows.clone(), map.batch.clone()])?;
    let turned = tape.apply_one("Transpose", &[flat], Attributes::default().with("perm", vec![1, 0]))?;
    let own = step_reshape(tape, turned, &map.shape())?;
    if own != turned {
        // Further reshapes start from `turned`, since reshapes are not chained.
        let value = step_reshape(tape, map.value, &[rows.clone(), 1.into(), map.batch.clone()])?;
        let flat = Map { repeats: map.repeats, ..map.with(value, map.channels * map.positions(), vec![]) };
        tape.maps.insert(turned, flat);
    }
    tape.maps.insert(own, map);
    Ok(own)
}

/// A step that changes the shape; at most one size may be known by name only.
fn step_reshape(tape: &mut Tape, x: ValueId, shape: &[Dim]) -> Emitted {
    let target: Vec<i64> = shape.iter().map(|dim| dim.fixed().unwrap_or(-1)).collect();
    if target.iter().filter(|size| **size == -1).count() > 1 {
        return Err("two sizes are not known".into());
    }
    let target = tape.graph.integers(&target);
    tape.step("Reshape", &[x, target], Attributes::default().with("allowzero", 0))
}

fn step(tape: &mut Tape, op: &'static str, inputs: &[ValueId]) -> Emitted {
    tape.step(op, inputs, Attributes::default())
}

/// `map` as a matrix `[C·positions, N]` or `[C, positions·N]`.
fn matrix(tape: &mut Tape, map: &Map, rows: i64) -> Emitted {
    let all = Dim::from(map.channels * map.positions()).times(&map.batch).ok_or("its batch is too large")?;
    let columns = all.over(&Dim::from(rows)).ok_or("its rows do not fit")?;
    step_reshape(tape, map.value, &[rows.into(), columns])
}

fn gemm(tape: &mut Tape, a: ValueId, b: ValueId, bias: Option<ValueId>) -> Emitted {
    let attributes = Attributes::default().with("alpha", 1.0).with("beta", 1.0).with("transA", 0).with("transB", 0);
    let inputs: Vec<ValueId> = [a, b].into_iter().chain(bias).collect();
    tape.step("Gemm", &inputs, attributes)
}

/// `X·Wᵀ + b`, with samples as rows, as `W·Xᵀ + b`, with samples as columns.
fn dense(tape: &mut Tape, inputs: &[Option<ValueId>], attributes: &Attributes) -> Result<Option<Map>, Reason> {
    let (Some(x), Some(weight)) = (inputs[0], inputs.get(1).copied().flatten()) else { return Ok(None) };
    let is_plain = attributes.int("transA", 0) == 0
        && attributes.int("transB", 0) == 1
        && attributes.float("alpha", 1.0) == 1.0
        && attributes.float("beta", 1.0) == 1.0;
    let bias = inputs.get(2).copied().flatten();
    let is_vector = bias.is_none_or(|bias| tape.graph.rank(bias) == 1);
    let (Some(map), Some(weights)) = (tape.maps.get(&x).cloned(), tape.graph.fixed_shape(weight)) else {
        return Ok(None);
    };
    if !is_plain || !is_vector {
        return Ok(None);
    }
    let outputs = weights[0];
    let bias = bias.map(|bias| step_reshape(tape, bias, &[outputs.into(), 1.into()])).transpose()?;
    let (factor, columns) = match map.repeats {
        // All repetitions have the same value, so their weights are added first.
        Some((source, times)) => {
            let apart = step_reshape(tape, weight, &[outputs.into(), (weights[1] / times).into(), times.into()])?;
            let axes = tape.graph.integers(&[2]);
            let reduction = Attributes::default().with("keepdims", 0).with("noop_with_empty_axes", 0);
            let summed = tape.step("ReduceSum", &[apart, axes], reduction)?;
            (summed, step_reshape(tape, source, &[(weights[1] / times).into(), map.batch.clone()])?)
        }
        None => (weight, matrix(tape, &map, weights[1])?),
    };
    let product = gemm(tape, factor, columns, bias)?;
    let value = step_reshape(tape, product, &[outputs.into(), 1.into(), map.batch.clone()])?;
    Ok(Some(map.with(value, outputs, vec![])))
}

fn batch_normalization(
    tape: &mut Tape,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Option<Map>, Reason> {
    let [Some(x), Some(scale), Some(bias), Some(mean), Some(variance)] = *inputs else { return Ok(None) };
    if tape.mode == Mode::Evaluation {
        return Ok(None);
    }
    // Outputs of convolutions too large for patches keep their layout.
    let Some(map) = map_of(tape, x, false)? else { return Ok(None) };
    let rows = matrix(tape, &map, map.channels)?;
    let normal = normalization::rows(tape, [rows, scale, bias, mean, variance], attributes)?;
    let value = step_reshape(tape, normal, &[map.channels.into(), map.positions().into(), map.batch.clone()])?;
    Ok(Some(map.with(value, map.channels, map.sizes.clone())))
}

fn unary(
    tape: &mut Tape,
    op: &'static str,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Option<Map>, Reason> {
    let Some(map) = inputs[0].and_then(|x| tape.maps.get(&x).cloned()) else { return Ok(None) };
    let inputs: Vec<_> = [Some(map.value)].into_iter().chain(inputs[1..].iter().copied()).collect();
    let value = tape.apply(op, &inputs, attributes.clone())?[0];
    Ok(Some(map.with(value, map.channels, map.sizes.clone())))
}

/// Two maps with equal channels, and equal sizes or a single position in one of them; or a map and a number.
fn binary(tape: &mut Tape, op: &'static str, inputs: &[Option<ValueId>]) -> Result<Option<Map>, Reason> {
    let [Some(a), Some(b)] = *inputs else { return Ok(None) };
    let left = tape.maps.get(&a).cloned();
    let right = tape.maps.get(&b).cloned();
    let is_number =
        |tape: &Tape, id| tape.graph.fixed_shape(id).is_some_and(|shape| shape.iter().all(|size| *size == 1));
    let (map, values) = match (left, right) {
        (Some(left), Some(right)) => {
            let fits = left.channels == right.channels && left.sizes.len() == right.sizes.len();
            let wide = if left.positions() >= right.positions() { &left } else { &right };
            let narrow = if left.positions() >= right.positions() { &right } else { &left };
            if !fits || (narrow.sizes != wide.sizes && narrow.positions() != 1) {
                return Ok(None);
            }
            (wide.clone(), [left.value, right.value])
        }
        (Some(left), None) if is_number(tape, b) => {
            let number = step_reshape(tape, b, &[])?;
            (left.clone(), [left.value, number])
        }
        (None, Some(right)) if is_number(tape, a) => {
            let number = step_reshape(tape, a, &[])?;
            (right.clone(), [number, right.value])
        }
        _ => return Ok(None),
    };
    let value = step(tape, op, &values)?;
    Ok(Some(map.with(value, map.channels, map.sizes.clone())))
}

fn concat(tape: &mut Tape, inputs: &[Option<ValueId>], attributes: &Attributes) -> Result<Option<Map>, Reason> {
    let maps: Option<Vec<Map>> = inputs.iter().map(|x| tape.maps.get(&(*x)?).cloned()).collect();
    let Some(maps) = maps.filter(|maps| attributes.int("axis", 0) == 1 && maps.len() > 1) else { return Ok(None) };
    if maps.iter().any(|map| map.sizes != maps[0].sizes || map.batch != maps[0].batch) {
        return Ok(None);
    }
    let values: Vec<ValueId> = maps.iter().map(|map| map.value).collect();
    let value = tape.step("Concat", &values, Attributes::default().with("axis", 0))?;
    let channels = maps.iter().map(|map| map.channels).sum();
    Ok(Some(maps[0].with(value, channels, maps[0].sizes.clone())))
}

/// A reshape that keeps the batch moves nothing in this layout either.
fn reshape(tape: &mut Tape, inputs: &[Option<ValueId>], attributes: &Attributes) -> Result<Option<Map>, Reason> {
    let Some(map) = inputs[0].and_then(|x| behind_reshape(tape, x)) else { return Ok(None) };
    let types = crate::infer::types(&tape.graph, "Reshape", inputs, attributes)?;
    let shape = &types[0].shape;
    let rest = shape.get(1..).and_then(crate::dim::fixed).filter(|rest| !rest.is_empty());
    let Some(rest) = rest.filter(|rest| shape[0] == map.batch && !is_too_large(&rest[1..])) else { return Ok(None) };
    let positions = rest[1..].iter().product::<i64>();
    let value = step_reshape(tape, map.value, &[rest[0].into(), positions.into(), map.batch.clone()])?;
    let repeats = map.repeats.filter(|_| rest[0] == map.channels || positions == 1);
    Ok(Some(Map { repeats, ..map.with(value, rest[0], rest[1..].to_vec()) }))
}

/// The map of a value, or of the value that it reshapes.
fn behind_reshape(tape: &Tape, x: ValueId) -> Option<Map> {
    let source = || tape.graph.producer(x).filter(|node| node.op == "Reshape").and_then(|node| node.inputs[0]);
    tape.maps.get(&x).or_else(|| tape.maps.get(&source()?)).cloned()
}

/// Repeats one position over all, as adaptive pooling of a 1×1 map does.
fn expand(tape: &mut Tape, inputs: &[Option<ValueId>]) -> Result<Option<Map>, Reason> {
    let Some(map) = inputs[0].and_then(|x| tape.maps.get(&x).cloned()) else { return Ok(None) };
    let types = crate::infer::types(&tape.graph, "Expand", inputs, &Attributes::default())?;
    let shape = &types[0].shape;
    let keeps_front = shape.len() == map.sizes.len() + 2 && shape[..2] == map.shape()[..2];
    let Some(sizes) = shape.get(2..).and_then(crate::dim::fixed).filter(|_| keeps_front) else { return Ok(None) };
    if map.positions() != 1 || is_too_large(&sizes) || sizes.iter().product::<i64>() < 2 {
        return Ok(None);
    }
    let times: i64 = sizes.iter().product();
    let target = tape.graph.integers(&[map.channels, times, 1]);
    let value = step(tape, "Expand", &[map.value, target])?;
    Ok(Some(Map { repeats: Some((map.value, times)), ..map.with(value, map.channels, sizes) }))
}
