//! `skein model check`: accepts and refuses what training does, and warns of what an exporter removed.

use rten_onnx::onnx::{DataType, ModelProto};

use crate::build::Build;
use crate::build::Value::{Float, Int, Ints};
use crate::harness::Place;

/// A job on the digits that a model for images of 8×8 fits.
const JOB: &str = "[train]\nrounds = 1\npeers = 1\nbyzantine = 0\nbatch_size = 16\n";

/// A linear layer after the values of `input`.
fn linear(input: &[i64]) -> Build {
    let values = vec![0.01; 640];
    Build::new(20).input("x", input).floats("weight", &[64, 10], &values).node("Flatten", "x", "flat", &[])
}

/// The same, complete.
fn classifier(input: &[i64]) -> Vec<u8> {
    linear(input).node("MatMul", "flat weight", "logits", &[]).output("logits")
}

/// The same with an input of integers.
fn classifier_of_integers() -> Vec<u8> {
    let build = Build::new(20).input("x", &[0, 1, 8, 8]).floats("weight", &[64, 10], &[0.01; 640]);
    let build = build.node("Cast", "x", "floats", &[("to", Int(1))]).node("Flatten", "floats", "flat", &[]);
    let mut file = ModelProto::parse_buf(&build.node("MatMul", "flat weight", "logits", &[]).output("logits")).unwrap();
    let input = &mut file.graph.as_mut().unwrap().input[0];
    input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = Some(DataType::INT64);
    file.write_buf().unwrap()
}

/// Ten logits for each row of an image.
fn one_label_a_row() -> Vec<u8> {
    let build = Build::new(20).input("x", &[0, 1, 8, 8]).floats("weight", &[8, 10], &[0.01; 80]);
    let build = build.integers("rows", &[3], &[-1, 8, 8]).node("Reshape", "x rows", "y", &[]);
    build.node("MatMul", "y weight", "logits", &[]).output("logits")
}

fn two_inputs() -> Vec<u8> {
    let build = linear(&[0, 1, 8, 8]).input("more", &[0, 10]).node("MatMul", "flat weight", "y", &[]);
    build.node("Add", "y more", "logits", &[]).output("logits")
}

/// A convolution with what `after` builds behind it, and a linear layer.
fn convolution(after: impl FnOnce(Build) -> Build) -> Vec<u8> {
    let build = Build::new(20)
        .input("x", &[0, 1, 8, 8])
        .floats("kernel", &[2, 1, 3, 3], &[0.1; 18])
        .floats("weight", &[128, 10], &[0.01; 1280])
        .node("Conv", "x kernel", "a", &[("pads", Ints(&[1; 4]))]);
    let build = after(build).node("Flatten", "z", "flat", &[]);
    build.node("MatMul", "flat weight", "logits", &[]).output("logits")
}

#[test]
fn what_training_refuses_is_refused_with_the_same_words() {
    let place = Place::new();
    for (what, file, sets, expected) in [
        (
            "fixed",
            classifier(&[16, 1, 8, 8]),
            &[][..],
            "input `x` has a fixed batch of 16: export the model with a dynamic one",
        ),
        ("integers", classifier_of_integers(), &[], "its input `x` has the type int64, data sets have float32 values"),
        ("inputs", two_inputs(), &[], "it has the inputs `x` and `more`, a sample of a data set feeds one"),
        (
            "rows",
            one_label_a_row(),
            &[],
            "takes labels of the shape [16, 8] for a batch, and every data format has one class",
        ),
        (
            "numbers",
            classifier(&[0, 1, 8, 8]),
            &["--set", "model.loss=mean-squared-error"],
            "the loss `mean-squared-error` takes numbers as targets, and every data format has classes",
        ),
    ] {
        let file_name = format!("{what}.onnx");
        place.write(&file_name, file).job(JOB);
        let error = place.fails(&[&["train", "--model", &file_name], sets].concat());
        assert!(error.contains(expected), "{what}: {error}");
        let checked = place.fails(&[&["model", "check", &file_name, "--from", "skein.toml"], sets].concat());
        assert_eq!(checked, error, "{what}");
        let alone = place.fails(&[&["model", "check", &file_name, "--batch", "16"], sets].concat());
        assert_eq!(alone, error, "{what}, without a manifest");
    }
    // A function of one's own may feed what the built-in one cannot.
    std::fs::copy(crate::harness::dist("gradient-onnx"), place.path("mine.wasm")).unwrap();
    place.job(&format!("{JOB}gradient = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n"));
    assert!(place.run(&["model", "check", "integers.onnx", "--from", "skein.toml"]).success);
}

#[test]
fn the_batch_comes_from_the_manifest_or_the_command_line() {
    let place = Place::new();
    place.write("model.onnx", classifier(&[0, 1, 8, 8])).job(JOB);
    let checked = place.json(&["model", "check", "model.onnx", "--from", "skein.toml"]);
    assert_eq!(checked["batch"], 16);
    assert_eq!(checked["shape"], serde_json::json!([1, 8, 8]));
    assert_eq!(checked["classes"], 10);
    assert_eq!(checked["parameters"], 640);
    assert_eq!(checked["trained"], serde_json::json!(["weight"]));
    assert_eq!(place.json(&["model", "check", "model.onnx", "--batch", "48"])["batch"], 48);
    let both = ["model", "check", "model.onnx", "--from", "skein.toml", "--batch", "48"];
    assert_eq!(place.json(&both)["batch"], 48);
    let error = place.fails(&["model", "check", "model.onnx", "--from", "skein.toml", "--batch", "5000"]);
    assert!(error.contains("`train.batch_size` is 5000, and peer 0 has only 1617 training samples"), "{error}");
    let error = place.fails(&["model", "check", "model.onnx", "--batch", "0"]);
    assert!(error.contains("`--batch 0`: `train.batch_size` must be between 1 and 1048576, got 0"), "{error}");
    // The manifest's own model.
    place.job(&format!("[model]\nonnx = \"model.onnx\"\n{JOB}"));
    assert_eq!(place.json(&["model", "check", "--from", "skein.toml"])["parameters"], 640);
}

#[test]
fn a_model_whose_samples_only_data_determine_needs_a_manifest() {
    let place = Place::new();
    place.write("model.onnx", classifier(&[0, 1, 0, 8])).job(JOB);
    let error = place.fails(&["model", "check", "model.onnx"]);
    let expected = "the shape of its input `x`, [batch, 1, batch, 8], depends on the data: name the manifest of a job with \
                    `--from`";
    assert!(error.contains("`model.onnx` cannot be checked: ") && error.contains(expected), "{error}");
}

#[test]
fn what_an_exporter_removed_is_a_warning() {
    let place = Place::new();
    let normalized = |build: Build| {
        let build = build.floats("s", &[2], &[1.0; 2]).floats("b", &[2], &[0.0; 2]);
        let build = build.floats("m", &[2], &[0.0; 2]).floats("v", &[2], &[1.0; 2]);
        build.node("BatchNormalization", "a s b m v", "z", &[("epsilon", Float(1e-5))])
    };
    let scaled = |build: Build| {
        let build = build.floats("s", &[2, 1, 1], &[1.0; 2]).floats("b", &[2, 1, 1], &[0.5; 2]);
        build.node("Mul", "a s", "y", &[]).node("Add", "y b", "z", &[])
    };
    for (what, file, expected) in [
        (
            "bare",
            convolution(|build| build.node("Relu", "a", "z", &[])),
            Some(
                "no normalization, no dropout: exporters remove both from networks of convolutions, and this one has 1;",
            ),
        ),
        (
            "dropout without normalization",
            convolution(|build| build.node("Dropout", "a", "z", &[])),
            Some("no normalization: exporters remove it from networks of convolutions, and this one has 1;"),
        ),
        (
            "folded",
            convolution(scaled),
            Some(
                "no running statistics: a scale and a shift after `node_0` are what exporters leave of batch normalization;",
            ),
        ),
        ("normalized", convolution(normalized), None),
        ("linear", classifier(&[0, 1, 8, 8]), None),
    ] {
        place.write("model.onnx", file);
        let warnings = place.json(&["model", "check", "model.onnx"])["warnings"].clone();
        let warnings = warnings.as_array().unwrap();
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{what}: {warnings:?}");
        if let Some(expected) = expected {
            assert!(warnings[0].as_str().unwrap().starts_with(expected), "{what}: {warnings:?}");
            let text = place.run(&["model", "check", "model.onnx"]).stdout;
            assert!(text.contains(&format!("\nwarning: {expected}")), "{text}");
        }
        // Training warns as well: who trains has not always checked.
        let options = ["--set", "model.onnx=model.onnx", "--quiet"];
        let trained = place.job(JOB).run(&[&["train", "--rounds", "1"][..], &options].concat()).stderr;
        assert_eq!(trained.matches("warning: ").count(), warnings.len(), "{what}: {trained}");
    }
    // The network that comes with the program has its normalization.
    place.job(JOB);
    let own = place.json(&["model", "check", "--from", "skein.toml"]);
    assert_eq!(own["warnings"], serde_json::json!([]));
    assert_eq!(own["statistics"].as_array().unwrap().len(), 4);
}
