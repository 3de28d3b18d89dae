//! What calls share: the processors, the places in the queue, and the memory of all functions together.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use skein_runtime::gradient::{Batch, GradientFunction, Parameters};
use skein_runtime::{CallError, Function, Limit, Limits, LoadError, Options, Runtime};

/// If a limit does not work, a test fails instead of hanging.
const BOUND: Duration = Duration::from_secs(60);

fn runtime(concurrency: usize, memory_mib: Option<u32>) -> Runtime {
    Runtime::start(Options { concurrency, memory_mib, ..Options::default() }).expect("the engine starts")
}

/// A function that does what a test asks for.
async fn probe(runtime: &Runtime, behaviour: &str, limits: Limits) -> Result<GradientFunction, LoadError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist/gradient-probe.wasm");
    let settings = BTreeMap::from([("behaviour".to_owned(), behaviour.to_owned())]);
    let function = Function { name: "probe".into(), limits, settings, ..Function::default() };
    runtime.gradient_function(function, &std::fs::read(path).expect("a component of the repository")).await
}

async fn call(function: &GradientFunction) -> CallError {
    let batch = Batch { samples: 1, tensors: Vec::new(), noise_seed: 0 };
    let slot = function.slot().await;
    function.compute(&slot, Parameters::default(), batch).await.result.expect_err("no such call returns a gradient")
}

fn limit(error: &CallError) -> Limit {
    match error {
        CallError::Limit { hit, .. } => hit.limit,
        CallError::Busy { limit, .. } => *limit,
        other => panic!("{other}"),
    }
}

/// For each processor, 24 calls spin for as long as they may: each waits for most of the time.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_processor_is_not_the_guests_fault() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let calls = 24 * processors;
    let runtime = runtime(calls, None);
    let limits = Limits { cpu: Duration::from_millis(100), wall: Duration::from_secs(1), ..Limits::default() };
    let spinning = probe(&runtime, "loop", limits).await.expect("it loads");
    let calls: Vec<_> = (0..calls)
        .map(|_| {
            let spinning = spinning.clone();
            tokio::spawn(async move { limit(&call(&spinning).await) })
        })
        .collect();
    for ended in calls {
        assert_eq!(ended.await.expect("the task ends"), Limit::Cpu);
    }
}

#[tokio::test]
async fn a_full_queue_and_a_long_wait_are_busy_and_no_fault_of_the_guest() {
    let runtime = runtime(4, None);
    let limits = Limits { concurrency: 1, queue: 1, queue_wait: BOUND, ..Limits::default() };
    let function = probe(&runtime, "trap", limits).await.expect("it loads");
    let first = function.slot_within_limits().await.expect("nobody is before it");
    let waiting = tokio::spawn({
        let function = function.clone();
        async move { function.slot_within_limits().await.is_ok() }
    });
    // On this only thread it runs until it waits.
    tokio::task::yield_now().await;
    let error = function.slot_within_limits().await.expect_err("a second one waits already");
    assert_eq!(limit(&error), Limit::Queue);
    assert_eq!(error.to_string(), "function `probe` is busy, its limit is `queue = 1`: try again later");
    drop(first);
    assert!(waiting.await.expect("the task ends"), "its turn has come");

    let limits = Limits { queue_wait: Duration::from_millis(10), ..limits };
    let impatient = probe(&runtime, "trap", limits).await.expect("it loads");
    let held = impatient.slot_within_limits().await.expect("the other function's calls do not count");
    let error = impatient.slot_within_limits().await.expect_err("it waits in vain");
    assert_eq!(limit(&error), Limit::QueueWait);
    assert!(error.to_string().contains("`queue_wait = 10ms`"), "{error}");
    drop(held);
    drop(impatient.slot_within_limits().await.expect("those that gave up do not wait any more"));
}

#[tokio::test]
async fn calls_wait_until_there_is_memory_for_them() {
    let runtime = runtime(4, Some(300));
    let limits = |memory_mib| Limits { memory_mib, ..Limits::default() };
    let function = probe(&runtime, "trap", limits(200)).await.expect("it loads");
    let small = probe(&runtime, "trap", limits(100)).await.expect("it loads");
    let first = function.slot().await;
    let beside = small.slot().now_or_never().expect("there is memory for both");
    drop(beside);
    let mut second = std::pin::pin!(function.slot());
    assert!(second.as_mut().now_or_never().is_none(), "400 MiB are too much");
    drop(first);
    drop(second.await);
    let error = probe(&runtime, "trap", limits(301)).await.err().expect("no call could ever run");
    assert!(matches!(error, LoadError::TotalMemory { needed_mib: 301, memory_mib: 300, .. }), "{error}");
}
