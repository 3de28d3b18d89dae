//! ONNX models: trained through an engine, exported again, refused with a reason.

use std::fs;
use std::sync::Arc;

use crate::harness::{Place, root, state_hash};

/// Engines that are ready on this machine, from `skein engine list`.
pub(crate) fn engines() -> Vec<String> {
    let listed = Place::new().json(&["engine", "list"]);
    let rows = listed.as_array().unwrap().iter();
    let ready = rows.filter(|row| row["state"] == "ready").map(|row| row["engine"].as_str().unwrap().to_owned());
    let ready: Vec<String> = ready.collect();
    for kind in ["onnxruntime", "openvino"].into_iter().filter(|kind| !ready.iter().any(|ready| ready == kind)) {
        assert!(std::env::var_os("SKEIN_ENGINES_REQUIRED").is_none(), "`{kind}` must be installed");
        println!("skipped: `{kind}` is not installed");
    }
    ready
}

/// Exports the built-in network to `small.onnx`.
fn small_network(place: &Place) {
    place.job("[train]\nrounds = 1\npeers = 1\nbyzantine = 0\n");
    place.json(&["train", "--out", "start"]);
    place.json(&["export", "--checkpoint", "start", "--to", "small.onnx"]);
}

#[test]
fn every_engine_trains_and_all_peers_keep_in_step() {
    for engine in engines() {
        let place = Place::new();
        place.job("[train]\nrounds = 30\nlearning_rate = 0.1\noptimizer = { name = \"momentum\" }\n");
        let summary = place.json(&["train", "--engine", &engine]);
        let accuracy = summary["validation_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.9, "{engine}: {accuracy}");
        assert_eq!(state_hash(&place.json(&["train", "--engine", &engine])), state_hash(&summary), "{engine}");
    }
}

/// Two files of one content name the same file beside them: one changed byte there makes another model.
#[test]
fn the_identity_of_a_job_covers_tensors_in_files_of_their_own() {
    let place = Place::new();
    for file in ["linear.onnx", "linear.onnx.data"] {
        fs::copy(root().join("tests/data/external").join(file), place.path(file)).unwrap();
    }
    place.job("[model]\nonnx = \"linear.onnx\"\n[train]\nrounds = 2\n");
    let job = || place.json(&["train"])["job"].clone();
    let before = job();
    assert_eq!(job(), before);
    let mut data = fs::read(place.path("linear.onnx.data")).unwrap();
    data[0] ^= 1;
    fs::write(place.path("linear.onnx.data"), data).unwrap();
    assert_ne!(job(), before);
}

/// Every engine computes the loss of the exported file on the test samples that the run reported.
#[test]
fn an_exported_model_gives_the_same_loss_elsewhere() {
    const HELD_OUT: u32 = 200;
    let place = Place::new();
    place.job_on(&format!("source = \"builtin:digits\"\ntest_samples = {HELD_OUT}\n"), "[train]\nrounds = 20\n");
    let expected = place.json(&["train", "--out", "run"])["test"]["loss"].as_f64().unwrap();
    place.json(&["export", "--checkpoint", "run", "--to", "trained.onnx"]);
    let data =
        skein_job::data::Dataset::load("builtin:digits".as_ref(), &skein_job::manifest::Data::default()).unwrap();
    let last = data.len() as u32 - HELD_OUT..data.len() as u32;
    let batch = data.batch(&last.collect::<Vec<_>>());
    let input = Arc::new(batch.inputs);
    let labels = batch.labels;
    let len = input.len();
    let input = skein_engine::Tensor::from_floats(vec![HELD_OUT, 1, 8, 8], input, 0..len).unwrap();
    let options = skein_engine::Options { threads: 1, device: skein_engine::Device::Cpu };
    for engine in engines() {
        let engine = skein_engine::open(engine.parse().unwrap(), None).unwrap();
        let mut session = engine.compile(&fs::read(place.path("trained.onnx")).unwrap(), options).unwrap();
        let logits = session.run(&[("input", input.clone())], &["logits"], &skein_engine::Stop::default()).unwrap();
        let logits = logits[0].floats().unwrap();
        let loss = |(row, label): (&[f32], &i64)| {
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            sum.ln() - f64::from(row[*label as usize])
        };
        let loss = logits.chunks(10).zip(&labels).map(loss).sum::<f64>() / f64::from(HELD_OUT);
        assert!((loss - expected).abs() < 1e-5 * expected, "{}: {loss} for {expected}", engine.kind());
    }
}

/// The exported file evaluates like the trained model; so does the checkpoint.
#[test]
fn an_exported_model_evaluates_as_the_trained_one_did() {
    let place = Place::new();
    place.job("[train]\nrounds = 40\nlearning_rate = 0.1\n");
    let trained = place.json(&["train", "--out", "run"]);
    place.json(&["export", "--checkpoint", "run", "--to", "trained.onnx"]);
    place.json(&["export", "--checkpoint", "run", "--to", "trained.safetensors"]);
    let evaluated = place.json(&["eval", "--checkpoint", "run"]);
    assert_eq!(evaluated["validation"]["accuracy"], trained["validation_accuracy"]);
    // A round with a learning rate near 0 moves no parameter, so the summary evaluates the file.
    let still = "[train]\nrounds = 1\nlearning_rate = 1e-30\nevaluate_every = 1\n[model]\nonnx = \"trained.onnx\"\n";
    place.job(still);
    let summary = place.json(&["train", "--out", "still"]);
    let difference = summary["validation"]["loss"].as_f64().unwrap() - trained["validation"]["loss"].as_f64().unwrap();
    assert!(difference.abs() < 0.05, "{difference}");
    let bytes = fs::read(place.path("trained.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("linear.weight").unwrap().shape(), [10, 512]);
    assert_eq!(tensors.names().len(), 12);
    let error = place.fails(&["export", "--checkpoint", "still", "--to", "model.pb"]);
    assert!(error.contains("ends in neither `.onnx` nor `.safetensors`"), "{error}");
}

#[test]
fn a_training_graph_is_written_to_a_separate_file() {
    let place = Place::new();
    small_network(&place);
    let graph = ["model", "train-graph", "small.onnx", "--to", "train.onnx"];
    let frozen = place.json(&[&graph[..], &["--freeze", "blocks.0.*"]].concat());
    assert_eq!(frozen["trained"].as_array().unwrap().len(), 5);
    assert_eq!(frozen["statistics"].as_array().unwrap().len(), 4);
    let written = place.json(&graph);
    assert_eq!(written["trained"].as_array().unwrap().len(), 8);
    // Its parameters are inputs, but it is a valid ONNX file.
    let inspected = place.json(&["model", "inspect", "train.onnx"]);
    let inputs: Vec<&str> =
        inspected["inputs"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(inputs[0], "input");
    for name in ["labels", "linear.weight", "blocks.1.norm.running_var"] {
        assert!(inputs.contains(&name), "{inputs:?} lacks {name}");
    }
    let error = place.fails(&["model", "check", "train.onnx"]);
    assert!(error.contains("it has the inputs `input` and "), "a training graph is not trained again: {error}");
}

#[test]
fn a_model_that_cannot_be_used_is_refused_by_name() {
    const GRAPH: [&str; 5] = ["model", "train-graph", "small.onnx", "--to", "x.onnx"];
    let place = Place::new();
    small_network(&place);
    let file = fs::read(place.path("small.onnx")).unwrap();
    place.write("half.onnx", &file[..file.len() / 2]);
    place.write("text.onnx", "not a model");
    for (arguments, expected) in [
        (&["model", "check", "half.onnx"][..], "`half.onnx` cannot be used as a model"),
        (&["model", "check", "text.onnx"], "`text.onnx` cannot be used as a model"),
        (&["model", "check", "gone.onnx"], "failed to read the model `gone.onnx`"),
        (&[&GRAPH[..], &["--loss", "hinge"]].concat(), "there is no loss `hinge`: choose `cross-entropy`"),
        (&[&GRAPH[..], &["--size", "time=3"]].concat(), "no input of the model has a size named `time`"),
        (&[&GRAPH[..], &["--freeze", "nothing"]].concat(), "no parameter of the model is named `nothing`"),
        (&[&GRAPH[..], &["--lowering", "fast"]].concat(), "there is no lowering `fast`"),
        (&["train", "--model", "small.tflite"], "a file that ends in `.onnx`"),
        (&["train", "--engine", "tensorflow"], "there is no engine `tensorflow`"),
        (&["train", "--engine", "rten", "--device", "cuda"], "`rten` cannot run on cuda"),
        (&["engine", "install", "rten"], "`rten` is built in"),
    ] {
        let error = place.run(arguments);
        assert!(!error.success && error.stderr.contains(expected), "{arguments:?}: {}", error.stderr);
    }
    place.job_on("source = \"builtin:digits\"\nclasses = 12\n", "[model]\nonnx = \"small.onnx\"\n");
    assert!(place.fails(&["train"]).contains(
        "`logits` has the shape [batch, 10], which is 10 outputs for each sample, and the data has 12 classes: export the model with"
    ));
    place.write("table.csv", "a,b,label\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n");
    place.job_on("source = \"table.csv\"\n", "[model]\nonnx = \"small.onnx\"\n[train]\npeers = 1\nbyzantine = 0\n");
    assert!(
        place.fails(&["train"]).contains("its input `input` takes [batch, 1, 8, 8], the samples have the shape [2]")
    );
    std::fs::File::create(place.path("large.onnx")).unwrap().set_len((2 << 30) + 1).unwrap();
    assert!(place.fails(&["model", "check", "large.onnx"]).contains("more than an ONNX file can hold"));
    place.job("[model]\nonnx = \"small.onnx\"\nnetwork = \"mlp\"\n");
    assert!(place.fails(&["train"]).contains("exclude each other"));
}

/// A file that is not a library of the engine, and a missing one.
#[test]
fn a_wrong_library_is_refused_with_the_fix() {
    let place = Place::new();
    place.write("engines/onnxruntime/onnxruntime/capi/libonnxruntime.so.1.0", "no library");
    place.job("[train]\nrounds = 1\n");
    let library = place.path("engines/onnxruntime");
    let arguments = ["train", "--engine", "onnxruntime", "--engine-library"];
    let error = place.fails(&[&arguments[..], &[library.to_str().unwrap()]].concat());
    assert!(error.contains("libonnxruntime.so.1.0") && error.contains("skein engine install onnxruntime"), "{error}");
    let error = place.fails(&[&arguments[..], &["nowhere"]].concat());
    assert!(error.contains("is not in `nowhere`") && error.contains("skein engine install onnxruntime"), "{error}");
}

/// The values of one tensor of an ONNX file.
fn values(place: &Place, file: &str, name: &str) -> Vec<f32> {
    let bytes = fs::read(place.path(file)).unwrap();
    let model = skein_graph::Model::parse(bytes.into(), &|_| Err(String::new())).unwrap();
    let tensor = model.parameters().iter().find(|tensor| tensor.name == name).unwrap();
    tensor.initial.to_floats().unwrap()
}

/// Frozen parameters keep the values of the file, in the run and in the exported file.
#[test]
fn frozen_parameters_stay_as_they_are() {
    let place = Place::new();
    small_network(&place);
    place.job("[model]\nonnx = \"small.onnx\"\nfreeze = [\"blocks.*\"]\n[train]\nrounds = 5\n");
    let trained = place.json(&["train", "--out", "run"]);
    assert_eq!(trained["parameters"], 10 * 512 + 10 + 2 * (16 + 32), "the linear layer and running statistics");
    place.json(&["export", "--checkpoint", "run", "--to", "trained.onnx"]);
    let is_same = |name| values(&place, "small.onnx", name) == values(&place, "trained.onnx", name);
    assert!(is_same("blocks.0.conv.weight"));
    assert!(!is_same("linear.weight"));
}

/// A learning rate near 0 moves nothing, which shows the initial values of a run.
#[test]
fn a_model_starts_from_its_file_or_from_the_seed() {
    let place = Place::new();
    small_network(&place);
    for (init, seed, is_of_file) in [("file", "1", true), ("kaiming", "1", false), ("xavier", "2", false)] {
        let model = format!("[model]\nonnx = \"small.onnx\"\ninit = \"{init}\"\n");
        place.job(&format!("{model}[train]\nrounds = 1\nlearning_rate = 1e-30\n"));
        place.json(&["train", "--out", init, "--seed", seed]);
        let file = format!("{init}.onnx");
        place.json(&["export", "--checkpoint", init, "--to", &file, "--seed", seed]);
        let start = values(&place, &file, "blocks.1.conv.weight");
        assert_eq!(start == values(&place, "small.onnx", "blocks.1.conv.weight"), is_of_file, "{init}");
        if !is_of_file {
            assert_eq!(values(&place, &file, "blocks.1.norm.weight"), [1.0; 32], "{init}");
            // He et al. draw from ±√(6 / fan-in), Glorot and Bengio from ±√(6 / (fan-in + fan-out)).
            let bound = if init == "kaiming" { (6.0f32 / 144.0).sqrt() } else { (6.0f32 / (144.0 + 32.0)).sqrt() };
            let largest = start.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            assert!(largest <= bound && largest > 0.9 * bound, "{init}: {largest} for {bound}");
        }
    }
}
