//! Models with batch normalization as exporters write them: equal statistics merged, nodes in training mode.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use serde_json::json;
use skein_engine::{Device, Engine, Stop, Tensor};
use skein_graph::Model;
use skein_job::data::Dataset;

use crate::build::Value::{Int, Ints};
use crate::build::{Build, with_normalizing_function};
use crate::harness::Place;
use crate::onnx::engines;

/// How a file stores the statistics of its two normalizations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Statistics {
    /// Each as a separate tensor.
    Separate,
    /// All as the scale and bias tensors of the first normalization, which have equal values.
    Shared,
    /// As copies of these by `Identity` nodes.
    Copied,
    /// As `Shared`, through calls of a function that normalizes in training mode.
    Called,
}

const ALL: [Statistics; 4] = [Statistics::Separate, Statistics::Shared, Statistics::Copied, Statistics::Called];

impl Statistics {
    /// Names of the statistics of both nodes: mean, variance, mean, variance.
    fn names(self) -> [&'static str; 4] {
        match self {
            Statistics::Separate | Statistics::Copied => ["mean1", "variance1", "mean2", "variance2"],
            Statistics::Shared => {
                ["node_1.running_mean", "node_1.running_var", "node_4.running_mean", "node_4.running_var"]
            }
            Statistics::Called => [
                "node_1/norm.running_mean",
                "node_1/norm.running_var",
                "node_4/norm.running_mean",
                "node_4/norm.running_var",
            ],
        }
    }
}

/// Pseudorandom numbers between −1 and 1.
fn numbers(count: i64, seed: i64) -> Vec<f64> {
    (0..count).map(|i| (((i + 1) * 7919 * seed) % 2003) as f64 / 1001.5 - 1.0).collect()
}

/// Two convolutions, each normalized, and a linear layer, for images of 8×8 by one channel or of 32×32 by three.
fn network(channels: i64, statistics: Statistics, mode: i64) -> Vec<u8> {
    let (side, stride) = if channels == 1 { (8, 1) } else { (32, 4) };
    let scaled =
        |count, seed, scale: f64| numbers(count, seed).into_iter().map(|value| value * scale).collect::<Vec<_>>();
    let mut build = Build::new(20)
        .input("x", &[0, channels, side, side])
        .floats("conv1", &[4, channels, 3, 3], &scaled(36 * channels, 3, 0.5))
        .floats("conv2", &[4, 4, 3, 3], &scaled(144, 5, 0.3))
        .floats("linear", &[10, 256], &scaled(2560, 7, 0.1))
        .floats("linear_bias", &[10], &[0.0; 10]);
    for name in ["scale1", "scale2"] {
        build = build.floats(name, &[4], &[1.0; 4]);
    }
    for name in ["bias1", "bias2"] {
        build = build.floats(name, &[4], &[0.0; 4]);
    }
    if statistics == Statistics::Separate {
        for (mean, variance) in [("mean1", "variance1"), ("mean2", "variance2")] {
            build = build.floats(mean, &[4], &[0.0; 4]).floats(variance, &[4], &[1.0; 4]);
        }
    }
    if statistics == Statistics::Copied {
        for (from, to) in [("bias1", "mean1"), ("scale1", "variance1"), ("bias1", "mean2"), ("scale1", "variance2")] {
            build = build.node("Identity", from, to, &[]);
        }
    }
    let of_node = |number: i64| match statistics {
        Statistics::Separate | Statistics::Copied => {
            format!("scale{number} bias{number} mean{number} variance{number}")
        }
        Statistics::Shared | Statistics::Called => format!("scale{number} bias{number} bias1 scale1"),
    };
    let op = if statistics == Statistics::Called { "mine.Norm" } else { "BatchNormalization" };
    let training = [("training_mode", Int(mode))];
    let attributes = if statistics == Statistics::Called { &[][..] } else { &training[..] };
    let outputs = |name: &str| match (mode, statistics) {
        (0, _) | (_, Statistics::Called) => name.to_owned(),
        _ => format!("{name} {name}_mean {name}_variance"),
    };
    let window = |stride| [("pads", Ints(&[1; 4])), ("strides", Ints(stride)), ("dilations", Ints(&[1; 2]))];
    build = build
        .node("Conv", "x conv1", "a", &window(&[stride; 2]))
        .node(op, &format!("a {}", of_node(1)), &outputs("b"), attributes)
        .node("Relu", "b", "c", &[])
        .node("Conv", "c conv2", "d", &window(&[1; 2]))
        .node(op, &format!("d {}", of_node(2)), &outputs("e"), attributes)
        .node("Relu", "e", "f", &[])
        .node("Flatten", "f", "g", &[])
        .node("Gemm", "g linear linear_bias", "logits", &[("transB", Int(1))]);
    match statistics {
        Statistics::Called => with_normalizing_function(build.output("logits")),
        _ => build.output("logits"),
    }
}

fn parse(file: &[u8]) -> Model {
    Model::parse(file.to_vec().into(), &|_| Err(String::new())).unwrap()
}

fn floats(dimensions: &[u32], values: Vec<f32>) -> Tensor {
    let range = 0..values.len();
    Tensor::from_floats(dimensions.to_vec(), Arc::new(values), range).unwrap()
}

/// All tensors with values in a model's file.
fn initial(model: &Model) -> BTreeMap<String, Tensor> {
    let tensors = model.parameters().iter().chain(model.buffers());
    let convert = |tensor: &skein_graph::Tensor| {
        let dimensions: Vec<u32> = tensor.initial.dims().iter().map(|size| *size as u32).collect();
        (tensor.name.clone(), floats(&dimensions, tensor.initial.to_floats().unwrap()))
    };
    tensors.map(convert).collect()
}

/// The named outputs of a graph.
fn run(engine: &dyn Engine, graph: &[u8], inputs: &BTreeMap<String, Tensor>, outputs: &[&str]) -> Vec<Vec<f32>> {
    let options = skein_engine::Options { threads: 1, device: Device::Cpu };
    let mut session = engine.compile(graph, options).unwrap_or_else(|error| panic!("{error}"));
    let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let found = session.run(&inputs, outputs, &Stop::default()).unwrap_or_else(|error| panic!("{error}"));
    found.iter().map(|tensor| tensor.floats().unwrap().into_owned()).collect()
}

fn opened(name: &str) -> Arc<dyn Engine> {
    skein_engine::open(name.parse().unwrap(), None).unwrap()
}

fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let is_close = |(a, e): (&f32, &f32)| (a - e).abs() <= 1e-4 * (1.0 + e.abs());
    assert!(actual.iter().zip(expected).all(is_close), "{what}: {actual:?} where {expected:?} is expected");
}

/// The training graph once had two inputs of one name, which engines refuse, or one new statistic for both nodes.
#[test]
fn every_engine_follows_the_statistics_of_each_node() {
    let place = Place::new();
    let mut inputs_of_all = BTreeMap::from([("labels".to_owned(), Tensor::from_integers(vec![1, 2, 3]))]);
    inputs_of_all.insert("x".into(), floats(&[3, 1, 8, 8], numbers(192, 11).into_iter().map(|v| v as f32).collect()));
    let mut expected = BTreeMap::new();
    for statistics in ALL {
        let names = statistics.names();
        place.write("model.onnx", network(1, statistics, 0));
        let written = place.json(&["model", "train-graph", "model.onnx", "--to", "train.onnx"]);
        let mut sorted = names;
        sorted.sort_unstable();
        assert_eq!(written["statistics"], json!(sorted), "{statistics:?}");
        let graph = fs::read(place.path("train.onnx")).unwrap();
        let declared = rten_onnx::onnx::ModelProto::parse_buf(&graph).unwrap().graph.unwrap().input;
        let mut declared: Vec<String> = declared.into_iter().map(|input| input.name.unwrap()).collect();
        declared.sort();
        assert!(declared.windows(2).all(|pair| pair[0] != pair[1]), "{statistics:?}: {declared:?}");

        let mut inputs = initial(&parse(&fs::read(place.path("model.onnx")).unwrap()));
        inputs.extend(inputs_of_all.clone());
        let new = names.map(|name| format!("new.{name}"));
        let outputs: Vec<&str> = ["loss"].into_iter().chain(new.iter().map(String::as_str)).collect();
        for engine in engines() {
            let found = run(&*opened(&engine), &graph, &inputs, &outputs);
            let expected = expected.entry(engine.clone()).or_insert_with(|| found.clone());
            for ((name, found), expected) in outputs.iter().zip(&found).zip(&*expected) {
                assert_close(found, expected, &format!("{name}, {statistics:?} on {engine}"));
            }
        }
    }
}

/// Trains and exports a model, and checks that the exported file computes the same as the evaluation graph, for a batch
/// and for single samples. A model in training mode was once exported in it.
fn check_export(statistics: Statistics, mode: i64) {
    const HELD_OUT: u32 = 40;
    let what = format!("{statistics:?} in mode {mode}");
    let place = Place::new();
    place.write("model.onnx", network(1, statistics, mode));
    let model = "[model]\nonnx = \"model.onnx\"\n[train]\nrounds = 8\nlearning_rate = 0.05\n";
    place.job_on(&format!("source = \"builtin:digits\"\ntest_samples = {HELD_OUT}\n"), model);
    place.json(&["train", "--out", "run"]);
    let evaluated = place.json(&["eval", "--checkpoint", "run"]);
    place.json(&["export", "--checkpoint", "run", "--to", "trained.safetensors"]);
    place.json(&["export", "--checkpoint", "run", "--to", "trained.onnx"]);

    let trained = fs::read(place.path("trained.safetensors")).unwrap();
    let trained = safetensors::SafeTensors::deserialize(&trained).unwrap();
    let values = |name: &str| bytemuck::pod_collect_to_vec::<u8, f32>(trained.tensor(name).unwrap().data());
    let exported = fs::read(place.path("trained.onnx")).unwrap();
    for tensor in parse(&exported).parameters().iter().chain(parse(&exported).buffers()) {
        assert_eq!(tensor.initial.to_floats().unwrap(), values(&tensor.name), "{what}: {}", tensor.name);
    }
    let [mean1, variance1, mean2, variance2] = statistics.names().map(values);
    assert!(mean1 != mean2 && variance1 != variance2, "{what}: each node has its own statistics");
    let file = rten_onnx::onnx::ModelProto::parse_buf(&exported).unwrap();
    for node in file.graph.unwrap().node {
        let trains = node.attribute.iter().any(|a| a.name.as_deref() == Some("training_mode") && a.i == Some(1));
        assert!(!trains && node.output.len() == 1, "{what}: {node:?}");
    }

    let data = Dataset::load("builtin:digits".as_ref(), &skein_job::manifest::Data::default()).unwrap();
    let last = data.len() as u32 - HELD_OUT..data.len() as u32;
    let batch = data.batch(&last.collect::<Vec<_>>());
    let images = batch.inputs;
    let labels = batch.labels;
    let original = parse(&network(1, statistics, mode));
    let graph = original.evaluation_graph().unwrap().onnx;
    let of_run = initial(&original).into_iter().map(|(name, tensor)| {
        let tensor = floats(tensor.dimensions(), values(&name));
        (name, tensor)
    });
    let of_run: BTreeMap<String, Tensor> = of_run.collect();
    for engine in engines() {
        let engine = opened(&engine);
        let what = format!("{what} on {}", engine.kind());
        let input = |images: &[f32]| {
            let tensor = floats(&[images.len() as u32 / 64, 1, 8, 8], images.to_vec());
            BTreeMap::from([("x".to_owned(), tensor)])
        };
        let mut inputs = of_run.clone();
        inputs.extend(input(&images));
        let expected = run(&*engine, &graph, &inputs, &["logits"]).remove(0);
        let together = run(&*engine, &exported, &input(&images), &["logits"]).remove(0);
        assert_close(&together, &expected, &format!("{what}, a batch"));
        for (image, expected) in images.chunks(64).zip(expected.chunks(10)) {
            let alone = run(&*engine, &exported, &input(image), &["logits"]).remove(0);
            assert_close(&alone, expected, &format!("{what}, one image"));
        }
        let right = expected.chunks(10).zip(&labels).filter(|(row, label)| {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            row.iter().position(|logit| *logit == largest) == Some(**label as usize)
        });
        let accuracy = right.count() as f64 / f64::from(HELD_OUT);
        assert!((evaluated["test"]["accuracy"].as_f64().unwrap() - accuracy).abs() < 1e-6, "{what}: {accuracy}");
    }
}

#[test]
fn a_model_with_merged_statistics_is_exported_as_it_evaluates() {
    check_export(Statistics::Shared, 0);
    check_export(Statistics::Copied, 0);
}

#[test]
fn a_model_in_training_mode_is_exported_as_it_evaluates() {
    check_export(Statistics::Separate, 1);
    check_export(Statistics::Called, 1);
}

/// Dropout stays in the file, so that the model can be trained further, but drops nothing.
#[test]
fn an_exported_model_drops_nothing() {
    let place = Place::new();
    let file = Build::new(20)
        .input("x", &[0, 64])
        .floats("hidden", &[64, 32], &numbers(2048, 3))
        .floats("linear", &[32, 10], &numbers(320, 5))
        .floats("ratio", &[], &[0.9])
        .truth("training", true)
        .node("MatMul", "x hidden", "a", &[])
        .node("Dropout", "a ratio training", "b mask", &[])
        .node("MatMul", "b linear", "logits", &[]);
    place.write("model.onnx", file.output("logits"));
    place.job("[model]\nonnx = \"model.onnx\"\n[train]\nrounds = 2\n");
    place.json(&["train", "--out", "run"]);
    place.json(&["export", "--checkpoint", "run", "--to", "trained.onnx"]);
    let exported = fs::read(place.path("trained.onnx")).unwrap();
    let model = parse(&exported);
    assert_eq!(model.operators()["Dropout"], 1);
    let graph = model.evaluation_graph().unwrap().onnx;
    let x =
        BTreeMap::from([("x".to_owned(), floats(&[2, 64], numbers(128, 7).into_iter().map(|v| v as f32).collect()))]);
    let mut inputs = initial(&model);
    inputs.extend(x.clone());
    // rten, as built here, has no Dropout.
    for engine in engines().into_iter().filter(|engine| engine != "rten") {
        let engine = opened(&engine);
        let expected = run(&*engine, &graph, &inputs, &["logits"]).remove(0);
        let found = run(&*engine, &exported, &x, &["logits"]).remove(0);
        assert_close(&found, &expected, &engine.kind().to_string());
    }
}

/// A network with merged statistics trains as the same network with separate statistics.
#[test]
fn a_model_with_merged_statistics_trains_node_by_node() {
    let expected = step(&*opened("rten"), Statistics::Separate);
    for statistics in [Statistics::Shared, Statistics::Copied] {
        for engine in engines() {
            let found = step(&*opened(&engine), statistics);
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, &format!("{statistics:?} on {engine}"));
            }
        }
    }
}

/// The loss, every gradient and the new statistics of one batch of noise.
fn step(engine: &dyn Engine, statistics: Statistics) -> Vec<Vec<f32>> {
    let model = parse(&network(3, statistics, 0));
    let lowering = skein_graph::Lowering::named(engine.kind().name()).unwrap();
    let graph = model.training_graph(&skein_graph::Options { lowering, ..Default::default() }).unwrap();
    let mut inputs = initial(&model);
    let pixels = (0..16 * 3 * 32 * 32).map(|i| (i * 31 % 251) as f32 / 125.0 - 1.0).collect();
    inputs.insert("x".into(), floats(&[16, 3, 32, 32], pixels));
    inputs.insert("labels".into(), Tensor::from_integers((0..16).map(|label| label % 10).collect()));
    let new = statistics.names().map(|name| format!("new.{name}"));
    let trained = ["conv1", "conv2", "linear", "linear_bias", "scale1", "bias1", "scale2", "bias2"];
    let gradients = trained.map(|name| format!("grad.{name}"));
    let outputs: Vec<&str> = ["loss"].into_iter().chain(gradients.iter().chain(&new).map(String::as_str)).collect();
    run(engine, &graph.onnx, &inputs, &outputs)
}
