//! Loss, gradients and running statistics of real networks, against values computed in 64-bit floats by PyTorch.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;
use skein_engine::Tensor;
use skein_graph::{Model, Options};

use super::{engines, floats, initial, lowering, run, shared};

const SAMPLES: usize = 16;

/// The first records of CIFAR-10's test file, normalized as for the references.
fn batch() -> Option<(Tensor, Tensor)> {
    let bytes = fs::read(shared("data/cifar10/test_batch.bin")?).unwrap();
    let mean = [0.4914, 0.4822, 0.4465];
    let deviation = [0.2470, 0.2435, 0.2616];
    let records = || bytes.chunks(3073).take(SAMPLES);
    let scale = |(index, pixel): (usize, &u8)| {
        ((f64::from(*pixel) / 255.0 - mean[index / 1024]) / deviation[index / 1024]) as f32
    };
    let pixels = records().flat_map(|record| record[1..].iter().enumerate().map(scale)).collect();
    let labels = records().map(|record| i64::from(record[0])).collect();
    Some((floats(&[SAMPLES as u32, 3, 32, 32], pixels), Tensor::from_integers(labels)))
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Loss within 1e-5; gradient norms within 2 %, tiny ones excepted; running statistics within 1e-4.
fn check_norms(name: &str, reference: &Value, found: &BTreeMap<String, Vec<f32>>) {
    let expected = reference["loss_value"].as_f64().unwrap();
    let actual = f64::from(found["loss"][0]);
    assert!(((actual - expected) / expected).abs() < 1e-5, "{name}: the loss is {actual}, expected {expected}");
    let parameters = reference["parameters"].as_object().unwrap();
    let norm_of = |value: &Value| value["grad_l2"].as_f64().unwrap();
    let largest = parameters.values().map(norm_of).fold(0.0, f64::max);
    for (parameter, value) in parameters {
        let expected = norm_of(value);
        let actual = norm(&found[&format!("grad.{parameter}")]);
        let is_tiny = expected < 1e-4 * largest;
        assert!(
            is_tiny || ((actual - expected) / expected).abs() < 0.02,
            "{name}, {parameter}: {actual}, expected {expected}"
        );
    }
    for (buffer, value) in reference["batch_norm_running_after_one_step"].as_object().into_iter().flatten() {
        if buffer.ends_with("num_batches_tracked") {
            continue;
        }
        let expected = value["l2"].as_f64().unwrap();
        let actual = norm(&found[&format!("new.{buffer}")]);
        // A mean of zeros is only rounding noise.
        assert!((actual - expected).abs() <= 1e-4 * expected + 1e-6, "{name}, {buffer}: {actual}, expected {expected}");
    }
}

/// Cosine of the angle between all gradients together and those of the file.
fn cosine(file: &[u8], found: &BTreeMap<String, Vec<f32>>) -> f64 {
    let reference = SafeTensors::deserialize(file).unwrap();
    let mut product = 0.0;
    let mut own = 0.0;
    let mut others = 0.0;
    for (name, view) in reference.tensors() {
        let values = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let actual = &found[&format!("grad.{name}")];
        for (expected, actual) in values.zip(actual) {
            let expected = f64::from(expected);
            let actual = f64::from(*actual);
            product += expected * actual;
            own += actual * actual;
            others += expected * expected;
        }
    }
    product / (own * others).sqrt()
}

fn check(name: &str) {
    let (Some(file), Some((x, labels))) = (shared(&format!("models/{name}.onnx")), batch()) else { return };
    let reference = fs::read(shared(&format!("models/{name}.reference.json")).unwrap()).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let model =
        Model::parse(fs::read(file).unwrap().into(), &|_| Err("the model has no external data".into())).unwrap();
    let sizes = BTreeMap::from([("batch".to_owned(), SAMPLES as i64)]);
    for engine in engines() {
        for model in [model.clone(), model.clone().with_sizes(&sizes).unwrap()] {
            let options = Options { lowering: lowering(engine.kind()), ..Options::default() };
            let graph = model.training_graph(&options).unwrap();
            let mut inputs: HashMap<String, Tensor> = initial(&model);
            inputs.insert("x".into(), x.clone());
            inputs.insert("labels".into(), labels.clone());
            let gradients = graph.trained.iter().map(|name| format!("grad.{name}"));
            let statistics = graph.statistics.iter().map(|name| format!("new.{name}"));
            let outputs: Vec<String> = ["loss".to_owned()].into_iter().chain(gradients).chain(statistics).collect();
            let found = run(&*engine, &graph.onnx, &inputs, &outputs);
            let name = format!("{name} on {}", engine.kind());
            check_norms(&name, &reference, &found);
        }
    }
}

fn check_directions(name: &str) {
    check(name);
    let (Some(file), Some((x, labels))) = (shared(&format!("models/{name}.onnx")), batch()) else { return };
    let gradients = fs::read(shared(&format!("models/{name}.gradients.safetensors")).unwrap()).unwrap();
    let model =
        Model::parse(fs::read(file).unwrap().into(), &|_| Err("the model has no external data".into())).unwrap();
    for engine in engines() {
        let graph = model.training_graph(&Options { lowering: lowering(engine.kind()), ..Options::default() }).unwrap();
        let mut inputs: HashMap<String, Tensor> = initial(&model);
        inputs.insert("x".into(), x.clone());
        inputs.insert("labels".into(), labels.clone());
        let outputs: Vec<String> = graph.trained.iter().map(|name| format!("grad.{name}")).collect();
        let cosine = cosine(&gradients, &run(&*engine, &graph.onnx, &inputs, &outputs));
        println!("{name} on {}: whole-gradient cosine {cosine}", engine.kind());
        assert!(cosine > 0.9999, "{name} on {}: {cosine}", engine.kind());
    }
}

#[test]
fn squeezenet() {
    check_directions("squeezenet1_1");
}

#[test]
fn mobilenet() {
    check_directions("mobilenet_v3_small");
}

#[test]
fn resnet() {
    check("resnet18");
}

#[test]
fn densenet() {
    check("densenet121");
}
