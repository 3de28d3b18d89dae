//! Guests that use the job's graphs through `wasi:nn`, correctly and incorrectly.

#[path = "common/network.rs"]
mod shared;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skein_engine::Kind;
use skein_graph::networks;
use skein_runtime::gradient::{Batch, Gradient, Parameters};
use skein_runtime::graphs::{Graphs, Loader};
use skein_runtime::{Call, CallError, Function, Limit, Limits, Options, Runtime, Tensor};

const SAMPLES: u32 = 4;
/// If a limit does not work, a test fails instead of hanging.
const BOUND: Duration = Duration::from_secs(60);

fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The small convolutional network for images of 8×8, its graphs on the engine that is built in.
fn network() -> (Parameters, Graphs) {
    let engine = skein_engine::open(Kind::Rten, None).expect("it is built in");
    shared::network(engine, networks::convolutional([1, 8, 8], 10))
}

fn batch() -> Batch {
    let values: Vec<f32> = (0..SAMPLES * 64).map(|i| (i % 17) as f32 / 17.0).collect();
    let len = values.len();
    let input = Tensor::from_floats(vec![SAMPLES, 64], Arc::new(values), 0..len).expect("as many values as fit");
    let labels = Tensor::from_integers((0..i64::from(SAMPLES)).collect());
    Batch { samples: SAMPLES, tensors: vec![("input".into(), input), ("labels".into(), labels)], noise_seed: 1 }
}

fn limits() -> Limits {
    Limits { memory_mib: 16, cpu: BOUND, wall: BOUND, hostcall_mib: 8, handles: 1000, ..Limits::default() }
}

fn function(behaviour: &str, limits: Limits, graphs: Graphs) -> Function {
    let settings = BTreeMap::from([("behaviour".to_owned(), behaviour.to_owned())]);
    Function { name: "guest".into(), limits, settings, graphs, ..Function::default() }
}

async fn compute(name: &str, function: Function, parameters: Parameters) -> Call<Gradient> {
    let runtime = Runtime::start(Options { concurrency: 2, ..Options::default() }).expect("the engine starts");
    let function = runtime.gradient_function(function, &component(name)).await.expect("it loads");
    function.compute(&function.slot().await, parameters, batch()).await
}

async fn call(name: &str, behaviour: &str, graphs: Graphs, parameters: Parameters) -> Call<Gradient> {
    compute(name, function(behaviour, limits(), graphs), parameters).await
}

/// The error of a call of the probe within these limits.
async fn refusal(behaviour: &str, limits: Limits) -> CallError {
    let (parameters, graphs) = network();
    let call = compute("gradient-probe.wasm", function(behaviour, limits, graphs), parameters).await;
    call.result.expect_err(behaviour)
}

#[tokio::test]
async fn gradients_are_returned_without_the_guest_reading_a_parameter() {
    let (parameters, graphs) = network();
    let Call { result, usage } = call("gradient-onnx.wasm", "", graphs, parameters.clone()).await;
    let gradient = result.expect("a gradient");
    assert_eq!(gradient.tensors.len(), parameters.layout.parameters().len());
    // All weights are zero, so every class is as likely as any other.
    assert!((gradient.loss - 10f32.ln()).abs() < 1e-5, "{}", gradient.loss);
    assert_eq!(usage.parameter_bytes, 0, "parameters stay with the host");
    assert!(usage.engine > Duration::ZERO && usage.engine < usage.duration);
    // The running variance moves a tenth of the way from 1 to that of zeros.
    let last = gradient.tensors.last().expect("statistics come last").floats().expect("floats").into_owned();
    assert!(last.iter().all(|value| (value - 0.9).abs() < 1e-6), "{last:?}");
}

#[tokio::test]
async fn a_guest_can_read_the_errors_it_makes() {
    let (parameters, graphs) = network();
    for (behaviour, expected) in [
        ("graph-load", "ErrorCode::Security: this function may not load its own graphs"),
        ("graph-unknown", "ErrorCode::NotFound: there is no graph `nothing`: the job has `model/train`"),
        ("graph-empty", "ErrorCode::InvalidArgument: input `input` of the graph: it is missing"),
        ("graph-strange", "ErrorCode::InvalidArgument: input `strange` of the graph: it has no such input"),
        ("graph-twice", "ErrorCode::InvalidArgument: input `input` of the graph: it is given twice"),
        ("graph-wrong-shape", "input `input` of the graph: it has shape [3], expected [batch, 1, 8, 8]"),
        ("graph-large-batch", "input `input` of the graph: it has 100000 samples, the batch of this call has 4"),
        ("graph-wrong-type", "ErrorCode::"),
        ("graph-half", "input `input` of the graph: rten does not support Fp16"),
    ] {
        let Call { result, .. } = call("gradient-probe.wasm", behaviour, graphs.clone(), parameters.clone()).await;
        let error = result.expect_err(behaviour).to_string();
        assert!(error.contains("refused its input") && error.contains(expected), "{behaviour}: {error}");
    }
    let call = call("gradient-probe.wasm", "graph-right", graphs, parameters).await;
    call.result.expect("the same graph still works after all that");
}

/// Graphs that load are tested with the program whose child processes run them.
#[tokio::test]
async fn a_process_starts_only_for_what_may_be_a_graph() {
    let (parameters, mut graphs) = network();
    let program = "/does/not/exist".into();
    graphs.loader = Some(Loader { program, engine: Kind::Rten, library: None, threads: 1 });
    let load = |behaviour| call("gradient-probe.wasm", behaviour, graphs.clone(), parameters.clone());
    let error = load("graph-load-openvino").await.result.expect_err("the wrong format").to_string();
    assert!(error.contains("ErrorCode::InvalidEncoding: graphs must be ONNX"), "{error}");
    let error = load("graph-load").await.result.expect_err("there is no such program");
    assert!(matches!(error, CallError::Host { .. }), "{error}");
}

/// Results of rten once did not count: a function could keep as many as it had handles. Those of one run take 40 KiB in
/// 13 handles, so that memory runs out here long before the handles, which alone would fill a fifth of it.
#[tokio::test]
async fn results_that_are_kept_count_as_memory() {
    let limits = Limits { memory_mib: 12, handles: 8000, ..limits() };
    let error = refusal("graph-hoard", limits).await;
    assert!(matches!(&error, CallError::Limit { hit, .. } if hit.limit == Limit::Memory), "{error}");
}

/// Handles count as memory even if they hold no data.
#[tokio::test]
async fn handles_of_graphs_and_errors_count_as_memory() {
    for behaviour in ["graph-hoard-errors", "graph-hoard-graphs", "graph-hoard-contexts"] {
        let limits = Limits { memory_mib: 4, handles: 50_000, ..limits() };
        let error = refusal(behaviour, limits).await;
        assert!(matches!(&error, CallError::Limit { hit, .. } if hit.limit == Limit::Memory), "{behaviour}: {error}");
    }
}

/// An error once repeated the name of an unknown input in full, megabytes of it, without counting as memory.
#[tokio::test]
async fn an_error_repeats_at_most_a_kibibyte_of_a_function_s_text() {
    let error = refusal("graph-shout", limits()).await.to_string();
    // Each letter has two bytes and begins at an odd offset, so the last byte is not filled.
    assert!(error.contains("1023 bytes: input `ää"), "{error}");
}

#[tokio::test]
async fn names_count_as_memory_while_a_graph_runs() {
    let error = refusal("graph-long-name", Limits { memory_mib: 12, ..limits() }).await;
    assert!(matches!(&error, CallError::Limit { hit, .. } if hit.limit == Limit::Memory), "{error}");
    let error = refusal("graph-long-name", limits()).await.to_string();
    assert!(error.contains("input `aaaa"), "{error}");
}

#[tokio::test]
async fn a_guest_may_compute_with_other_values_than_the_store_s() {
    let (parameters, graphs) = network();
    let Call { result, .. } = call("gradient-probe.wasm", "graph-forged", graphs, parameters).await;
    result.expect("an input like any other");
}
