//! A model's training graph on an engine, as a job passes it to its gradient function.

use std::collections::BTreeMap;
use std::sync::Arc;

use skein_engine::{Device, Engine, Pool};
use skein_graph::{Dim, Lowering, Model, Shape};
use skein_runtime::gradient::Parameters;
use skein_runtime::graphs::{Graph, GraphInput, Graphs};
use skein_types::{Layout, Parameter};

/// The parameters of the model in an ONNX file, and its graph `model/train` with one thread.
pub(crate) fn network(engine: Arc<dyn Engine>, file: Vec<u8>) -> (Parameters, Graphs) {
    let model = Model::parse(file.into(), &|_| Err(String::new())).expect("a model");
    let describe = |tensor: &skein_graph::Tensor| Parameter {
        name: tensor.name.clone(),
        shape: tensor.initial.dims().iter().map(|size| *size as u32).collect(),
    };
    let trained = model.parameters().iter().map(describe);
    let kept = model.buffers().iter().map(describe);
    let layout = Arc::new(Layout::with_statistics(trained.collect(), kept.collect()));
    let tensors = model.parameters().iter().chain(model.buffers());
    let values: Vec<f32> = tensors.flat_map(|tensor| tensor.initial.to_floats().expect("floats")).collect();
    let lowering = Lowering::named(engine.kind().name()).expect("every engine has a lowering of its name");
    let options = skein_graph::Options { lowering, ..skein_graph::Options::default() };
    let graph = model.training_graph(&options).expect("a graph");
    let outputs = ["loss".to_owned()].into_iter();
    let outputs = outputs.chain(graph.trained.iter().map(|name| format!("grad.{name}")));
    let outputs = outputs.chain(graph.statistics.iter().map(|name| format!("new.{name}"))).collect();
    let size = |dim: &Dim| dim.fixed().map(|size| size as u32);
    let input = |(name, shape): &(String, Shape)| GraphInput {
        name: name.clone(),
        shape: shape.iter().map(size).collect(),
        fixed: None,
    };
    let inputs = graph.inputs.iter().map(input).collect();
    let options = skein_engine::Options { threads: 1, device: Device::Cpu };
    let pool = Pool::new(engine, graph.onnx, options).expect("the engine takes the graph");
    let train = Arc::new(Graph::new(pool, inputs, outputs, &layout));
    let graphs = Graphs { named: BTreeMap::from([("model/train".to_owned(), train)]), loader: None };
    (Parameters { layout, values: Arc::new(values) }, graphs)
}
