//! Models that cannot be trained are refused with the node's name and a fix; hostile files do no harm.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rten_onnx::onnx::{DataLocation, DataType, StringStringEntryProto, TensorProto};
use skein_graph::{Loss, Lowering, Model, Options, trained_file};

use crate::Numbers;
use crate::build::Build;
use crate::build::Value::{Float, Graph, Half, Int, Ints};
use crate::rules::channel_dropout;

/// Reads a file, derives its training graph, and returns the error.
fn refusal(file: Vec<u8>, loss: Loss) -> String {
    let model = Model::parse(file.into(), &|data| Err(format!("`{}` does not exist", data.location)));
    let derived = model.and_then(|model| model.training_graph(&Options { loss, ..Options::default() }));
    derived.expect_err("a refusal").to_string()
}

fn start() -> Build {
    Build::new(20).input("x", &[0, 4]).floats("w", &[4, 3], &Numbers::new(5).vector(12)).node("MatMul", "x w", "a", &[])
}

fn typed(name: &str, ty: DataType, bytes: usize) -> TensorProto {
    let raw = Some(std::cell::RefCell::new(vec![0; bytes]));
    TensorProto { name: Some(name.into()), dims: vec![3], data_type: Some(ty), raw_data: raw, ..Default::default() }
}

#[test]
fn operators_without_a_rule_are_named() {
    let cases = [
        (
            start().node("Frobnicate", "a", "y", &[]).output("y"),
            "node `node_1` (operator `Frobnicate`): there is no rule for this operator",
        ),
        (
            start().node("com.example.Fancy", "a", "y", &[]).output("y"),
            "node `node_1` (operator `com.example.Fancy`): there is no rule for this operator",
        ),
        (
            start().node("If", "a", "y", &[("then_branch", Graph)]).output("y"),
            "node `node_1` (operator `If`): it holds a graph",
        ),
        (
            start().node("RandomNormalLike", "a", "y", &[]).output("y"),
            "(operator `RandomNormalLike`): the only random numbers are those of dropout: use `nn.Dropout`",
        ),
        // Its channels are not divided by the share that is kept.
        (channel_dropout(0.75, "half").output("y"), "(operator `RandomUniformLike`): the only random numbers"),
        (channel_dropout(1.5, "p").output("y"), "(operator `RandomUniformLike`): the only random numbers"),
        (start().node("Loop", "a", "y", &[]).output("y"), "node `node_1` (operator `Loop`): control flow"),
        (start().node("Floor", "a", "y", &[]).output("y"), "node `node_1` (operator `Floor`): it has no gradient"),
        (start().node("CumSum", "a one", "y", &[]).integers("one", &[], &[1]).output("y"), "it has no gradient"),
        (start().node("Upsample", "a", "y", &[]).output("y"), "export the model with a newer operator set"),
        (start().node("Relu", "nowhere", "y", &[]).output("y"), "nothing computes its input `nowhere`"),
        (start().output("nowhere"), "nothing computes the output `nowhere`"),
        (start().node("Constant", "", "c", &[("value", Half)]).output("a"), "its attribute `value` has type float16"),
    ];
    for (file, expected) in cases {
        let refusal = refusal(file, Options::default().loss);
        assert!(refusal.contains(expected), "{refusal:?} lacks {expected:?}");
    }
}

/// The last step of a dropout of channels has no name to give to what replaces it.
#[test]
fn a_node_without_outputs_is_no_dropout() {
    let file = start()
        .node("RandomUniformLike", "a", "drawn", &[])
        .floats("keep", &[], &[0.5])
        .node("Less", "drawn keep", "kept", &[])
        .node("CastLike", "kept a", "converted", &[])
        .node("Div", "converted keep", "", &[])
        .output("a");
    let refusal = refusal(file, Options::default().loss);
    assert!(refusal.contains("(operator `RandomUniformLike`): the only random numbers"), "{refusal}");
}

/// With one value per channel, the output is the bias whatever the input, and no gradient passes.
#[test]
fn a_normalization_over_one_value_is_refused_in_training_alone() {
    let file = || {
        let start = start().floats("s", &[3], &[1.0; 3]).floats("b", &[3], &[0.0; 3]);
        let start = start.floats("m", &[3], &[0.0; 3]).floats("v", &[3], &[1.0; 3]);
        start.node("BatchNormalization", "a s b m v", "y", &[]).output("y")
    };
    let sized = |batch: i64| {
        let model = Model::parse(file().into(), &|_| Err(String::new())).expect("a model");
        model.with_sizes(&BTreeMap::from([("batch".to_owned(), batch)])).expect("sizes that fit")
    };
    let error = sized(1).training_graph(&Options::default()).expect_err("one value").to_string();
    let expected = "node `node_1` (operator `BatchNormalization`): in training it normalizes each channel over the values of \
                    the batch, and there is only 1 value per channel: choose a batch size of at least 2";
    assert_eq!(error, expected);
    assert!(sized(2).training_graph(&Options::default()).is_ok());
    assert!(sized(1).evaluation_graph().is_ok());
}

#[test]
fn unusable_tensors_are_named() {
    let add = |tensor: TensorProto| start().tensor(tensor).node("Add", "a b", "y", &[]).output("y");
    let external = TensorProto {
        data_location: Some(DataLocation::EXTERNAL),
        external_data: vec![StringStringEntryProto { key: Some("location".into()), value: Some("b.bin".into()) }],
        ..typed("b", DataType::FLOAT, 0)
    };
    let cases = [
        (add(typed("b", DataType::FLOAT16, 6)), "tensor `b`: has type float16: export the model in float32"),
        (add(typed("b", DataType::BFLOAT16, 6)), "tensor `b`: has type bfloat16: export the model in float32"),
        (add(typed("b", DataType::DOUBLE, 24)), "tensor `b`: has type float64: export the model in float32"),
        (add(typed("b", DataType::INT8, 3)), "tensor `b`: has type int8: export the model before it is quantized"),
        (add(typed("b", DataType::INT64, 24)), "node `node_1` (operator `Add`): inputs of type F32 and I64"),
        (add(typed("b", DataType::FLOAT, 8)), "tensor `b`: has 8 bytes, which do not fit its sizes [3]"),
        (add(external), "tensor `b`: has its values in `b.bin`: `b.bin` does not exist"),
        (
            Build::new(20)
                .input("x", &[0, 4])
                .integers("w", &[4, 3], &[1; 12])
                .node("MatMul", "x w", "y", &[])
                .output("y"),
            "node `node_0` (operator `MatMul`): input 1 has type I64, expected float32",
        ),
        (
            Build::new(20).input("x", &[0, 4]).node("Relu", "x", "y", &[]).output("y"),
            "the model has no parameter to train",
        ),
        (
            Build::new(20)
                .input("labels", &[0, 4])
                .floats("w", &[4], &[1.0; 4])
                .node("Mul", "labels w", "y", &[])
                .output("y"),
            "tensor `labels`: has a name that the training graph uses",
        ),
    ];
    for (file, expected) in cases {
        let refusal = refusal(file, Options::default().loss);
        assert!(refusal.contains(expected), "{refusal:?} lacks {expected:?}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let conv = |size: i64| {
        Build::new(20)
            .input("x", &[1, 2, size, 5])
            .floats("w", &[3, 2, 3, 3], &Numbers::new(5).vector(54))
            .node("Conv", "x w", "y", &[])
            .output("y")
    };
    let reshaped = start().integers("to", &[2], &[7, -1]).node("Reshape", "a to", "y", &[]).output("y");
    let cases = [
        (
            conv(0),
            "node `node_0` (operator `Conv`): the size `batch` in [1, 2, batch, 5] must be known: set the model's input sizes",
        ),
        (conv(2), "node `node_0` (operator `Conv`): its window of 3 does not fit into 2 padded elements"),
        (reshaped, "node `node_1` (operator `Reshape`): [batch, 3] cannot be reshaped to [7, -1]"),
        (start().node("MatMul", "a w", "y", &[]).output("y"), "[batch, 3] and [4, 3] cannot be multiplied"),
        (start().node("Softmax", "a", "y", &[("axis", Int(5))]).output("y"), "axis 5 is out of range for 2 dimensions"),
    ];
    for (file, expected) in cases {
        let refusal = refusal(file, Options::default().loss);
        assert!(refusal.contains(expected), "{refusal:?} lacks {expected:?}");
    }
    let model = Model::parse(start().output("a").into(), &|_| Err(String::new())).unwrap();
    let error = model.clone().with_sizes(&BTreeMap::from([("time".to_owned(), 3)])).unwrap_err();
    assert_eq!(error.to_string(), "no input of the model has a size named `time`");
    let error = model.with_sample_shape(&[5]).unwrap_err();
    assert_eq!(error.to_string(), "input `x` has shape [batch, 4], but samples have [5]");
}

#[test]
fn files_that_are_not_models_are_refused() {
    let old = Build::new(6).input("x", &[0, 4]).output("x");
    for (file, expected) in [
        (vec![], "it names no operator set of ai.onnx"),
        (b"PK\x03\x04, a zip".to_vec(), "the file is not a usable ONNX model"),
        (old, "it uses operator set 6; 7 to 24 are supported"),
        (Build::new(20).output("y"), "its graph has no input or no output"),
    ] {
        let refusal = refusal(file, Options::default().loss);
        assert!(refusal.contains(expected), "{refusal:?} lacks {expected:?}");
    }
}

/// Sizes are a few bytes of a file and can claim anything: everything derived from them is bounded.
#[test]
fn absurd_sizes_cost_no_memory() {
    let huge = 1 << 30;
    let pool = |op: &str, kernel: [i64; 2], pads: [i64; 4]| {
        Build::new(20)
            .input("x", &[0, 1, 3, 3])
            .floats("w", &[1, 1, 1, 1], &[1.0])
            .node("Conv", "x w", "a", &[])
            .node(op, "a", "y", &[("kernel_shape", Ints(&kernel)), ("pads", Ints(&pads))])
            .output("y")
    };
    let files = [
        pool("MaxPool", [huge, huge], [huge, huge, 0, 0]),
        pool("AveragePool", [huge, huge], [huge, huge, 0, 0]),
        pool("MaxPool", [2, 2], [huge, huge, huge, huge]),
        Build::new(20)
            .input("x", &[0, 1, huge, huge])
            .floats("w", &[1, 1, 1, 1], &[1.0])
            .node("Conv", "x w", "y", &[])
            .output("y"),
        Build::new(20)
            .input("x", &[0, 1, 1, 1])
            .floats("w", &[1, 1, 1, 1], &[1.0])
            .integers("shape", &[4], &[1, 1, huge, huge])
            .node("Conv", "x w", "a", &[])
            .node("Expand", "a shape", "y", &[])
            .output("y"),
    ];
    for file in files {
        let model = Model::parse(file.into(), &|_| Err(String::new())).unwrap();
        for lowering in [Lowering::portable(), Lowering::onnxruntime(), Lowering::rten()] {
            // Some of these graphs can be derived, for an engine to refuse.
            let options = Options { loss: Loss::MeanSquaredError, lowering, ..Options::default() };
            let size = model.training_graph(&options).map_or(0, |graph| graph.onnx.len());
            assert!(size < 1 << 20, "{size} bytes");
        }
    }
}

/// Deeply nested messages are an error, not a stack overflow.
#[test]
fn a_graph_in_a_graph_in_a_graph_does_not_overflow() {
    let wrap = |inner: Vec<u8>, field: u8| {
        let mut outer = vec![field << 3 | 2];
        push_length(&mut outer, inner.len());
        outer.extend(inner);
        outer
    };
    // An attribute (field 5 of a node) that holds a graph (field 6) of one node (field 1), in the model's (field 7).
    let node = (0..2000).fold(vec![], |node, _| [1, 6, 5].into_iter().fold(node, wrap));
    let file = [1, 7].into_iter().fold(node, wrap);
    let refusal = refusal(file, Options::default().loss);
    assert!(refusal.contains("recursion limit"), "{refusal}");
}

/// Functions of a file are inlined, with attributes passed on; a function that calls itself is refused.
#[test]
fn functions_of_the_file_are_inlined() {
    let text = |field: u8, text: &str| [&[field << 3 | 2, text.len() as u8], text.as_bytes()].concat();
    let node = |op: &str, domain: &str, names: [&str; 2], attribute: Vec<u8>| {
        let fields = [text(1, names[0]), text(2, names[1]), text(4, op), text(7, domain), attribute].concat();
        [vec![7 << 3 | 2, fields.len() as u8], fields].concat()
    };
    // An attribute `alpha` of a float (type 1) whose value is that of the call.
    let passed_on = [text(1, "alpha"), vec![20 << 3 & 0x7f | 0x80, 1, 1], vec![0xaa, 1, 5], b"slope".to_vec()].concat();
    let passed_on = [vec![5 << 3 | 2, passed_on.len() as u8], passed_on].concat();
    let function = |name: &str, body: Vec<u8>| {
        let fields = [text(1, name), text(4, "a"), text(5, "b"), text(6, "slope"), body, text(10, "mine")].concat();
        // Field 25 of the model.
        [vec![0xca, 1, fields.len() as u8], fields].concat()
    };
    let file = |called: &str| {
        let model = start().node(&format!("mine.{called}"), "a", "y", &[("slope", Float(0.25))]).output("y");
        let body =
            [node("LeakyRelu", "", ["a", "t"], passed_on.clone()), node("Tanh", "", ["t", "b"], vec![])].concat();
        let endless = node("Endless", "mine", ["a", "b"], vec![]);
        [model, function("Bend", body), function("Endless", endless)].concat()
    };
    let model = Model::parse(file("Bend").into(), &|_| Err(String::new())).unwrap();
    let operators = model.operators();
    assert_eq!(operators.keys().copied().collect::<Vec<_>>(), ["LeakyRelu", "MatMul", "Tanh"]);
    let plain = start().node("LeakyRelu", "a", "t", &[("alpha", Float(0.25))]).node("Tanh", "t", "y", &[]).output("y");
    let plain = Model::parse(plain.into(), &|_| Err(String::new())).unwrap();
    let derive = |model: &Model| model.training_graph(&Options::default()).unwrap().onnx;
    assert!(derive(&model) == derive(&plain));
    let refusal = refusal(file("Endless"), Options::default().loss);
    assert!(refusal.contains("its function calls itself"), "{refusal}");
}

fn push_length(buffer: &mut Vec<u8>, mut len: usize) {
    while len >= 128 {
        buffer.push(len as u8 | 128);
        len >>= 7;
    }
    buffer.push(len as u8);
}

/// Models that together use most of the format that is read.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = crate::rules::files();
    seeds.push(start().integers("to", &[2], &[-1, 3]).node("Reshape", "a to", "y", &[]).output("y"));
    seeds.extend(crate::files::seeds());
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A file with some bytes changed or its end cut off is a model or an error, never a panic.
    #[test]
    fn damaged_files_never_panic(
        which in 0usize..100,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let seeds = seeds();
        let mut file = seeds[which % seeds.len()].clone();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let _ = trained_file(file.clone().into(), &BTreeMap::new());
        if let Ok(model) = Model::parse(file.into(), &|_| Err(String::new())) {
            let _ = model.training_graph(&Options::default());
            let _ = model.training_graph(&Options { lowering: Lowering::onnxruntime(), ..Options::default() });
            let _ = model.training_graph(&Options { loss: Loss::MeanSquaredError, ..Options::default() });
            let _ = model.evaluation_graph();
        }
    }
}
