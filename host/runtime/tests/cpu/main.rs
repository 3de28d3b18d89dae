//! The processor time that calls are charged with is that of this process. A single test, since nothing else may run.

#[path = "../assembled/components.rs"]
mod components;

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use skein_runtime::aggregate::Contribution;
use skein_runtime::{CallError, Function, Limit, Limits, Options, Runtime};

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
