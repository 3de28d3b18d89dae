//! Computes an ONNX graph in 64-bit floats, each operator by its definition.

use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, DataType, ModelProto, NodeProto, TensorProto};

use super::spatial;

/// A tensor; whether its elements are integers decides how they are divided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) dims: Vec<usize>,
    pub(crate) values: Vec<f64>,
    pub(crate) is_integer: bool,
}

impl Array {
    pub(crate) fn new(dims: &[usize], values: Vec<f64>) -> Array {
        assert_eq!(dims.iter().product::<usize>(), values.len(), "{dims:?}");
        Array { dims: dims.to_vec(), values, is_integer: false }
    }

    pub(crate) fn integers(dims: &[usize], values: Vec<f64>) -> Array {
        Array { is_integer: true, ..Array::new(dims, values) }
    }

    fn like(&self, dims: &[usize], values: Vec<f64>) -> Array {
        Array { is_integer: self.is_integer, ..Array::new(dims, values) }
    }

    fn to_indices(&self) -> Vec<i64> {
        self.values.iter().map(|value| *value as i64).collect()
    }
}

/// Attributes of a node.
pub(crate) struct Attributes<'a>(&'a [AttributeProto]);

impl<'a> Attributes<'a> {
    fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    }

    /// Derived graphs write every attribute out, so a missing one is a bug.
    pub(crate) fn int(&self, name: &str) -> i64 {
        self.find(name).and_then(|attribute| attribute.i).unwrap_or_else(|| panic!("`{name}` is missing"))
    }

    fn float(&self, name: &str) -> f64 {
        f64::from(self.find(name).and_then(|attribute| attribute.f).unwrap_or_else(|| panic!("`{name}` is missing")))
    }

    pub(crate) fn ints(&self, name: &str) -> Vec<usize> {
        let found = self.find(name).unwrap_or_else(|| panic!("`{name}` is missing"));
        found.ints.iter().map(|value| usize::try_from(*value).expect("no negative number")).collect()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.find(name)?.s.as_deref()
    }
}

/// Computes all named outputs of a file.
pub(crate) fn run(file: &[u8], inputs: &HashMap<String, Array>) -> HashMap<String, Array> {
    let model = ModelProto::parse_buf(file).expect("a file that was just written");
    let graph = model.graph.expect("a graph");
    let mut values: HashMap<String, Array> = inputs.clone();
    for tensor in &graph.initializer {
        values.insert(tensor.name.clone().expect("a name"), constant(tensor));
    }
    for node in &graph.node {
        let outputs = compute(node, &values);
        for (name, value) in node.output.iter().zip(outputs) {
            values.insert(name.clone(), value);
        }
    }
    let outputs = graph.output.into_iter().map(|output| output.name.expect("a name"));
    outputs
        .map(|name| (name.clone(), values.remove(&name).unwrap_or_else(|| panic!("`{name}` is not computed"))))
        .collect()
}

fn constant(tensor: &TensorProto) -> Array {
    let dims: Vec<usize> = tensor.dims.iter().map(|size| *size as usize).collect();
    let raw = tensor.raw_data.as_ref().map(|raw| raw.borrow().clone()).unwrap_or_default();
    let chunks = |size| raw.chunks_exact(size);
    match tensor.data_type {
        Some(DataType::FLOAT) => {
            let of_raw = chunks(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().expect("4 bytes"))));
            let values: Vec<f64> = tensor.float_data.iter().map(|v| f64::from(*v)).chain(of_raw).collect();
            Array::new(&dims, values)
        }
        Some(DataType::INT64) => {
            let of_raw = chunks(8).map(|c| i64::from_le_bytes(c.try_into().expect("8 bytes")) as f64);
            Array::integers(&dims, tensor.int64_data.iter().map(|v| *v as f64).chain(of_raw).collect())
        }
        Some(DataType::BOOL) => Array::integers(&dims, raw.iter().map(|v| f64::from(*v)).collect()),
        other => panic!("no type for a constant: {other:?}"),
    }
}

fn compute(node: &NodeProto, values: &HashMap<String, Array>) -> Vec<Array> {
    let get = |name: &String| values.get(name).unwrap_or_else(|| panic!("`{name}` is not computed yet"));
    let inputs: Vec<Option<&Array>> = node.input.iter().map(|name| (!name.is_empty()).then(|| get(name))).collect();
    let input = |index: usize| inputs[index].expect("an input");
    let attributes = Attributes(&node.attribute);
    let op = node.op_type.as_deref().expect("an operator");
    let one = match op {
        "Conv" => spatial::conv(input(0), input(1), inputs.get(2).copied().flatten(), &attributes),
        "ConvTranspose" => spatial::conv_transpose(input(0), input(1), inputs.get(2).copied().flatten(), &attributes),
        "MaxPool" => return spatial::max_pool(input(0), &attributes),
        "AveragePool" => spatial::average_pool(input(0), &attributes),
        "Where" => {
            let chosen = broadcast(input(0), input(1), |c, a| if c != 0.0 { a } else { f64::NAN });
            let other = broadcast(input(0), input(2), |c, b| if c != 0.0 { f64::NAN } else { b });
            let mut result = broadcast(&chosen, &other, |a, b| if a.is_nan() { b } else { a });
            result.is_integer = input(1).is_integer;
            result
        }
        "Sum" | "Max" | "Min" => {
            let f = match op {
                "Sum" => |a: f64, b: f64| a + b,
                "Max" => f64::max,
                _ => f64::min,
            };
            (1..inputs.len()).fold(input(0).clone(), |sum, index| broadcast(&sum, input(index), f))
        }
        "Split" => return split(input(0), input(1), attributes.int("axis") as usize),
        "Concat" => concat(&inputs.iter().map(|input| input.expect("an input")).collect::<Vec<_>>(), &attributes),
        "Gemm" => gemm(&inputs, &attributes),
        "MatMul" => matmul(input(0), input(1)),
        _ => match inputs.len() {
            1 => unary(op, input(0), &attributes),
            _ => several(op, &inputs, &attributes),
        },
    };
    vec![one]
}

fn unary(op: &str, x: &Array, attributes: &Attributes<'_>) -> Array {
    let map = |f: &dyn Fn(f64) -> f64| x.like(&x.dims, x.values.iter().map(|v| f(*v)).collect());
    match op {
        "Identity" => x.clone(),
        "Neg" => map(&|v| -v),
        "Abs" => map(&f64::abs),
        "Sign" => map(&|v| if v == 0.0 { 0.0 } else { v.signum() }),
        "Exp" => map(&f64::exp),
        "Log" => map(&f64::ln),
        "Sqrt" => map(&f64::sqrt),
        "Reciprocal" => map(&f64::recip),
        "Relu" => map(&|v| v.max(0.0)),
        "Sigmoid" => map(&|v| 1.0 / (1.0 + (-v).exp())),
        "Tanh" => map(&f64::tanh),
        "Softplus" => map(&|v| v.exp().ln_1p()),
        "Sin" => map(&f64::sin),
        "Cos" => map(&f64::cos),
        "Erf" => map(&erf),
        "Not" => map(&|v| f64::from(u8::from(v == 0.0))),
        "LeakyRelu" => map(&|v| if v > 0.0 { v } else { attributes.float("alpha") * v }),
        "Elu" => map(&|v| if v > 0.0 { v } else { attributes.float("alpha") * v.exp_m1() }),
        "HardSigmoid" => map(&|v| (attributes.float("alpha") * v + attributes.float("beta")).clamp(0.0, 1.0)),
        "HardSwish" => map(&|v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Gelu" if attributes.text("approximate") == Some("tanh") => {
            map(&|v| 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3))).tanh()))
        }
        "Gelu" => map(&|v| 0.5 * v * (1.0 + erf(v / std::f64::consts::SQRT_2))),
        "Cast" => Array { is_integer: attributes.int("to") != 1, ..x.clone() },
        "Shape" => Array::integers(&[x.dims.len()], x.dims.iter().map(|size| *size as f64).collect()),
        "Transpose" => transpose(x, &attributes.ints("perm")),
        "Softmax" | "LogSoftmax" => softmax(x, attributes.int("axis") as usize, op == "LogSoftmax"),
        "ArgMax" => argmax(x, attributes.int("axis") as usize),
        "ConstantOfShape" => {
            let dims: Vec<usize> = x.values.iter().map(|size| *size as usize).collect();
            let value = attributes.find("value").and_then(|attribute| attribute.t.as_ref()).map(constant);
            Array::new(&dims, vec![value.expect("it is written out").values[0]; dims.iter().product()])
        }
        other => panic!("no definition of {other} with one input"),
    }
}

fn several(op: &str, inputs: &[Option<&Array>], attributes: &Attributes<'_>) -> Array {
    let a = inputs[0].expect("an input");
    let b = inputs[1].unwrap_or_else(|| inputs[0].expect("an input"));
    let truth = |holds: bool| f64::from(u8::from(holds));
    let compare = |f: &dyn Fn(f64, f64) -> bool| Array { is_integer: true, ..broadcast(a, b, |a, b| truth(f(a, b))) };
    match op {
        "Add" => broadcast(a, b, |a, b| a + b),
        "Sub" => broadcast(a, b, |a, b| a - b),
        "Mul" => broadcast(a, b, |a, b| a * b),
        "Div" if a.is_integer => broadcast(a, b, |a, b| (a / b).trunc()),
        "Div" => broadcast(a, b, |a, b| a / b),
        "Pow" => broadcast(a, b, f64::powf),
        "Greater" => compare(&|a, b| a > b),
        "GreaterOrEqual" => compare(&|a, b| a >= b),
        "Less" => compare(&|a, b| a < b),
        "LessOrEqual" => compare(&|a, b| a <= b),
        "Equal" => compare(&|a, b| a == b),
        "And" => compare(&|a, b| a != 0.0 && b != 0.0),
        "Clip" => {
            let bound = |index: usize| inputs.get(index).copied().flatten().map(|bound| bound.values[0]);
            let low = bound(1).unwrap_or(f64::NEG_INFINITY);
            let high = bound(2).unwrap_or(f64::INFINITY);
            a.like(&a.dims, a.values.iter().map(|v| v.max(low).min(high)).collect())
        }
        "Reshape" => reshape(a, &b.to_indices()),
        "Expand" => {
            let dims: Vec<usize> = b.values.iter().map(|size| *size as usize).collect();
            let ones = Array::new(&dims, vec![1.0; dims.iter().product()]);
            broadcast(a, &ones, |a, _| a)
        }
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" => {
            reduce(op, a, &b.to_indices(), attributes.int("keepdims") == 1)
        }
        "Pad" => pad(a, &b.to_indices(), inputs[2].expect("a value").values[0]),
        "Slice" => {
            let numbers = |index: usize| inputs[index].expect("an input").to_indices();
            slice(a, &numbers(1), &numbers(2), (&numbers(3), &numbers(4)))
        }
        "Gather" => gather(a, b, attributes.int("axis") as usize),
        "GatherElements" => gather_elements(a, b, attributes.int("axis") as usize),
        "ScatterElements" => scatter_elements(a, b, inputs[2].expect("updates"), attributes.int("axis") as usize),
        "ScatterND" => scatter_rows(a, b, inputs[2].expect("updates")),
        "OneHot" => one_hot(a, b.values[0] as usize),
        "LayerNormalization" => layer_normalization(inputs, attributes),
        other => panic!("no definition of {other}"),
    }
}

/// The error function by its series, which converges for the small arguments of tests.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Steps from an element to the next along each axis.
pub(crate) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// All indices of a tensor in row-major order.
pub(crate) fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    dims.iter().fold(vec![vec![]], |all, size| {
        all.into_iter().flat_map(|index| (0..*size).map(move |i| [&index[..], &[i]].concat())).collect()
    })
}

pub(crate) fn flat(strides: &[usize], index: &[usize]) -> usize {
    strides.iter().zip(index).map(|(stride, i)| stride * i).sum()
}

fn broadcast(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
    let rank = a.dims.len().max(b.dims.len());
    let padded = |dims: &[usize]| [&vec![1; rank - dims.len()][..], dims].concat();
    let da = padded(&a.dims);
    let db = padded(&b.dims);
    let pair = |(a, b): (&usize, &usize)| {
        assert!(a == b || *a == 1 || *b == 1, "{da:?} {db:?}");
        if *a == 1 { *b } else { *a }
    };
    let dims: Vec<usize> = da.iter().zip(&db).map(pair).collect();
    let steps = |dims: &[usize]| {
        strides(dims)
            .into_iter()
            .zip(dims)
            .map(|(stride, size)| if *size == 1 { 0 } else { stride })
            .collect::<Vec<_>>()
    };
    let sa = steps(&da);
    let sb = steps(&db);
    let values = indices(&dims).iter().map(|i| f(a.values[flat(&sa, i)], b.values[flat(&sb, i)])).collect();
    a.like(&dims, values)
}

fn reshape(x: &Array, target: &[i64]) -> Array {
    let known: i64 = target.iter().filter(|size| **size > 0).product();
    let rest = x.values.len() as i64 / known.max(1);
    let dims: Vec<usize> = target.iter().map(|size| if *size == -1 { rest } else { *size } as usize).collect();
    x.like(&dims, x.values.clone())
}

fn transpose(x: &Array, perm: &[usize]) -> Array {
    let dims: Vec<usize> = perm.iter().map(|axis| x.dims[*axis]).collect();
    let own = strides(&x.dims);
    let steps: Vec<usize> = perm.iter().map(|axis| own[*axis]).collect();
    x.like(&dims, indices(&dims).iter().map(|index| x.values[flat(&steps, index)]).collect())
}

fn reduce(op: &str, x: &Array, axes: &[i64], keeps: bool) -> Array {
    let axes: Vec<usize> = axes.iter().map(|axis| *axis as usize).collect();
    let kept: Vec<usize> = (0..x.dims.len()).map(|axis| if axes.contains(&axis) { 1 } else { x.dims[axis] }).collect();
    let steps: Vec<usize> =
        strides(&kept).into_iter().enumerate().map(|(axis, s)| if axes.contains(&axis) { 0 } else { s }).collect();
    let mut parts: Vec<Vec<f64>> = vec![vec![]; kept.iter().product()];
    for (value, index) in x.values.iter().zip(indices(&x.dims)) {
        parts[flat(&steps, &index)].push(*value);
    }
    let finish = |part: &Vec<f64>| match op {
        "ReduceSum" => part.iter().sum(),
        "ReduceMean" => part.iter().sum::<f64>() / part.len() as f64,
        "ReduceProd" => part.iter().product(),
        "ReduceMax" => part.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        _ => part.iter().copied().fold(f64::INFINITY, f64::min),
    };
    let dims: Vec<usize> = if keeps {
        kept
    } else {
        (0..x.dims.len()).filter(|axis| !axes.contains(axis)).map(|axis| x.dims[axis]).collect()
    };
    x.like(&dims, parts.iter().map(finish).collect())
}

fn softmax(x: &Array, axis: usize, is_log: bool) -> Array {
    let max = reduce("ReduceMax", x, &[axis as i64], true);
    let shifted = broadcast(x, &max, |a, b| a - b);
    let exp = shifted.like(&shifted.dims, shifted.values.iter().map(|v| v.exp()).collect());
    let sum = reduce("ReduceSum", &exp, &[axis as i64], true);
    if is_log { broadcast(&shifted, &sum, |a, b| a - b.ln()) } else { broadcast(&exp, &sum, |a, b| a / b) }
}

fn argmax(x: &Array, axis: usize) -> Array {
    let mut dims = x.dims.clone();
    dims[axis] = 1;
    let steps = strides(&x.dims);
    let best = |index: &Vec<usize>| {
        let at = |i: usize| x.values[flat(&steps, index) + i * steps[axis]];
        (0..x.dims[axis]).fold(0, |best, i| if at(i) > at(best) { i } else { best }) as f64
    };
    Array::integers(&dims, indices(&dims).iter().map(best).collect())
}

fn matmul(a: &Array, b: &Array) -> Array {
    let ra = a.dims.len();
    let rb = b.dims.len();
    let rows = a.dims[ra - 2];
    let inner = a.dims[ra - 1];
    let columns = b.dims[rb - 1];
    let front = |dims: &[usize]| Array::new(dims, (0..dims.iter().product::<usize>()).map(|i| i as f64).collect());
    let fa = front(&a.dims[..ra - 2]);
    let fb = front(&b.dims[..rb - 2]);
    let from_a = broadcast(&fa, &fb, |a, _| a);
    let from_b = broadcast(&fa, &fb, |_, b| b);
    let mut values = Vec::new();
    for (ia, ib) in from_a.values.iter().zip(&from_b.values) {
        let ma = &a.values[*ia as usize * rows * inner..];
        let mb = &b.values[*ib as usize * inner * columns..];
        for row in 0..rows {
            for column in 0..columns {
                values.push((0..inner).map(|i| ma[row * inner + i] * mb[i * columns + column]).sum());
            }
        }
    }
    Array::new(&[&from_a.dims[..], &[rows, columns]].concat(), values)
}

fn gemm(inputs: &[Option<&Array>], attributes: &Attributes<'_>) -> Array {
    let operand = |index: usize, name: &str| {
        let x = inputs[index].expect("an input");
        if attributes.int(name) == 1 { transpose(x, &[1, 0]) } else { x.clone() }
    };
    let mut product = matmul(&operand(0, "transA"), &operand(1, "transB"));
    product.values.iter_mut().for_each(|value| *value *= attributes.float("alpha"));
    match inputs.get(2).copied().flatten() {
        Some(c) => broadcast(&product, c, |a, c| a + attributes.float("beta") * c),
        None => product,
    }
}

fn concat(parts: &[&Array], attributes: &Attributes<'_>) -> Array {
    let axis = attributes.int("axis") as usize;
    let mut dims = parts[0].dims.clone();
    dims[axis] = parts.iter().map(|part| part.dims[axis]).sum();
    let outer: usize = dims[..axis].iter().product();
    let rows = |row: usize| {
        parts.iter().flat_map(move |part| {
            let len = part.values.len() / outer;
            part.values[row * len..][..len].to_vec()
        })
    };
    parts[0].like(&dims, (0..outer).flat_map(rows).collect())
}

fn split(x: &Array, sizes: &Array, axis: usize) -> Vec<Array> {
    let mut start = 0;
    let part = |size: &i64| {
        let from = start;
        let to = start + size;
        start = to;
        slice(x, &[from], &[to], (&[axis as i64], &[1]))
    };
    sizes.to_indices().iter().map(part).collect()
}

fn slice(x: &Array, starts: &[i64], ends: &[i64], (axes, steps): (&[i64], &[i64])) -> Array {
    let mut picks: Vec<Vec<usize>> = x.dims.iter().map(|size| (0..*size).collect()).collect();
    for (((start, end), axis), step) in starts.iter().zip(ends).zip(axes).zip(steps) {
        let size = x.dims[*axis as usize] as i64;
        let front = |position: i64| if position < 0 { position.saturating_add(size) } else { position };
        let start = front(*start);
        let end = front(*end);
        let (start, end) = if *step > 0 {
            (start.clamp(0, size), end.clamp(0, size))
        } else {
            (start.clamp(-1, size - 1), end.clamp(-1, size - 1))
        };
        let mut positions = Vec::new();
        let mut at = start;
        while (*step > 0 && at < end) || (*step < 0 && at > end) {
            positions.push(at as usize);
            at += step;
        }
        picks[*axis as usize] = positions;
    }
    let dims: Vec<usize> = picks.iter().map(Vec::len).collect();
    let steps = strides(&x.dims);
    let value = |index: &Vec<usize>| {
        x.values[index.iter().enumerate().map(|(axis, i)| picks[axis][*i] * steps[axis]).sum::<usize>()]
    };
    x.like(&dims, indices(&dims).iter().map(value).collect())
}

fn pad(x: &Array, pads: &[i64], value: f64) -> Array {
    let rank = x.dims.len();
    let dims: Vec<usize> = (0..rank).map(|a| (x.dims[a] as i64 + pads[a] + pads[a + rank]) as usize).collect();
    let steps = strides(&x.dims);
    let at = |index: &Vec<usize>| {
        let mut position = 0;
        for axis in 0..rank {
            let inner = index[axis] as i64 - pads[axis];
            if inner < 0 || inner >= x.dims[axis] as i64 {
                return value;
            }
            position += inner as usize * steps[axis];
        }
        x.values[position]
    };
    x.like(&dims, indices(&dims).iter().map(at).collect())
}

fn gather(x: &Array, index: &Array, axis: usize) -> Array {
    let dims = [&x.dims[..axis], &index.dims, &x.dims[axis + 1..]].concat();
    let steps = strides(&x.dims);
    let index_steps = strides(&index.dims);
    let rank = index.dims.len();
    let value = |at: &Vec<usize>| {
        let picked = index.values[flat(&index_steps, &at[axis..axis + rank])] as usize;
        let source = [&at[..axis], &[picked], &at[axis + rank..]].concat();
        x.values[flat(&steps, &source)]
    };
    x.like(&dims, indices(&dims).iter().map(value).collect())
}

fn gather_elements(x: &Array, index: &Array, axis: usize) -> Array {
    let steps = strides(&x.dims);
    let value = |(at, picked): (&Vec<usize>, &f64)| {
        let mut source = at.clone();
        source[axis] = *picked as usize;
        x.values[flat(&steps, &source)]
    };
    x.like(&index.dims, indices(&index.dims).iter().zip(&index.values).map(value).collect())
}

fn scatter_elements(x: &Array, index: &Array, updates: &Array, axis: usize) -> Array {
    let mut result = x.clone();
    let steps = strides(&x.dims);
    for ((at, picked), update) in indices(&index.dims).iter().zip(&index.values).zip(&updates.values) {
        let mut target = at.clone();
        target[axis] = *picked as usize;
        result.values[flat(&steps, &target)] += update;
    }
    result
}

/// `ScatterND` that adds whole rows.
fn scatter_rows(x: &Array, index: &Array, updates: &Array) -> Array {
    let mut result = x.clone();
    let width: usize = x.dims[1..].iter().product();
    for (row, update) in index.values.iter().zip(updates.values.chunks(width)) {
        let target = &mut result.values[*row as usize * width..][..width];
        target.iter_mut().zip(update).for_each(|(value, update)| *value += update);
    }
    result
}

fn one_hot(labels: &Array, depth: usize) -> Array {
    let row = |label: &f64| (0..depth).map(|class| f64::from(u8::from(class as f64 == *label))).collect::<Vec<_>>();
    Array::new(&[&labels.dims[..], &[depth]].concat(), labels.values.iter().flat_map(row).collect())
}

fn layer_normalization(inputs: &[Option<&Array>], attributes: &Attributes<'_>) -> Array {
    let x = inputs[0].expect("an input");
    let axes: Vec<i64> = (attributes.int("axis")..x.dims.len() as i64).collect();
    let mean = reduce("ReduceMean", x, &axes, true);
    let centred = broadcast(x, &mean, |a, b| a - b);
    let variance = reduce("ReduceMean", &broadcast(&centred, &centred, |a, b| a * b), &axes, true);
    let epsilon = attributes.float("epsilon");
    let normal = broadcast(&centred, &variance, |a, v| a / (v + epsilon).sqrt());
    let scaled = broadcast(&normal, inputs[1].expect("a scale"), |a, s| a * s);
    match inputs.get(2).copied().flatten() {
        Some(bias) => broadcast(&scaled, bias, |a, b| a + b),
        None => scaled,
    }
}
