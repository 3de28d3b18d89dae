//! Loss, gradients and running statistics of small networks of many families, against values computed in 64-bit floats
//! by PyTorch. `tests/data/README.md` says how the files were made.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Cursor;

use npyz::{DType, NpyFile, TypeChar};
use skein_engine::{Engine, Tensor};
use skein_graph::{Loss, Options};

use super::{engines, floats, initial, lowering, model, run, test_data};

/// Largest error of the loss, of a gradient and of a running statistic, as a share of the reference.
const ERROR_MAX: f64 = 1e-4;
/// Share of the largest gradient's norm that is added to each norm: some gradients are zero except for rounding.
const NORM_OFFSET: f64 = 1e-2;

/// One array of a reference.
enum Array {
    Floats(Vec<u32>, Vec<f64>),
    Integers(Vec<u32>, Vec<i64>),
}

impl Array {
    fn values(&self) -> &[f64] {
        match self {
            Array::Floats(_, values) => values,
            Array::Integers(..) => panic!("it holds integers"),
        }
    }

    fn tensor(&self) -> Tensor {
        match self {
            Array::Floats(dims, values) => floats(dims, values.iter().map(|value| *value as f32).collect()),
            Array::Integers(dims, values) => Tensor::from_integers(values.clone()).reshaped(dims.clone()).unwrap(),
        }
    }
}

/// Reads the inputs, labels and expected values of a network.
fn reference(network: &str) -> BTreeMap<String, Array> {
    let bytes = fs::read(test_data(&format!("models/{network}.npz"))).unwrap();
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let mut arrays = BTreeMap::new();
    for name in names {
        let file = NpyFile::new(archive.by_name(&name).unwrap()).unwrap();
        let dims = file.shape().iter().map(|size| *size as u32).collect();
        let DType::Plain(ty) = file.dtype() else { panic!("{name} holds records") };
        let array = match (ty.type_char(), ty.size_field()) {
            (TypeChar::Int, 8) => Array::Integers(dims, file.into_vec().unwrap()),
            (TypeChar::Float, 8) => Array::Floats(dims, file.into_vec().unwrap()),
            (TypeChar::Float, 4) => {
                let values: Vec<f32> = file.into_vec().unwrap();
                Array::Floats(dims, values.into_iter().map(f64::from).collect())
            }
            other => panic!("{name} holds {other:?}"),
        };
        arrays.insert(name.trim_end_matches(".npy").to_owned(), array);
    }
    arrays
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// The norm of the difference, as a share of the norm of the reference and `offset` together.
fn error(found: &[f32], expected: &[f64], offset: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference = norm(found.iter().zip(expected).map(|(found, expected)| f64::from(*found) - expected));
    difference / (norm(expected.iter().copied()) + offset)
}

/// A file to compare with the reference of its network.
struct Case {
    /// Network and exporter.
    file: &'static str,
    loss: Loss,
    /// Number of gradients that have a reference: exporters rename parameters that they transpose.
    compared: usize,
    /// Parameters of equal value that an exporter merged into the first of them, whose gradient is their sum.
    merged: &'static [&'static [&'static str]],
    /// A parameter that an exporter copied, so that its gradient is divided among the copies.
    copied: Option<&'static str>,
}

const CROSS_ENTROPY: Loss = Loss::CrossEntropy { ignore_index: None };

/// Whole files, in which every parameter has the name and the value that it has in PyTorch.
const fn whole(file: &'static str, compared: usize) -> Case {
    Case { file, loss: CROSS_ENTROPY, compared, merged: &[], copied: None }
}

const CASES: [Case; 14] = [
    whole("resnet.plain", 26),
    whole("inverted.plain", 18),
    whole("convnext.plain", 15),
    whole("tabular.plain", 9),
    whole("tabular.default", 9),
    whole("tabular.script", 9),
    Case { loss: Loss::MeanSquaredError, ..whole("regression.plain", 4) },
    Case { loss: Loss::MeanSquaredError, ..whole("regression.default", 4) },
    Case { loss: Loss::MeanSquaredError, ..whole("regression.script", 4) },
    Case { merged: CONVNEXT_MERGED, ..whole("convnext.default", 11) },
    Case { merged: CONVNEXT_MERGED, ..whole("convnext.script", 11) },
    Case { merged: GPT_MERGED, ..whole("gpt.default", 6) },
    Case { merged: GPT_MERGED, copied: Some("tok.weight"), ..whole("gpt.script", 7) },
    whole("windows.default", 8),
];

const CONVNEXT_MERGED: &[&[&str]] = &[&["norm0.weight", "norm.weight"], &["norm0.bias", "norm.bias"]];
const GPT_MERGED: &[&[&str]] = &[&["n1.weight", "n2.weight", "n3.weight"], &["n1.bias", "n2.bias", "n3.bias"]];

/// What a file should compute, by the names of its outputs.
fn expected(case: &Case) -> BTreeMap<String, Array> {
    let mut expected = reference(case.file.split('.').next().unwrap());
    for group in case.merged {
        let gradient = |name: &str| format!("grad.{name}");
        let mut sum = expected[&gradient(group[0])].values().to_vec();
        for other in &group[1..] {
            sum.iter_mut().zip(expected[&gradient(other)].values()).for_each(|(sum, value)| *sum += value);
        }
        let dims = vec![sum.len() as u32];
        expected.insert(gradient(group[0]), Array::Floats(dims, sum));
    }
    if let Some(copied) = case.copied {
        expected.remove(&format!("grad.{copied}"));
    }
    expected
}

/// Compares every output that has a reference, with a free and with a fixed batch size.
fn check(case: &Case, engine: &dyn Engine) {
    let expected = expected(case);
    let file = case.file;
    let is_gradient = |name: &str| name.starts_with("grad.");
    let norms = expected.iter().filter(|(name, _)| is_gradient(name));
    let largest = norms.map(|(_, array)| norm(array.values().iter().copied())).fold(0.0, f64::max);
    let inputs = expected.iter().filter(|(name, _)| *name != "loss" && !name.contains('.'));
    let inputs: HashMap<String, Tensor> = inputs.map(|(name, array)| (name.clone(), array.tensor())).collect();
    let free = model(&format!("models/{file}.onnx"));
    let batch = i64::from(inputs["labels"].dimensions()[0]);
    let fixed = free.clone().with_sizes(&BTreeMap::from([("batch".to_owned(), batch)])).unwrap();
    for model in [free, fixed] {
        let options = Options { loss: case.loss, lowering: lowering(engine.kind()), ..Options::default() };
        let graph = model.training_graph(&options).unwrap_or_else(|error| panic!("{file}: {error}"));
        let all: HashMap<String, Tensor> = initial(&model).into_iter().chain(inputs.clone()).collect();
        let gradients = graph.trained.iter().map(|name| format!("grad.{name}"));
        let outputs = gradients.chain(graph.statistics.iter().map(|name| format!("new.{name}")));
        let outputs = outputs.chain(["loss".to_owned()]).filter(|name| expected.contains_key(name));
        let found = run(engine, &graph.onnx, &all, &outputs.collect::<Vec<_>>());
        let compared = found.keys().filter(|name| is_gradient(name)).count();
        assert_eq!(compared, case.compared, "{file}: gradients with a reference among {:?}", graph.trained);
        for (name, found) in &found {
            let offset = if is_gradient(name) { NORM_OFFSET * largest } else { 0.0 };
            let error = error(found, expected[name].values(), offset);
            assert!(error < ERROR_MAX, "{file} on {}: `{name}` is off by {error:.1e}", engine.kind());
        }
    }
}

#[test]
fn networks_of_many_families_have_the_gradients_of_pytorch() {
    for engine in engines() {
        CASES.iter().for_each(|case| check(case, &*engine));
    }
}

/// Every file of the folder is read by a test.
#[test]
fn every_network_is_compared() {
    for entry in fs::read_dir(test_data("models")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_read = match path.extension().unwrap().to_str().unwrap() {
            "onnx" => CASES.iter().any(|case| case.file == name),
            "npz" => CASES.iter().any(|case| case.file.starts_with(&format!("{name}."))),
            other => other == "py",
        };
        assert!(is_read, "no test reads `{}`", path.display());
    }
}
