//! The table of operators in `docs/models.md` says what the crate does: every operator is tried.

use std::collections::BTreeSet;
use std::fs;

use rten_onnx::onnx::ModelProto;
use skein_graph::{Loss, Model, OPERATORS, Options};

use crate::Numbers;
use crate::build::Build;
use crate::build::Value::{Float, Int, Ints, Text};

const PAGE: &str = "../../docs/models.md";
/// First words of the table's rows.
const ROWS: [&str; 3] = ["with a gradient", "without a gradient", "refused"];

/// Values that the nodes below may use; `a`, of shape `[3, 4, 5]`, depends on the parameter `p`.
fn start() -> Build {
    let floats = |build: Build, name: &str, dims: &[i64]| {
        build.floats(name, dims, &Numbers::new(5).vector(dims.iter().product::<i64>() as usize))
    };
    let mut build = Build::new(23).input("x", &[3, 4, 5]);
    for (name, dims) in [
        ("p", &[4, 5][..]),
        ("scale4", &[4]),
        ("bias4", &[4]),
        ("scale5", &[5]),
        ("bias5", &[5]),
        ("columns", &[5, 2]),
        ("long", &[20, 2]),
        ("kernel", &[2, 4, 3]),
        ("turned", &[4, 2, 3]),
        ("row", &[1, 4, 5]),
    ] {
        build = floats(build, name, dims);
    }
    for (name, values) in [
        ("i0", &[0][..]),
        ("i1", &[1]),
        ("i3", &[3]),
        ("two", &[2, 2]),
        ("to", &[3, 20]),
        ("big", &[2, 3, 4, 5]),
        ("reps", &[1, 2, 1]),
        ("pads", &[0, 0, 1, 0, 0, 1]),
    ] {
        build = build.integers(name, &[values.len() as i64], values);
    }
    build
        .integers("axis", &[], &[1])
        .integers("five", &[], &[5])
        .integers("point", &[1, 1], &[0])
        .integers("indices", &[1, 4, 5], &[0; 20])
        .floats("zero", &[], &[0.0])
        .floats("half", &[], &[0.5])
        .floats("off_on", &[2], &[0.0, 1.0])
        .floats("mean", &[4], &[0.0; 4])
        .floats("variance", &[4], &[1.0; 4])
        .floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0])
        .node("Add", "x p", "a", &[])
        .node("Greater", "a zero", "truth", &[])
        .node("Flatten", "a", "flat", &[])
        .node("Unsqueeze", "a i3", "wide", &[])
        .node("Shape", "a", "sizes", &[])
}

/// A model whose output depends on the parameter through one operator, if it lets anything through.
fn file(op: &str) -> Vec<u8> {
    let inputs = match op {
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Sum" | "Mean" | "Mod" | "CastLike" => "a x",
        "And" | "Or" | "Xor" => "truth truth",
        "Not" => "truth",
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => "a zero",
        "Pow" | "Dropout" => "a half",
        "PRelu" => "a scale5",
        "Where" => "truth a x",
        "MatMul" => "a columns",
        "Gemm" => "flat long",
        "Reshape" => "a to",
        "Expand" => "a big",
        "Tile" => "a reps",
        "Slice" => "a i0 i1",
        "Pad" => "a pads",
        "Split" => "a two",
        "Squeeze" => "wide i3",
        "Unsqueeze" => "a i3",
        "Gather" => "a i1",
        "GatherElements" => "a indices",
        "GatherND" => "a point",
        "ScatterElements" => "a indices row",
        "ScatterND" => "a point row",
        "OneHot" => "indices five off_on",
        "Range" => "axis five axis",
        "CumSum" => "a axis",
        "Constant" => "",
        "ConstantOfShape" => "sizes",
        "Conv" => "a kernel",
        "ConvTranspose" => "a turned",
        "Resize" => "wide _ scales",
        "BatchNormalization" => "a scale4 bias4 mean variance",
        "InstanceNormalization" | "GroupNormalization" => "a scale4 bias4",
        "LayerNormalization" => "a scale5 bias5",
        "RMSNormalization" => "a scale5",
        "Attention" => "wide wide wide",
        _ => "a",
    };
    let attributes = match op {
        "Cast" => vec![("to", Int(1))],
        "Concat" | "Split" => vec![("axis", Int(1))],
        "Constant" => vec![("value_float", Float(1.0))],
        "Einsum" => vec![("equation", Text("bij->bji"))],
        "GroupNormalization" => vec![("num_groups", Int(2))],
        "AveragePool" | "MaxPool" => vec![("kernel_shape", Ints(&[2]))],
        "Transpose" => vec![("perm", Ints(&[0, 2, 1]))],
        _ => vec![],
    };
    // Whatever the type of the result, the loss takes floats.
    let outputs = if op == "Split" { "result rest" } else { "result" };
    start().node(op, inputs, outputs, &attributes).node("Cast", "result", "y", &[("to", Int(1))]).output("y")
}

/// Whether the gradient of `p` in a training graph depends on the labels, as that of a parameter that matters does.
fn reaches_the_labels(onnx: &[u8]) -> bool {
    let graph = ModelProto::parse_buf(onnx).unwrap().graph.unwrap();
    let mut open = vec!["grad.p".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        let makers = graph.node.iter().filter(|node| node.output.contains(&name));
        open.extend(makers.flat_map(|node| node.input.clone()).filter(|input| seen.insert(input.clone())));
    }
    seen.contains("labels")
}

/// The row of the table to which an operator belongs.
fn row(op: &str) -> &'static str {
    let model = Model::parse(file(op).into(), &|_| Err(String::new())).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = model.evaluation_graph() {
        assert_eq!(op, "Upsample", "{error}");
        return ROWS[2];
    }
    match model.training_graph(&Options { loss: Loss::MeanSquaredError, ..Options::default() }) {
        Ok(graph) if reaches_the_labels(&graph.onnx) => ROWS[0],
        Ok(_) => ROWS[1],
        Err(error) => {
            assert!(error.to_string().contains("it has no gradient"), "{error}");
            ROWS[1]
        }
    }
}

#[test]
fn the_page_lists_every_operator_as_it_is_treated() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (known, rest) = OPERATORS.into_iter().partition::<Vec<_>, _>(|op| page.contains(&format!("`{op}`")));
    assert!(rest.is_empty(), "`docs/models.md` lacks {rest:?}");
    for first in ROWS {
        let operators: Vec<String> = known.iter().filter(|op| row(op) == first).map(|op| format!("`{op}`")).collect();
        let expected = format!("| {first} | {} |", operators.join(", "));
        assert!(page.lines().any(|line| line == expected), "`docs/models.md` lacks this row:\n{expected}");
    }
}
