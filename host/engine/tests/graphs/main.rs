//! Derived graphs on every engine that the machine has, against references in 64-bit floats.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod misuse;
mod models;
mod stop;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use skein_engine::{Device, Engine, Kind, Options, Stop, Tensor};
use skein_graph::{Lowering, Model};

/// The engines of this machine. `SKEIN_ENGINES_REQUIRED` makes a missing one a failure.
fn engines() -> Vec<Arc<dyn Engine>> {
    let open = |kind| match skein_engine::open(kind, None) {
        Ok(engine) => Some(engine),
        Err(error) if std::env::var_os("SKEIN_ENGINES_REQUIRED").is_none() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    Kind::ALL.into_iter().filter_map(open).collect()
}

fn lowering(kind: Kind) -> Lowering {
    Lowering::named(kind.name()).expect("every engine has a lowering of its name")
}

const ONE_THREAD: Options = Options { threads: 1, device: Device::Cpu };

/// A file of `tests/data`.
fn test_data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(path)
}

/// A model of `tests/data`.
fn model(path: &str) -> Model {
    let bytes = std::fs::read(test_data(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Model::parse(bytes.into(), &|_| Err("the model has no external data".into())).unwrap()
}

fn floats(dimensions: &[u32], values: Vec<f32>) -> Tensor {
    let range = 0..values.len();
    Tensor::from_floats(dimensions.to_vec(), Arc::new(values), range).unwrap()
}

/// Every parameter and buffer of a model, with its values from the file.
fn initial(model: &Model) -> HashMap<String, Tensor> {
    let tensors = model.parameters().iter().chain(model.buffers());
    let convert = |tensor: &skein_graph::Tensor| {
        let dims: Vec<u32> = tensor.initial.dims().iter().map(|size| *size as u32).collect();
        (tensor.name.clone(), floats(&dims, tensor.initial.to_floats().unwrap()))
    };
    tensors.map(convert).collect()
}

/// Runs a graph once, and returns the requested outputs.
fn run(
    engine: &dyn Engine,
    graph: &[u8],
    inputs: &HashMap<String, Tensor>,
    outputs: &[String],
) -> BTreeMap<String, Vec<f32>> {
    let mut session = engine.compile(graph, ONE_THREAD).unwrap_or_else(|error| panic!("{error}"));
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let found = session.run(&inputs, &names, &Stop::default()).unwrap_or_else(|error| panic!("{error}"));
    outputs.iter().cloned().zip(found.iter().map(|tensor| tensor.floats().unwrap().into_owned())).collect()
}
