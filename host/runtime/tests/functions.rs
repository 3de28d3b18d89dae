//! Real guests against the runtime: what is admitted, what a hostile guest achieves, what a well-behaved one returns.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skein_engine::ElementType;
use skein_kernels::Error;
use skein_kernels::rule::Rule;
use skein_kernels::rules::RULES;
use skein_runtime::aggregate::{AggregateFunction, Contribution};
use skein_runtime::gradient::{Batch, GradientFunction, Parameters};
use skein_runtime::{CallError, Function, Limits, LoadError, Options, Origin, Runtime, StartError, Tensor};
use skein_types::{Layout, Parameter};

/// If a limit does not work, a test fails instead of hanging.
const BOUND: Duration = Duration::from_secs(60);

fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn runtime() -> Runtime {
    Runtime::start(Options { concurrency: 2, ..Options::default() }).expect("the engine starts")
}

/// Limits so small that a test of each ends at once. That of the processor is small only for a guest that loops, so
/// that a slow machine does not hit it first.
fn tight(behaviour: &str) -> Limits {
    let cpu = if behaviour == "loop" { Duration::from_millis(50) } else { BOUND };
    Limits { memory_mib: 16, cpu, wall: BOUND, hostcall_mib: 8, handles: 100, ..Limits::default() }
}

async fn probe(behaviour: &str, limits: Limits) -> GradientFunction {
    let settings = BTreeMap::from([("behaviour".to_owned(), behaviour.to_owned())]);
    let function = Function { name: "probe".into(), limits, settings, ..Function::default() };
    runtime().gradient_function(function, &component("gradient-probe.wasm")).await.expect("the probe loads")
}

fn function(name: &str) -> Function {
    Function { name: name.into(), ..Function::default() }
}

/// A layer that takes two values and returns three.
fn parameters() -> Parameters {
    let weight = Parameter { name: "layers.0.weight".into(), shape: vec![3, 2] };
    let bias = Parameter { name: "layers.0.bias".into(), shape: vec![3] };
    let layout = Arc::new(Layout::new(vec![weight, bias]));
    let values = Arc::new(vec![0.1, -0.2, 0.3, 0.4, -0.5, 0.6, 0.0, 0.1, -0.1]);
    Parameters { layout, values }
}

fn batch(labels: &[i64]) -> Batch {
    let samples = labels.len() as u32;
    let values = Arc::new((0..samples * 2).map(|i| i as f32 * 0.25 - 0.5).collect::<Vec<_>>());
    let len = values.len();
    let input = Tensor::from_floats(vec![samples, 2], values, 0..len).expect("two values a sample");
    let labels = Tensor::from_integers(labels.to_vec());
    Batch { samples, tensors: vec![("input".into(), input), ("labels".into(), labels)], noise_seed: 0 }
}

/// The outcome of a probe's call: the error's kind, and part of its message.
fn verdict(error: &CallError) -> String {
    match error {
        CallError::Limit { hit, .. } => format!("limit {}", hit.limit),
        CallError::Trap { .. } => "trap".into(),
        CallError::Refused { reason, .. } => format!("refused {}", reason.len()),
        CallError::BadOutput { reason, .. } => format!("bad output: {reason}"),
        CallError::TooFew { .. } => "too few".into(),
        CallError::Busy { limit, .. } => format!("busy {limit}"),
        CallError::Host { source, .. } => format!("host: {source}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_guest_gets_a_typed_error_and_harms_nothing() {
    for (behaviour, expected) in [
        ("loop", "limit cpu"),
        ("allocate", "limit memory_mib"),
        ("handles", "limit handles"),
        ("bytes", "limit memory_mib"),
        ("trap", "trap"),
        ("recurse", "trap"),
        ("short-tensor", "trap"),
        ("refuse", "refused 15"),
        ("shout", "refused 300"),
        ("nan-loss", "bad output: the loss is NaN"),
        ("no-samples", "bad output: it counts 0 samples of a batch of 2"),
        ("many-samples", "bad output: it counts 3 samples of a batch of 2"),
        ("missing", "bad output: the gradient of `layers.0.bias` is missing"),
        ("twice", "bad output: `layers.0.weight` is returned twice"),
        ("wrong-name", "bad output: `layers.0.weight?` is not a parameter of the model"),
        ("wrong-shape", "bad output: the gradient of `layers.0.weight` has shape [3, 2, 1], expected [3, 2]"),
        ("wrong-type", "bad output: the gradient of `layers.0.weight` has type I32, expected Fp32"),
        ("nan", "bad output: the gradient of `layers.0.weight` is not finite"),
    ] {
        let probe = probe(behaviour, tight(behaviour)).await;
        let call = probe.compute(&probe.slot().await, parameters(), batch(&[0, 1])).await;
        let error = call.result.expect_err(behaviour);
        assert!(verdict(&error).starts_with(expected), "{behaviour}: {error}");
        assert!(error.to_string().contains("`probe`"), "{error} names the function");
        assert!(call.usage.memory_bytes_peak <= 16 << 20, "{behaviour} used {}", call.usage.memory_bytes_peak);
    }
    let function = probe("zeros", tight("zeros")).await;
    let call = function.compute(&function.slot().await, parameters(), batch(&[0, 1])).await;
    assert_eq!(call.result.expect("a harmless behaviour").tensors.len(), 2);
}

/// A tensor without elements needs no data, however many dimensions it has: such tensors once took gigabytes of the host
/// within any limit.
#[tokio::test]
async fn dimensions_and_handles_count_as_memory() {
    for behaviour in ["dimensions", "views"] {
        let limits = Limits { memory_mib: 4, handles: 50_000, ..tight(behaviour) };
        let function = probe(behaviour, limits).await;
        let call = function.compute(&function.slot().await, parameters(), batch(&[0])).await;
        assert_eq!(verdict(&call.result.expect_err(behaviour)), "limit memory_mib", "{behaviour}");
    }
}

#[tokio::test]
async fn a_tensor_of_too_many_dimensions_is_refused_with_the_bound() {
    for (behaviour, rank) in [("rank", 17), ("huge-rank", 1 << 20)] {
        let function = probe(behaviour, tight(behaviour)).await;
        let call = function.compute(&function.slot().await, parameters(), batch(&[0])).await;
        let error = call.result.expect_err(behaviour);
        let CallError::Trap { trap, .. } = &error else { panic!("{behaviour}: {error}") };
        assert_eq!(trap.reason, format!("a tensor has at most 16 dimensions, this one has {rank}"));
    }
}

/// A worker's batch owns its bytes. They never counted as the guest's memory, yet dropping them once released as much
/// of it, which raised the guest's limit.
#[tokio::test]
async fn dropping_a_batch_releases_no_memory_of_the_guest() {
    let large = Tensor::from_bytes(vec![1, 4 << 20], ElementType::U8, vec![0; 4 << 20]).expect("as many bytes");
    let batch = Batch { samples: 1, tensors: vec![("input".into(), large)], noise_seed: 0 };
    let function = probe("drop-batch", tight("drop-batch")).await;
    let call = function.compute(&function.slot().await, parameters(), batch).await;
    assert_eq!(verdict(&call.result.expect_err("16 MiB and its own memory")), "limit memory_mib");
}

#[tokio::test]
async fn the_data_of_one_host_call_is_bounded() {
    let limits = Limits { memory_mib: 1024, hostcall_mib: 8, ..Limits::default() };
    let function = probe("bytes", limits).await;
    let call = function.compute(&function.slot().await, parameters(), batch(&[0])).await;
    assert_eq!(verdict(&call.result.expect_err("256 MiB at once")), "limit hostcall_mib");
}

#[tokio::test]
async fn rubbish_metrics_are_refused() {
    for (behaviour, expected) in
        [("nan-loss", "bad output: the loss is NaN"), ("too-correct", "bad output: Some(3) of 2 samples are right")]
    {
        let function = probe(behaviour, tight(behaviour)).await;
        let call = function.evaluate(&function.slot().await, parameters(), batch(&[0, 1])).await;
        let error = call.result.expect_err(behaviour);
        assert!(verdict(&error).starts_with(expected), "{error}");
    }
}

/// A busy guest on the only worker thread: if it did not yield, the timer would never fire, and neither would the wall
/// clock outside the guest.
#[tokio::test(flavor = "current_thread")]
async fn a_busy_guest_starves_nobody() {
    let limits = Limits { cpu: Duration::from_secs(3600), wall: Duration::from_secs(3), ..Limits::default() };
    let probe = probe("loop", limits).await;
    let busy = tokio::spawn(async move { probe.compute(&probe.slot().await, parameters(), batch(&[0])).await });
    let mut timer = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..5 {
        timer.tick().await;
        assert!(!busy.is_finished(), "the guest is still spinning");
    }
    let call = tokio::time::timeout(BOUND, busy).await.expect("the wall clock ends the call");
    let error = call.expect("the task ends").result.expect_err("it never returns by itself");
    assert_eq!(verdict(&error), "limit wall");
}

#[tokio::test]
async fn only_functions_of_the_world_are_admitted() {
    let mlp = component("gradient-mlp.wasm");
    let aggregate = component("aggregate-mean.wasm");
    let native = wasmtime::Engine::default().precompile_component(&mlp).expect("the component compiles");
    let halves = [&mlp[..mlp.len() / 2], &mlp[..9], &mlp[..4]];
    let runtime = runtime();
    let load = async |bytes: &[u8]| {
        let error = runtime.gradient_function(function("mine"), bytes).await.err().expect("not admitted");
        assert!(error.to_string().contains("`mine`"), "{error} names the function");
        error
    };
    assert!(matches!(load(&component("kernel-digest.wasm")).await, LoadError::CoreModule { .. }));
    assert!(matches!(load(&native).await, LoadError::Precompiled { .. }));
    assert!(matches!(load(b"").await, LoadError::NotWasm { .. }));
    assert!(matches!(load(b"#!/bin/sh").await, LoadError::NotWasm { .. }));
    assert!(matches!(load(&vec![0; (64 << 20) + 1]).await, LoadError::TooLarge { .. }));
    for half in halves {
        assert!(matches!(load(half).await, LoadError::Invalid { .. }), "{} bytes", half.len());
    }
    let LoadError::WrongWorld { reason, .. } = load(&aggregate).await else { panic!("an aggregation function") };
    assert!(reason.contains("skein:train/gradients@0.1.0"), "{reason} names the interface");
    let error = runtime.aggregate_function(function("mine"), &mlp).await.err().expect("a gradient function");
    assert!(matches!(error, LoadError::WrongWorld { .. }), "{error}");
}

#[tokio::test]
async fn artifacts_are_cached_and_only_authentic_ones_are_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = || Options { cache_dir: Some(dir.path().to_owned()), concurrency: 1, ..Options::default() };
    let load = async || {
        let runtime = Runtime::start(options()).expect("the engine starts");
        let loaded = runtime.aggregate_function(function("mean"), &component("aggregate-mean.wasm")).await;
        loaded.expect("the component loads").info().origin
    };
    let artifact = || {
        let mut files = std::fs::read_dir(dir.path()).expect("the cache").map(|entry| entry.expect("an entry").path());
        files.find(|path| path.extension().is_some_and(|e| e == "cwasm")).expect("an artifact")
    };
    assert_eq!(load().await, Origin::Compiled);
    assert_eq!(load().await, Origin::Cached);

    let path = artifact();
    let good = std::fs::read(&path).expect("the artifact");
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    let foreign = wasmtime::Engine::default().precompile_component(&component("gradient-mlp.wasm"));
    for (damage, bytes) in
        [("altered", altered), ("truncated", good[..100].to_vec()), ("foreign", foreign.expect("compiles"))]
    {
        std::fs::write(&path, bytes).expect("the cache is writable");
        assert_eq!(load().await, Origin::Compiled, "{damage}");
        assert_eq!(load().await, Origin::Cached, "after {damage}");
    }
    use std::os::unix::fs::PermissionsExt;
    for path in [dir.path().join("key"), path] {
        assert_eq!(std::fs::metadata(path).expect("a file").permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_cache_makes_room_for_what_was_used_last() {
    let dir = tempfile::tempdir().expect("a folder");
    let load = async |name: &str| {
        let cache_dir = Some(dir.path().to_owned());
        let options = Options { cache_dir, concurrency: 1, cache_mib: 0, ..Options::default() };
        let runtime = Runtime::start(options).expect("the engine starts");
        let loaded = runtime.aggregate_function(function(name), &component(&format!("{name}.wasm"))).await;
        loaded.expect("the component loads").info().origin
    };
    // Without any room only the newest stays.
    assert_eq!(load("aggregate-mean").await, Origin::Compiled);
    assert_eq!(load("aggregate-mean").await, Origin::Cached);
    assert_eq!(load("aggregate-median").await, Origin::Compiled);
    assert_eq!(load("aggregate-median").await, Origin::Cached);
    assert_eq!(load("aggregate-mean").await, Origin::Compiled);
}

/// Hosts that start at the same time once compiled the same component all together, which took the machine as many times
/// as long.
#[tokio::test]
async fn hosts_that_share_a_cache_compile_a_component_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let load = async || {
        let options = Options { cache_dir: Some(dir.path().to_owned()), concurrency: 1, ..Options::default() };
        let runtime = Runtime::start(options).expect("the engine starts");
        let mlp = runtime.gradient_function(function("mlp"), &component("gradient-mlp.wasm")).await.expect("it loads");
        mlp.info().origin
    };
    let (first, second) = tokio::join!(load(), load());
    assert_eq!([first, second].iter().filter(|origin| **origin == Origin::Compiled).count(), 1, "{first:?} {second:?}");
    let left = std::fs::read_dir(dir.path()).expect("the cache").count();
    assert_eq!(left, 2, "the artifact and the key");
}

/// The key of a cache is worth as much as the program: another user who may read or write it could have this host load
/// native code.
#[tokio::test]
async fn the_key_of_a_cache_is_for_its_owner_only_and_never_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    let start = || Runtime::start(Options { cache_dir: Some(dir.path().to_owned()), ..Options::default() });
    start().expect("a new key");
    let path = dir.path().join("key");
    let key = std::fs::read(&path).expect("the key");
    start().expect("the same key");
    assert_eq!(std::fs::read(&path).expect("the key"), key);
    for (mode, bytes, problem) in [
        (0o644, &key[..], "has mode 644, at most 600 is safe"),
        (0o620, &key, "has mode 620, at most 600 is safe"),
        (0o600, &key[..31], "has 31 bytes, expected 32"),
    ] {
        std::fs::write(&path, bytes).expect("the folder is writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its owner changes it");
        let error = start().expect_err(problem);
        let StartError::Cache { source, .. } = &error else { panic!("{error}") };
        let source = source.to_string();
        assert!(source.contains(problem) && source.contains("remove the folder"), "{source}");
        assert_eq!(std::fs::read(&path).expect("the key"), bytes, "it is left as it is");
    }
}

#[tokio::test]
async fn calls_are_metered() {
    let runtime = runtime();
    let mlp = runtime.gradient_function(function("mlp"), &component("gradient-mlp.wasm")).await.expect("it loads");
    let cold = mlp.compute(&mlp.slot().await, parameters(), batch(&[0, 2])).await.usage;
    let warm = mlp.compute(&mlp.slot().await, parameters(), batch(&[0, 2])).await.usage;
    assert!(cold.cold && !warm.cold);
    assert!(warm.memory_bytes_peak > 1 << 16 && warm.memory_bytes_peak < 16 << 20, "{warm:?}");
    assert!(warm.duration > Duration::ZERO && warm.gb_seconds() > 0.0);
}

#[tokio::test]
async fn the_perceptron_computes_the_gradient_of_its_loss() {
    let runtime = runtime();
    let mlp = runtime.gradient_function(function("mlp"), &component("gradient-mlp.wasm")).await.expect("it loads");
    let batch = batch(&[0, 2, 1, 1]);
    let gradient = mlp.compute(&mlp.slot().await, parameters(), batch.clone()).await.result.expect("a gradient");
    assert_eq!(gradient.samples, 4);
    let flat: Vec<f32> = gradient.tensors.iter().flat_map(|t| t.floats().expect("FP32").into_owned()).collect();
    let loss_at = async |index: usize, offset: f32| {
        let Parameters { layout, values } = parameters();
        let mut values = values.to_vec();
        values[index] += offset;
        let call =
            mlp.evaluate(&mlp.slot().await, Parameters { layout, values: Arc::new(values) }, batch.clone()).await;
        call.result.expect("metrics").loss
    };
    for (index, analytic) in flat.into_iter().enumerate() {
        let numeric = (loss_at(index, 1e-2).await - loss_at(index, -1e-2).await) / 2e-2;
        assert!((numeric - analytic).abs() < 1e-3, "parameter {index}: {numeric} {analytic}");
    }
    let refused = mlp
        .compute(&mlp.slot().await, parameters(), batch_with_label(3))
        .await
        .result
        .expect_err("a label out of range");
    assert!(refused.to_string().contains("label 3 of sample 0 is none of the 3 classes"), "{refused}");
}

fn batch_with_label(label: i64) -> Batch {
    batch(&[label])
}

/// Invariant 1: a rule computes the same bits natively and as Wasm, over several windows and odd sizes, with its
/// parameters set and not.
#[tokio::test]
async fn rules_compute_the_same_bits_natively_and_in_wasm() {
    let runtime = runtime();
    for kind in RULES {
        for set in [&kind.parameters[..0], kind.parameters] {
            let rule = Rule::new(kind, 1);
            let rule = set.iter().fold(rule, |rule, parameter| rule.with(parameter.name, "2").expect("it fits"));
            let parameters = set.iter().map(|parameter| (parameter.name.to_owned(), "2".to_owned()));
            let weighted = kind.takes_weights.then(|| ("weighted".to_owned(), "true".to_owned()));
            let settings = parameters.chain(weighted).collect();
            let function = Function { name: kind.function.into(), settings, ..Function::default() };
            let wasm = component(&format!("{}.wasm", kind.function));
            let wasm = runtime.aggregate_function(function, &wasm).await.expect("it loads");
            for (peers, len) in [(1, 9), (2, 5), (3, 1), (4, 1000), (5, 300_001), (8, 70_007)] {
                same_bits(&rule, &wasm, contributions(peers, len)).await;
            }
        }
    }
}

async fn same_bits(rule: &Rule, wasm: &AggregateFunction, contributions: Vec<Contribution>) {
    let rows: Vec<&[f32]> = contributions.iter().map(|c| c.values.as_slice()).collect();
    let weights = contributions.iter().map(|c| c.samples as f32).collect();
    let rule = if rule.kind().takes_weights { rule.clone().weighted(weights) } else { rule.clone() };
    let mut expected = vec![0.0; rows[0].len()];
    let native = rule.apply(&rows, &mut expected);
    let actual = wasm.aggregate(&wasm.slot().await, contributions.clone(), 1, 0).await.result;
    match (native, actual) {
        (Ok(()), Ok(actual)) => {
            let same = actual.values.iter().zip(&expected).all(|(a, e)| a.to_bits() == e.to_bits());
            assert!(same, "{rule} of {} x {}", rows.len(), expected.len());
        }
        (Err(Error::TooFew { needed, .. }), Err(CallError::TooFew { needed: reported, present, .. })) => {
            assert_eq!((reported as usize, present), (needed, rows.len()), "{rule}");
        }
        (native, actual) => panic!("{rule} of {}: {native:?} {actual:?}", rows.len()),
    }
}

#[tokio::test]
async fn the_mean_is_weighted_by_samples_if_set() {
    let runtime = runtime();
    let run = async |setting: &str| {
        let settings = BTreeMap::from([("weighted".to_owned(), setting.to_owned())]);
        let function = Function { name: "mean".into(), settings, ..Function::default() };
        let mean = runtime.aggregate_function(function, &component("aggregate-mean.wasm")).await.expect("it loads");
        let contribution =
            |samples, value| Contribution { peer: "peer".into(), samples, values: Arc::new(vec![value]) };
        mean.aggregate(&mean.slot().await, vec![contribution(3, 0.0), contribution(1, 4.0)], 0, 0)
            .await
            .result
            .map(|a| a.values)
    };
    assert_eq!(run("false").await.expect("a mean"), [2.0]);
    assert_eq!(run("true").await.expect("a mean"), [1.0]);
    assert!(matches!(run("maybe").await, Err(CallError::Refused { .. })));
}

fn contributions(peers: usize, len: usize) -> Vec<Contribution> {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 20) as f32 - 8.0
    };
    (0..peers)
        .map(|peer| Contribution {
            peer: format!("{peer:064x}"),
            samples: 1,
            values: Arc::new((0..len).map(|_| noise()).collect()),
        })
        .collect()
}

/// Invariant 1 for every kernel, optimizers included: one digest over all their results.
#[test]
fn kernels_compute_the_same_bits_natively_and_in_wasm() {
    let engine = wasmtime::Engine::default();
    let module = wasmtime::Module::new(&engine, component("kernel-digest.wasm")).expect("a core module");
    let mut store = wasmtime::Store::new(&engine, ());
    let instance = wasmtime::Instance::new(&mut store, &module, &[]).expect("it imports nothing");
    let digest = instance.get_typed_func::<(), u64>(&mut store, "digest").expect("its only export");
    assert_eq!(digest.call(&mut store, ()).expect("no trap"), kernel_digest::digest());
}
