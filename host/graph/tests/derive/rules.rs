//! Checks every rule against finite differences, in 64-bit floats, in every lowering.

use std::collections::{BTreeMap, HashMap};

use skein_graph::{InputGradient, Loss, Lowering, Model, Options, PoolGradient, WeightGradient};

use crate::Numbers;
use crate::build::Value::{Float, Int, Ints, Text};
use crate::build::{Build, Value};
use crate::interpret::{Array, run};

/// Half of the step of the central differences.
const STEP: f64 = 1e-6;
/// Value of every named size in the models.
const BATCH: usize = 3;

fn lowerings() -> Vec<Lowering> {
    let portable = Lowering::portable();
    let flipped = Lowering { input_gradient: InputGradient::FlippedConv, ..portable.clone() };
    let scattered =
        Lowering { weight_gradient: WeightGradient::Conv, pool_gradient: PoolGradient::Scatter, ..portable.clone() };
    vec![portable, flipped, scattered, Lowering::onnxruntime(), Lowering::openvino(), Lowering::rten()]
}

/// Derives the training graph of a file and compares its gradients with differences of its loss, in every lowering,
/// with the batch known by name and by number.
pub(crate) fn check(name: &str, file: Vec<u8>, loss: Loss) {
    let sizes = BTreeMap::from([("batch".to_owned(), BATCH as i64)]);
    let model = parse(name, file);
    let is_named = model.inputs().any(|(_, shape)| shape.iter().any(|dim| dim.fixed().is_none()));
    for lowering in lowerings() {
        check_model(name, &model, loss, &lowering);
        if is_named {
            check_model(&format!("{name}, sized"), &model.clone().with_sizes(&sizes).unwrap(), loss, &lowering);
        }
    }
}

pub(crate) fn parse(name: &str, file: Vec<u8>) -> Model {
    let read = |_: &skein_graph::ExternalData| Err("the model has no external data".to_owned());
    Model::parse(file.into(), &read).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn check_model(name: &str, model: &Model, loss: Loss, lowering: &Lowering) {
    let options = Options { loss, lowering: lowering.clone(), ..Options::default() };
    let graph = model.training_graph(&options).unwrap_or_else(|error| panic!("{name}: {error}"));
    let inputs = inputs(model, &graph, loss);
    for parameter in &graph.trained {
        compare(&format!("{name}, {parameter}, {lowering:?}"), &graph.onnx, &inputs, parameter);
    }
    agree(&format!("{name}, {lowering:?}"), (model, &options), &graph.onnx, &inputs);
}

/// In every lowering the graph computes what the model's operators do: differences of a loss would not show that.
fn agree(name: &str, (model, options): (&Model, &Options), onnx: &[u8], inputs: &HashMap<String, Array>) {
    let plain = Options { lowering: Lowering::portable(), ..options.clone() };
    let expected = run(&model.training_graph(&plain).unwrap().onnx, inputs);
    for (output, actual) in run(onnx, inputs) {
        let expected = &expected[&output];
        assert_eq!(actual.dims, expected.dims, "{name}, {output}");
        let scale = expected.values.iter().fold(1e-3f64, |scale, value| scale.max(value.abs()));
        for (actual, expected) in actual.values.iter().zip(&expected.values) {
            // Constants of transforms are rounded to 32 bits.
            assert!((actual - expected).abs() < 1e-5 * scale, "{name}, {output}: {actual}, expected {expected}");
        }
    }
}

/// Values of the file for parameters and buffers, random values for everything else.
fn inputs(model: &Model, graph: &skein_graph::TrainingGraph, loss: Loss) -> HashMap<String, Array> {
    let mut numbers = Numbers::new(7);
    let mut inputs = HashMap::new();
    for tensor in model.parameters().iter().chain(model.buffers()) {
        let dims: Vec<usize> = tensor.initial.dims().iter().map(|size| *size as usize).collect();
        let values = tensor.initial.to_floats().unwrap().into_iter().map(f64::from).collect();
        inputs.insert(tensor.name.clone(), Array::new(&dims, values));
    }
    let sized = |shape: &[skein_graph::Dim]| -> Vec<usize> {
        shape.iter().map(|dim| dim.fixed().map_or(BATCH, |size| size as usize)).collect()
    };
    for (name, shape) in model.inputs() {
        let dims = sized(shape);
        inputs.insert(name.to_owned(), Array::new(&dims, numbers.vector(dims.iter().product())));
    }
    for (name, shape) in &graph.noise {
        let dims = sized(shape);
        let noise = (0..dims.iter().product::<usize>()).map(|_| numbers.uniform()).collect();
        inputs.insert(name.clone(), Array::new(&dims, noise));
    }
    let output = run(&model.evaluation_graph().unwrap().onnx, &inputs).into_values().next().unwrap();
    let labels = match loss {
        Loss::CrossEntropy { .. } => {
            let axis = if output.dims.len() == 3 { 2 } else { 1 };
            let dims = [&output.dims[..axis], &output.dims[axis + 1..]].concat();
            let count = dims.iter().product::<usize>();
            Array::integers(&dims, (0..count).map(|i| (i * 7 % output.dims[axis]) as f64).collect())
        }
        _ => Array::new(&output.dims, output.values.iter().map(|_| numbers.uniform()).collect()),
    };
    inputs.insert("labels".into(), labels);
    inputs
}

/// Compares the derivative along one direction by the gradient and by a central difference of the loss.
fn compare(name: &str, onnx: &[u8], inputs: &HashMap<String, Array>, parameter: &str) {
    let outputs = run(onnx, inputs);
    let gradient = &outputs[&format!("grad.{parameter}")];
    let origin = &inputs[parameter];
    assert_eq!(gradient.dims, origin.dims, "{name}");
    assert_eq!(outputs["loss"].dims, [1], "{name}");
    let direction = Numbers::new(3).vector(origin.values.len());
    let loss = |step: f64| {
        let moved = origin.values.iter().zip(&direction).map(|(value, d)| value + step * d).collect();
        let mut inputs = inputs.clone();
        inputs.insert(parameter.to_owned(), Array::new(&origin.dims, moved));
        run(onnx, &inputs)["loss"].values[0]
    };
    let expected = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
    let actual: f64 = gradient.values.iter().zip(&direction).map(|(g, d)| g * d).sum();
    let scale = expected.abs().max(gradient.values.iter().map(|g| g.abs()).sum::<f64>() * 1e-2).max(1e-4);
    assert!((actual - expected).abs() < 2e-5 * scale, "{name}: {actual} by rule, {expected} by difference");
}

/// A file of one operator, on an input of `dims` that depends on a parameter; its other operands are parameters too.
fn operator(op: &str, dims: &[i64], others: &[&[i64]], attributes: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut numbers = Numbers::new(11);
    let mut build = Build::new(20).input("x", &[&[0], dims].concat());
    let whole = [&[BATCH as i64], dims].concat();
    let mut values = |dims: &[i64]| numbers.vector(dims.iter().product::<i64>() as usize);
    build = build.floats("p", &whole, &values(&whole)).node("Add", "x p", "a", &[]);
    let mut names = "a".to_owned();
    for (index, dims) in others.iter().enumerate() {
        build = build.floats(&format!("w{index}"), dims, &values(dims));
        names += &format!(" w{index}");
    }
    build.node(op, &names, "y", attributes).output("y")
}

/// Checks an `operator` with a fixed batch, since `p` has its size.
pub(crate) fn check_operator(op: &str, dims: &[i64], others: &[&[i64]], attributes: &[(&str, Value<'_>)]) {
    let file = operator(op, dims, others, attributes);
    let model = Model::parse(file.into(), &|_| Err(String::new())).unwrap();
    let model = model.with_sizes(&BTreeMap::from([("batch".to_owned(), BATCH as i64)])).unwrap();
    for lowering in lowerings() {
        let options = Options { loss: Loss::MeanSquaredError, lowering: lowering.clone(), ..Options::default() };
        let graph = model.training_graph(&options).unwrap_or_else(|error| panic!("{op}: {error}"));
        let inputs = inputs(&model, &graph, Loss::MeanSquaredError);
        let name = format!("{op} {dims:?} {others:?}, {lowering:?}");
        for parameter in &graph.trained {
            compare(&format!("{name}, {parameter}"), &graph.onnx, &inputs, parameter);
        }
        agree(&name, (&model, &options), &graph.onnx, &inputs);
    }
}

#[test]
fn elementwise() {
    for op in [
        "Neg",
        "Exp",
        "Abs",
        "Relu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Erf",
        "Gelu",
        "LeakyRelu",
        "Elu",
        "Softplus",
        "Sin",
        "Cos",
        "Identity",
        "Selu",
        "Celu",
        "Mish",
        "Swish",
        "Softsign",
        "ThresholdedRelu",
    ] {
        check_operator(op, &[4, 5], &[], &[]);
    }
    check_operator("Gelu", &[4], &[], &[("approximate", Text("tanh"))]);
    check_operator("LeakyRelu", &[4], &[], &[("alpha", Float(0.3))]);
    for op in ["Log", "Sqrt", "Reciprocal"] {
        // Of a square and a bit, since these need positive numbers.
        let file = Build::new(20)
            .input("x", &[0, 4])
            .floats("p", &[4], &[0.5, -1.2, 0.9, 0.3])
            .floats("bit", &[], &[0.5])
            .node("Mul", "p p", "square", &[])
            .node("Add", "square bit", "positive", &[])
            .node(op, "positive", "f", &[])
            .node("Mul", "f x", "y", &[])
            .output("y");
        check(op, file, Loss::MeanSquaredError);
    }
}

#[test]
fn arithmetic_broadcasts() {
    for op in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu"] {
        for other in [&[3, 4, 5][..], &[4, 5], &[5], &[4, 1], &[1, 1, 1], &[3, 1, 5]] {
            check_operator(op, &[4, 5], &[other], &[]);
        }
    }
    check_operator("Sum", &[4, 5], &[&[5], &[4, 1]], &[]);
    check_operator("Max", &[4], &[&[4], &[1]], &[]);
    let squared = Build::new(20)
        .input("x", &[0, 4])
        .floats("w", &[4], &[0.5, -1.2, 0.9, 0.3])
        .floats("two", &[], &[2.0])
        .floats("low", &[], &[-0.4])
        .node("Mul", "x w", "a", &[])
        .node("Pow", "a two", "b", &[])
        .node("Clip", "a low _", "c", &[])
        .node("Greater", "a low", "is", &[])
        .node("Where", "is b c", "y", &[])
        .output("y");
    check("Pow, Clip, Where", squared, Loss::MeanSquaredError);
}

#[test]
fn movement() {
    check_operator("Transpose", &[4, 5], &[], &[("perm", Ints(&[2, 0, 1]))]);
    check_operator("Flatten", &[4, 5], &[], &[("axis", Int(2))]);
    check_operator("Concat", &[4, 5], &[&[3, 2, 5], &[3, 1, 5]], &[("axis", Int(1))]);
    let cases: [(&str, &[&[i64]], &[(&str, Value<'_>)]); 14] = [
        ("Reshape", &[&[3, 2, 10]], &[]),
        ("Reshape", &[&[0, -1]], &[]),
        ("Unsqueeze", &[&[1, -1]], &[]),
        ("Expand", &[&[2, 3, 4, 5]], &[]),
        ("Tile", &[&[1, 2, 3]], &[]),
        ("Pad", &[&[0, 1, 2, 0, 0, 3]], &[]),
        ("Slice", &[&[1, 0], &[3, 5], &[1, 2], &[1, 2]], &[]),
        ("Slice", &[&[-1], &[-100], &[2], &[-2]], &[]),
        ("Slice", &[&[4], &[0], &[2], &[-3]], &[]),
        ("Split", &[&[1, 3]], &[("axis", Int(1))]),
        ("Gather", &[&[3, 0, 3, -1]], &[("axis", Int(1))]),
        ("GatherND", &[&[2, 2]], &[]),
        ("Trilu", &[], &[("upper", Int(0))]),
        ("Trilu", &[], &[("upper", Int(1))]),
    ];
    for (op, numbers, attributes) in cases {
        let mut build = Build::new(20).input("x", &[3, 4, 5]);
        build = build.floats("p", &[3, 4, 5], &Numbers::new(5).vector(60)).node("Mul", "x p", "a", &[]);
        let mut names = "a".to_owned();
        for (index, numbers) in numbers.iter().enumerate() {
            let dims: &[i64] = if op == "GatherND" { &[1, 2] } else { &[numbers.len() as i64] };
            build = build.integers(&format!("i{index}"), dims, numbers);
            names += &format!(" i{index}");
        }
        let outputs = if op == "Split" { "part y" } else { "y" };
        check(op, build.node(op, &names, outputs, attributes).output("y"), Loss::MeanSquaredError);
    }
    let squeezed = Build::new(20)
        .input("x", &[0, 1, 4])
        .floats("p", &[1, 4], &[1.0, -0.5, 0.2, 0.7])
        .integers("axes", &[1], &[1])
        .node("Mul", "x p", "a", &[])
        .node("Squeeze", "a axes", "y", &[])
        .output("y");
    check("Squeeze", squeezed, Loss::MeanSquaredError);
    let picked = Build::new(20)
        .input("x", &[2, 3])
        .floats("p", &[4, 3], &Numbers::new(5).vector(12))
        .integers("index", &[2, 3], &[0, 3, 1, 0, 2, 1])
        .node("GatherElements", "p index", "a", &[("axis", Int(0))])
        .node("Mul", "a x", "y", &[])
        .output("y");
    check("GatherElements", picked, Loss::MeanSquaredError);
}

#[test]
fn reductions() {
    for op in [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ] {
        for (axes, keeps) in [(&[1][..], 1), (&[0, 2], 0), (&[-1], 0)] {
            let file = Build::new(20)
                .input("x", &[0, 4, 5])
                .floats("p", &[4, 5], &Numbers::new(5).vector(20))
                .integers("axes", &[axes.len() as i64], axes)
                .node("Mul", "x p", "a", &[])
                .node(op, "a axes", "y", &[("keepdims", Int(keeps))])
                .output("y");
            check(op, file, Loss::MeanSquaredError);
        }
    }
    check_operator("GlobalAveragePool", &[2, 3, 4], &[], &[]);
    check_operator("GlobalMaxPool", &[2, 3, 4], &[], &[]);
    for op in ["Softmax", "LogSoftmax"] {
        check_operator(op, &[4, 5], &[], &[("axis", Int(1))]);
        check_operator(op, &[4, 5], &[], &[]);
    }
}

/// Differences are not defined for tied elements; tied elements share the gradient.
#[test]
fn elements_that_tie_share_the_gradient() {
    let file = Build::new(20)
        .input("x", &[1, 3])
        .floats("p", &[1, 3], &[2.0, 2.0, 1.0])
        .floats("q", &[1, 1], &[2.0])
        .node("Sub", "x x", "zero", &[])
        .node("Add", "p zero", "a", &[])
        .node("ReduceMax", "a", "b", &[])
        .node("Max", "b q", "y", &[])
        .output("y");
    let model = parse("ties", file);
    let graph = model.training_graph(&Options { loss: Loss::MeanSquaredError, ..Options::default() }).unwrap();
    let mut inputs = inputs(&model, &graph, Loss::MeanSquaredError);
    inputs.insert("labels".into(), Array::new(&[1, 1], vec![0.0]));
    let outputs = run(&graph.onnx, &inputs);
    assert_eq!(outputs["grad.q"].values, [2.0], "half of the slope of 2²");
    assert_eq!(outputs["grad.p"].values, [1.0, 1.0, 0.0], "half of the other half each");
}

#[test]
fn matrix_products() {
    check_operator("MatMul", &[4, 5], &[&[5, 6]], &[]);
    check_operator("MatMul", &[4, 5], &[&[3, 5, 6]], &[]);
    check_operator("MatMul", &[2, 4, 5], &[&[2, 5, 6]], &[]);
    check_operator("MatMul", &[5], &[&[5, 6]], &[]);
    for (trans_a, trans_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let inner = if trans_a == 1 { BATCH as i64 } else { 5 };
        let b: &[i64] = if trans_b == 1 { &[4, inner] } else { &[inner, 4] };
        let attributes =
            [("transA", Int(trans_a)), ("transB", Int(trans_b)), ("alpha", Float(0.7)), ("beta", Float(1.5))];
        check_operator("Gemm", &[5], &[b, &[4]], &attributes);
        check_operator("Gemm", &[5], &[b], &attributes);
    }
}

#[test]
fn sums_of_products() {
    for (equation, first, second) in [
        ("bij,bjk->bik", &[4, 5][..], Some(&[3, 5, 6][..])),
        ("bij,kj->bik", &[4, 5], Some(&[6, 5])),
        ("bij,bkl->blk", &[4, 5], Some(&[3, 2, 6])),
        ("bhi,bhj->bhij", &[4, 5], Some(&[3, 4, 2])),
        ("bij->jb", &[4, 5], None),
    ] {
        let others: Vec<&[i64]> = second.into_iter().collect();
        check_operator("Einsum", first, &others, &[("equation", Text(equation))]);
    }
}

#[test]
fn normalizations() {
    check_operator("LayerNormalization", &[4, 5], &[&[5], &[5]], &[]);
    check_operator("LayerNormalization", &[4, 5], &[&[4, 5]], &[("axis", Int(1))]);
    check_operator("InstanceNormalization", &[4, 5, 3], &[&[4], &[4]], &[]);
    for (opset, op, attributes) in
        [(21, "GroupNormalization", vec![("num_groups", Int(2))]), (23, "RMSNormalization", vec![])]
    {
        let mut build = Build::new(opset).input("x", &[0, 4, 5]).floats("p", &[4, 5], &Numbers::new(5).vector(20));
        let (size, names) = if op == "RMSNormalization" { (5, "a scale") } else { (4, "a scale bias") };
        build = build.floats("scale", &[size], &Numbers::new(6).vector(size as usize));
        build = build.floats("bias", &[size], &Numbers::new(7).vector(size as usize));
        check(
            op,
            build.node("Mul", "x p", "a", &[]).node(op, names, "y", &attributes).output("y"),
            Loss::MeanSquaredError,
        );
    }
}

fn batch_normalization() -> Vec<u8> {
    Build::new(20)
        .input("x", &[0, 2, 3, 3])
        .floats("w", &[4, 2, 1, 1], &Numbers::new(5).vector(8))
        .floats("scale", &[4], &[1.0, 0.5, -0.7, 1.3])
        .floats("bias", &[4], &[0.1, 0.2, 0.3, -0.4])
        .floats("mean", &[4], &[0.0, 0.1, 0.2, 0.3])
        .floats("variance", &[4], &[1.0, 0.9, 0.8, 0.7])
        .node("Conv", "x w", "a", &[])
        .node("BatchNormalization", "a scale bias mean variance", "b", &[("momentum", Float(0.9))])
        .node("Relu", "b", "c", &[])
        .node("GlobalAveragePool", "c", "d", &[])
        .node("Flatten", "d", "y", &[])
        .output("y")
}

#[test]
fn batch_normalization_by_the_batch() {
    check("BatchNormalization", batch_normalization(), Loss::CrossEntropy { ignore_index: None });
}

/// PyTorch's running statistics: the mean, and the variance divided by one less than the count.
#[test]
fn running_statistics_follow_the_batch() {
    let model = Model::parse(batch_normalization().into(), &|_| Err(String::new())).unwrap();
    let graph = model.training_graph(&Options::default()).unwrap();
    assert_eq!(graph.statistics, ["mean", "variance"]);
    let inputs = inputs(&model, &graph, Options::default().loss);
    let outputs = run(&graph.onnx, &inputs);
    let x = &inputs["x"];
    let w = &inputs["w"];
    for channel in 0..4 {
        let weights = [w.values[channel * 2], w.values[channel * 2 + 1]];
        let value =
            |i: usize| x.values[i / 9 * 18 + i % 9] * weights[0] + x.values[i / 9 * 18 + 9 + i % 9] * weights[1];
        let count = BATCH * 9;
        let mean = (0..count).map(value).sum::<f64>() / count as f64;
        let variance = (0..count).map(|i| (value(i) - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
        for (name, batch) in [("mean", mean), ("variance", variance)] {
            let expected = 0.9 * inputs[name].values[channel] + 0.1 * batch;
            let actual = outputs[&format!("new.{name}")].values[channel];
            assert!((actual - expected).abs() < 1e-6, "{name}: {actual}, expected {expected}");
        }
    }
}

#[test]
fn dropout_by_given_noise() {
    let file = Build::new(20)
        .input("x", &[0, 6])
        .floats("w", &[6, 4], &Numbers::new(5).vector(24))
        .floats("ratio", &[], &[0.4])
        .node("MatMul", "x w", "a", &[])
        .node("Dropout", "a ratio", "y", &[])
        .output("y");
    check("Dropout", file.clone(), Loss::MeanSquaredError);
    let model = Model::parse(file.into(), &|_| Err(String::new())).unwrap();
    assert_eq!(model.training_graph(&Options::default()).unwrap().noise.len(), 1);
    let without = Options { dropout: false, ..Options::default() };
    assert_eq!(model.training_graph(&without).unwrap().noise.len(), 0);
}

/// A dropout of channels as PyTorch's newer exporter writes it; `factors` names the result of the division by `p`.
pub(crate) fn channel_dropout(p: f64, divisor: &str) -> Build {
    Build::new(20)
        .input("x", &[0, 4, 3])
        .floats("w", &[4, 1], &[0.5, -1.2, 0.9, 0.3])
        .floats("p", &[], &[p])
        .floats("half", &[1], &[0.5])
        .integers("from", &[1], &[0])
        .integers("to", &[1], &[2])
        .integers("last", &[1], &[1])
        .node("Mul", "x w", "a", &[])
        .node("Shape", "a", "shape", &[])
        .node("Slice", "shape from to", "front", &[])
        .node("Concat", "front last", "sizes", &[("axis", Int(0))])
        .node("ConstantOfShape", "sizes", "zeros", &[])
        .node("CastLike", "zeros a", "empty", &[])
        .node("RandomUniformLike", "empty", "numbers", &[("low", Float(0.0)), ("high", Float(1.0))])
        .node("CastLike", "p numbers", "p_cast", &[])
        .node("Less", "numbers p_cast", "sampled", &[])
        .node("CastLike", "sampled empty", "bernoulli", &[])
        .node("Div", &format!("bernoulli {divisor}"), "factors", &[])
        .node("Mul", "a factors", "y", &[])
}

#[test]
fn channels_are_dropped_by_given_noise() {
    let file = channel_dropout(0.75, "p").output("y");
    check("Dropout2d", file.clone(), Loss::MeanSquaredError);
    let model = parse("Dropout2d", file.clone());
    let options = Options { loss: Loss::MeanSquaredError, ..Options::default() };
    let graph = model.training_graph(&options).unwrap();
    let [(name, shape)] = &graph.noise[..] else { panic!("{:?}", graph.noise) };
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    assert_eq!((name.as_str(), shape.join(" ").as_str()), ("noise.factors", "batch 4 1"), "one number for a channel");
    let mut inputs = inputs(&model, &graph, Loss::MeanSquaredError);
    let plain = run(&model.evaluation_graph().unwrap().onnx, &inputs);
    for (value, index) in plain["y"].values.iter().zip(0..) {
        let expected = inputs["x"].values[index] * inputs["w"].values[index / 3 % 4];
        assert!((value - expected).abs() < 1e-6, "evaluation drops nothing: {value}, expected {expected}");
    }
    inputs.get_mut("noise.factors").unwrap().values =
        (0..12).map(|index| if index % 4 == 1 { 0.8 } else { 0.7 }).collect();
    let slope = &run(&graph.onnx, &inputs)["grad.w"].values;
    assert_eq!(slope[1], 0.0, "the second channel was dropped: {slope:?}");
    assert!(slope.iter().filter(|value| **value != 0.0).count() == 3, "{slope:?}");

    let trained = skein_graph::trained_file(file.into(), &BTreeMap::new()).unwrap();
    let operators = parse("trained", trained).operators();
    assert_eq!(operators["Dropout"], 1, "engines know it, and drop nothing: {operators:?}");
}

/// One head of attention written out, with layer normalization and residual, as a language model has.
fn attention() -> Vec<u8> {
    let mut build = Build::new(20).input("x", &[0, 3, 4]);
    for (name, seed) in [("q", 1), ("k", 2), ("v", 3), ("o", 4)] {
        build = build.floats(name, &[4, 4], &Numbers::new(seed).vector(16));
    }
    build
        .floats("scale", &[4], &[1.0, 0.9, 1.1, 0.8])
        .floats("bias", &[4], &[0.1, -0.1, 0.2, 0.0])
        .floats("half", &[], &[0.5])
        .node("LayerNormalization", "x scale bias", "n", &[])
        .node("MatMul", "n q", "queries", &[])
        .node("MatMul", "n k", "keys", &[])
        .node("MatMul", "n v", "values", &[])
        .node("Transpose", "keys", "keys_t", &[("perm", Ints(&[0, 2, 1]))])
        .node("MatMul", "queries keys_t", "products", &[])
        .node("Mul", "products half", "scores", &[])
        .node("Softmax", "scores", "weights", &[])
        .node("MatMul", "weights values", "mixed", &[])
        .node("MatMul", "mixed o", "out", &[])
        .node("Add", "x out", "y", &[])
        .output("y")
}

#[test]
fn attention_and_losses() {
    check("attention", attention(), Loss::CrossEntropy { ignore_index: None });
    check("attention, ignoring", attention(), Loss::CrossEntropy { ignore_index: Some(0) });
    check("attention, squares", attention(), Loss::MeanSquaredError);
    check("attention, binary", attention(), Loss::BinaryCrossEntropy);
    let operator = Build::new(23)
        .input("x", &[0, 2, 3, 4])
        .floats("p", &[2, 3, 4], &Numbers::new(5).vector(24))
        .node("Mul", "x p", "q", &[])
        .node("Attention", "q x p4", "y", &[])
        .floats("p4", &[1, 2, 3, 4], &Numbers::new(6).vector(24))
        .output("y");
    check("Attention", operator, Loss::MeanSquaredError);
    let segmentation = Build::new(20)
        .input("x", &[0, 2, 3, 3])
        .floats("w", &[5, 2, 1, 1], &Numbers::new(5).vector(10))
        .node("Conv", "x w", "y", &[])
        .output("y");
    check("segmentation", segmentation, Loss::CrossEntropy { ignore_index: None });
}

/// Exporters compute shapes; none of that arithmetic may remain in the graph.
#[test]
fn shape_arithmetic_vanishes() {
    let file = Build::new(20)
        .input("x", &[0, 2, 3])
        .floats("w", &[6, 4], &Numbers::new(5).vector(24))
        .integers("zero", &[], &[0])
        .integers("front", &[1], &[0])
        .integers("rest", &[1], &[-1])
        .node("Shape", "x", "shape", &[])
        .node("Gather", "shape zero", "batch", &[("axis", Int(0))])
        .node("Unsqueeze", "batch front", "batch1", &[])
        .node("Concat", "batch1 rest", "target", &[("axis", Int(0))])
        .node("Reshape", "x target", "flat", &[])
        .node("MatMul", "flat w", "y", &[])
        .output("y");
    let model = Model::parse(file.clone().into(), &|_| Err(String::new())).unwrap();
    let graph = model.evaluation_graph().unwrap();
    assert_eq!(graph.nodes, 2, "a reshape and a product");
    check("shape arithmetic", file, Loss::CrossEntropy { ignore_index: None });
}

#[test]
fn frozen_parameters_have_no_gradient() {
    let model = Model::parse(attention().into(), &|_| Err(String::new())).unwrap();
    let frozen = |patterns: &[&str]| Options {
        frozen: patterns.iter().map(|p| (*p).to_owned()).collect(),
        ..Options::default()
    };
    let graph = model.training_graph(&frozen(&["q", "b*s"])).unwrap();
    assert_eq!(graph.trained, ["k", "o", "scale", "v"]);
    let error = model.training_graph(&frozen(&["qq"])).unwrap_err();
    assert_eq!(error.to_string(), "no parameter of the model is named `qq`");
    let error = model.training_graph(&frozen(&["*"])).unwrap_err();
    assert!(error.to_string().starts_with("the model has no parameter to train"), "{error}");
}

/// Some of the files above.
pub(crate) fn files() -> Vec<Vec<u8>> {
    let strided = [("strides", Ints(&[2, 2])), ("pads", Ints(&[1, 1, 1, 1]))];
    let pooled = [("kernel_shape", Ints(&[3, 3])), ("strides", Ints(&[2, 2])), ("ceil_mode", Int(1))];
    vec![
        attention(),
        batch_normalization(),
        operator("Conv", &[2, 5, 6], &[&[3, 2, 3, 3], &[3]], &strided),
        operator("MaxPool", &[2, 6, 6], &[], &pooled),
        operator("Gemm", &[5], &[&[5, 4], &[4]], &[("alpha", Float(0.5))]),
    ]
}
