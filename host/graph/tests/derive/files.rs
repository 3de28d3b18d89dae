//! Tensors that a file shares between its nodes, and the file after training.

use std::collections::BTreeMap;

use rten_onnx::onnx::{ModelProto, NodeProto};
use skein_graph::{Model, Options, trained_file};

use crate::Numbers;
use crate::build::Value::{Float, Int};
use crate::build::{Build, with_normalizing_function};

/// The start of a file with four channels; normalizations share `zeros` and `ones`.
fn start() -> Build {
    let build = Build::new(20).input("x", &[0, 4]).floats("w", &[4, 4], &Numbers::new(5).vector(16));
    build.floats("ones", &[4], &[1.0; 4]).floats("zeros", &[4], &[0.0; 4]).node("MatMul", "x w", "a", &[])
}

/// Files with shared and copied statistics, for other tests to damage.
pub(crate) fn seeds() -> [Vec<u8>; 2] {
    let shared = start().node("mine.Norm", "a ones zeros zeros ones", "b", &[]);
    let shared = shared.node("BatchNormalization", "b ones zeros zeros ones", "y", &[]);
    let copied = start().node("Identity", "zeros", "mean", &[]).node("Identity", "ones", "variance", &[]);
    let copied = copied.node("BatchNormalization", "a ones zeros mean variance", "y", &[]);
    [with_normalizing_function(shared.output("y")), copied.initializers_as_inputs().output("y")]
}

fn parse(file: &[u8]) -> Model {
    Model::parse(file.to_vec().into(), &|_| Err(String::new())).unwrap()
}

fn names(tensors: &[skein_graph::Tensor]) -> Vec<&str> {
    tensors.iter().map(|tensor| tensor.name.as_str()).collect()
}

/// Checks the names of parameters and statistics, and that inputs of the training graph have distinct names.
fn check(file: &[u8], parameters: &[&str], statistics: &[&str]) {
    let model = parse(file);
    assert_eq!(names(model.parameters()), parameters);
    assert_eq!(names(model.buffers()), statistics);
    let graph = model.training_graph(&Options::default()).unwrap();
    assert_eq!(graph.statistics, statistics);
    let written = ModelProto::parse_buf(&graph.onnx).unwrap().graph.unwrap();
    let mut inputs: Vec<_> = written.input.into_iter().map(|input| input.name.unwrap()).collect();
    inputs.sort();
    assert!(inputs.windows(2).all(|pair| pair[0] != pair[1]), "{inputs:?}");
}

/// An exporter had merged the running means of both nodes with a bias: the training graph had two inputs of that name,
/// and one new statistic for both.
#[test]
fn shared_statistics_are_split_per_node() {
    let merged = start().node("BatchNormalization", "a ones zeros zeros ones", "b", &[]).node(
        "BatchNormalization",
        "b ones zeros zeros ones",
        "y",
        &[],
    );
    let of_nodes = ["node_1.running_mean", "node_1.running_var", "node_2.running_mean", "node_2.running_var"];
    check(&merged.output("y"), &["ones", "w", "zeros"], &of_nodes);

    let only_statistics = start()
        .floats("scale", &[4], &[1.0; 4])
        .floats("bias", &[4], &[0.0; 4])
        .node("BatchNormalization", "a scale bias zeros ones", "b", &[])
        .node("BatchNormalization", "b scale bias zeros ones", "y", &[]);
    check(&only_statistics.output("y"), &["bias", "scale", "w"], &of_nodes);
}

#[test]
fn a_statistic_of_one_node_keeps_its_name() {
    let file = start()
        .floats("scale", &[4], &[1.0; 4])
        .floats("bias", &[4], &[0.0; 4])
        .node("BatchNormalization", "a scale bias zeros ones", "y", &[])
        .output("y");
    check(&file, &["bias", "scale", "w"], &["ones", "zeros"]);
}

/// Older exporters of PyTorch replace equal tensors by `Identity` nodes with the tensors' names.
#[test]
fn a_copied_statistic_has_the_name_of_the_copy() {
    let file = start()
        .node("Identity", "zeros", "mean", &[])
        .node("Identity", "mean", "mean_2", &[])
        .node("Identity", "ones", "variance", &[])
        .node("BatchNormalization", "a ones zeros mean variance", "b", &[])
        .node("BatchNormalization", "b ones zeros mean_2 variance", "y", &[])
        .output("y");
    // `mean` is used by a node and a copy, `variance` by two nodes.
    let statistics = ["mean_2", "node_4.running_mean", "node_4.running_var", "node_5.running_var"];
    check(&file, &["ones", "w", "zeros"], &statistics);
}

#[test]
fn nodes_with_equal_names_have_statistics_with_distinct_names() {
    let file = start()
        .node("BatchNormalization", "a ones zeros zeros ones", "b", &[])
        .node("BatchNormalization", "b ones zeros zeros ones", "y", &[])
        .floats("same.running_var", &[4], &[1.0; 4])
        .named("same");
    let statistics = ["same.running_mean", "same.running_mean_3", "same.running_var_2", "same.running_var_4"];
    check(&file.output("y"), &["ones", "w", "zeros"], &statistics);
}

/// Nodes of a file with operator `op`.
fn nodes<'a>(file: &'a ModelProto, op: &str) -> Vec<&'a NodeProto> {
    let nodes = file.graph.as_ref().unwrap().node.iter();
    nodes.filter(|node| node.op_type.as_deref() == Some(op)).collect()
}

/// The file after training, with different values for each statistic.
fn trained(file: &[u8]) -> ModelProto {
    let model = parse(file);
    let count = model.buffers().len();
    let values = model.buffers().iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), vec![index as f32; 4]));
    let values: BTreeMap<_, _> = values.collect();
    let bytes = trained_file(file.to_vec().into(), &values).unwrap();
    let again = parse(&bytes);
    assert_eq!(again.buffers().len(), count, "each node keeps separate statistics");
    for tensor in again.buffers() {
        assert_eq!(tensor.initial.to_floats().unwrap(), values[&tensor.name], "{}", tensor.name);
    }
    assert_eq!(names(again.parameters()), names(model.parameters()));
    ModelProto::parse_buf(&bytes).unwrap()
}

#[test]
fn a_trained_file_has_the_statistics_of_each_node() {
    let shared = start().node("BatchNormalization", "a ones zeros zeros ones", "b", &[]).node(
        "BatchNormalization",
        "b ones zeros zeros ones",
        "y",
        &[],
    );
    let copied = start()
        .node("Identity", "zeros", "mean", &[])
        .node("Identity", "mean", "mean_2", &[])
        .node("BatchNormalization", "a ones zeros mean ones", "b", &[])
        .node("BatchNormalization", "b ones zeros mean_2 ones", "y", &[]);
    for build in [shared, copied] {
        let file = build.output("y");
        assert_eq!(parse(&file).buffers().len(), 4);
        trained(&file);
    }
}

/// A file from before 2019 lists its initializers among the inputs; a listed one that does not exist would be required.
#[test]
fn a_trained_file_requires_no_additional_input() {
    let file = start()
        .floats("variance", &[4], &[1.0; 4])
        .floats("mean", &[4], &[0.0; 4])
        .node("BatchNormalization", "a ones zeros mean variance", "b", &[])
        .node("BatchNormalization", "b ones zeros mean variance", "y", &[])
        .initializers_as_inputs()
        .output("y");
    let graph = trained(&file).graph.unwrap();
    let mut inputs: Vec<_> =
        graph.input.into_iter().map(|input| input.name.unwrap()).filter(|name| name != "x").collect();
    let mut initializers: Vec<_> = graph.initializer.into_iter().map(|tensor| tensor.name.unwrap()).collect();
    inputs.sort();
    initializers.sort();
    assert_eq!(inputs, initializers);
    assert_eq!(inputs.len(), 7, "{inputs:?}");
}

/// A file exported in training mode stayed in it: it normalized by the batch, so it was right for whole batches only.
#[test]
fn a_trained_file_evaluates() {
    let modern = start()
        .floats("ratio", &[], &[0.5])
        .truth("training", true)
        .node("BatchNormalization", "a ones zeros zeros ones", "b m v", &[("training_mode", Int(1))])
        .node("Dropout", "b ratio training", "c mask", &[])
        .node("Dropout", "c _ training", "y", &[]);
    let graph = trained(&modern.output("y"));
    let [normalization] = nodes(&graph, "BatchNormalization")[..] else { panic!("one node") };
    assert_eq!((normalization.output.len(), normalization.attribute.len()), (1, 0));
    let inputs: Vec<_> = nodes(&graph, "Dropout").into_iter().map(|node| node.input.clone()).collect();
    assert_eq!(inputs, [vec!["b".to_owned(), "ratio".into()], vec!["c".into(), "".into()]]);
    assert!(nodes(&graph, "Dropout").iter().all(|node| node.output.len() == 1));
    let initializers = &graph.graph.as_ref().unwrap().initializer;
    assert!(initializers.iter().all(|tensor| tensor.name.as_deref() != Some("training")), "nothing uses it");

    // Before operator set 14 the number of outputs made a normalization train; before 12 dropout never trained.
    let start = Build::new(9).input("x", &[0, 4]).floats("w", &[4, 4], &Numbers::new(5).vector(16));
    let old = start
        .floats("scale", &[4], &[1.0; 4])
        .floats("bias", &[4], &[0.0; 4])
        .floats("mean", &[4], &[0.0; 4])
        .floats("variance", &[4], &[1.0; 4])
        .node("MatMul", "x w", "a", &[])
        .node("BatchNormalization", "a scale bias mean variance", "b m v sm sv", &[("momentum", Float(0.9))])
        .node("Dropout", "b", "y mask", &[("ratio", Float(0.5))]);
    let graph = trained(&old.output("y"));
    let [normalization] = nodes(&graph, "BatchNormalization")[..] else { panic!("one node") };
    assert_eq!((normalization.output.len(), normalization.attribute.len()), (1, 1));
    let [dropout] = nodes(&graph, "Dropout")[..] else { panic!("one node") };
    assert_eq!((dropout.input.len(), dropout.output.len(), dropout.attribute.len()), (1, 1, 1));
}

/// Inputs of a function's node differ from call to call, so a trained file has no functions.
#[test]
fn a_trained_file_has_the_statistics_of_each_call() {
    let calls = start().node("mine.Norm", "a ones zeros zeros ones", "b", &[]);
    let calls = calls.node("mine.Norm", "b ones zeros zeros ones", "y", &[]);
    let file = with_normalizing_function(calls.output("y"));
    let statistics =
        ["node_1/norm.running_mean", "node_1/norm.running_var", "node_2/norm.running_mean", "node_2/norm.running_var"];
    check(&file, &["ones", "w", "zeros"], &statistics);
    let graph = trained(&file);
    let normalizations = nodes(&graph, "BatchNormalization");
    assert_eq!(normalizations.len(), 2);
    assert!(normalizations.iter().all(|node| node.attribute.is_empty() && node.output.len() == 1));
    assert!(graph.opset_import.iter().all(|set| set.domain.as_deref().unwrap_or("").is_empty()));
}
