//! The processor time that calls are charged with is that of this process. A single test, since nothing else may run.

#[path = "../assembled/components.rs"]
mod components;
#[path = "../common/engines.rs"]
mod engines;
#[path = "../common/network.rs"]
mod network;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use skein_engine::Kind;
use skein_runtime::aggregate::Contribution;
use skein_runtime::gradient::{Batch, Gradient, GradientFunction, Parameters};
use skein_runtime::{Call, CallError, Function, Limit, Limits, Options, Runtime, Tensor};

use self::components::{IMPORTS, aggregation};

/// Processor time of each function, long enough that what the runtime itself takes is little beside it.
const LIMIT: Duration = Duration::from_millis(500);
const BOUND: Duration = Duration::from_secs(60);

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[tokio::test]
async fn a_call_is_charged_with_the_processor_time_of_its_work() {
    let runtime = Runtime::start(Options { concurrency: 1, ..Options::default() }).expect("the engine starts");
    guests_are_charged(&runtime).await;
    for kind in engines::engines() {
        engines_are_charged(&runtime, kind).await;
    }
}

async fn guests_are_charged(runtime: &Runtime) {
    let limits = Limits { memory_mib: 64, cpu: LIMIT, wall: BOUND, hostcall_mib: 32, handles: 10, ..Limits::default() };
    let values = Arc::new(vec![1.0; 2 << 20]);
    for (work, body) in [
        ("a loop", "(loop $more (br $more))"),
        // Reading resets the allocator, so that every read copies 8 MiB to the same place.
        (
            "copies",
            "(local $first i32)
             (local.set $first (i32.load (local.get $list)))
             (loop $more
               (global.set $next (i32.const 65536))
               (call $read (local.get $first) (i64.const 0) (i32.const 2097152) (i32.const 16))
               (br $more))",
        ),
    ] {
        let items = "(func $reserve (drop (memory.grow (i32.const 200)))) (start $reserve)";
        let component = aggregation(IMPORTS, items, body);
        let function = Function { name: "busy".into(), limits, ..Function::default() };
        let function = runtime.aggregate_function(function, &component).await.expect("it loads");
        let slot = function.slot().await;
        let contributions = vec![Contribution { peer: "peer".into(), samples: 1, values: values.clone() }];
        let begun = processor_time();
        let call = function.aggregate(&slot, contributions, 0, 0).await;
        let used = processor_time() - begun;
        let error = call.result.expect_err("it never ends");
        let CallError::Limit { hit, .. } = &error else { panic!("{work}: {error}") };
        assert_eq!((hit.limit, hit.bound.as_str()), (Limit::Cpu, "500ms"), "{work}");
        let ratio = call.usage.cpu.as_secs_f64() / used.as_secs_f64();
        assert!((0.9..1.1).contains(&ratio), "{work}: charged {:?} of {used:?}", call.usage.cpu);
    }
}

/// Samples of a batch, of which an engine computes for much longer than the rest of the call takes.
const SAMPLES: u32 = 128;
/// Calls of an engine. Its time is that of the wall, which other processes make longer: the least counts.
const CALLS: usize = 5;

async fn engines_are_charged(runtime: &Runtime, kind: Kind) {
    let engine = skein_engine::open(kind, None).expect("it was found");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models/resnet.plain.onnx");
    let (parameters, graphs) = network::network(engine, std::fs::read(model).expect("a model of the repository"));
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist/gradient-onnx.wasm");
    let component = std::fs::read(component).expect("a component of the repository");
    let function = |wall| Function {
        limits: Limits { memory_mib: 512, cpu: BOUND, wall, ..Limits::default() },
        graphs: graphs.clone(),
        ..Function::default()
    };
    let computing = runtime.gradient_function(function(BOUND), &component).await.expect("it loads");
    // The first run prepares the engine's session.
    compute(&computing, &parameters).await.result.expect("a gradient");
    let mut ratios = Vec::with_capacity(CALLS);
    let mut shortest = BOUND;
    for _ in 0..CALLS {
        let begun = processor_time();
        let Call { result, usage } = compute(&computing, &parameters).await;
        let used = processor_time() - begun;
        result.expect("a gradient");
        ratios.push(usage.cpu.as_secs_f64() / used.as_secs_f64());
        shortest = shortest.min(usage.duration);
    }
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    println!("{kind}: charged by used {ratios:?}");
    assert!((0.9..1.1).contains(&least), "{kind}: charged by used {ratios:?}");

    let wall = shortest / 3;
    let stopped = runtime.gradient_function(function(wall), &component).await.expect("it loads");
    let Call { result, usage } = compute(&stopped, &parameters).await;
    let error = result.expect_err("the run lasts longer");
    assert!(matches!(&error, CallError::Limit { hit, .. } if hit.limit == Limit::Wall), "{kind}: {error}");
    assert!(usage.cpu >= wall / 2, "{kind}: the run that was stopped is charged: {usage:?}");
}

async fn compute(function: &GradientFunction, parameters: &Parameters) -> Call<Gradient> {
    let values: Vec<f32> = (0..SAMPLES * 3 * 32 * 32).map(|i| (i % 255) as f32 / 255.0).collect();
    let len = values.len();
    let input = Tensor::from_floats(vec![SAMPLES, 3 * 32 * 32], Arc::new(values), 0..len).expect("as many as fit");
    let labels = Tensor::from_integers((0..i64::from(SAMPLES)).map(|label| label % 3).collect());
    let batch =
        Batch { samples: SAMPLES, tensors: vec![("input".into(), input), ("labels".into(), labels)], noise_seed: 1 };
    let slot = function.slot().await;
    function.compute(&slot, parameters.clone(), batch).await
}
