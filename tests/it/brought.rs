//! Graphs that functions bring along: computed by child processes of the real program, which end with the call whatever
//! the graph does.

mod bringing;
#[path = "../../host/runtime/tests/common/brought.rs"]
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skein_engine::{Kind, library};
use skein_runtime::gradient::{Batch, GradientFunction, Metrics, Parameters};
use skein_runtime::graphs::{Graphs, Loader};
use skein_runtime::{Call, CallError, Function, Limit, Limits, Options, Runtime};
use skein_types::Layout;

use self::bringing::{CALL_ONCE, DROP_EACH, HOLD_ALL, bringing};
use self::files::{constant, endless, filled, squared};
use crate::harness::{Place, is_confined};
use crate::onnx::engines;

/// If a limit does not work, a test fails instead of hanging.
const BOUND: Duration = Duration::from_secs(120);
/// Within which a process is gone that nobody needs any more: far less than the processor time that it may use.
const KILLED: Duration = Duration::from_secs(30);

fn limits() -> Limits {
    Limits { memory_mib: 512, cpu: BOUND, wall: BOUND, hostcall_mib: 8, handles: 2000, ..Limits::default() }
}

/// A function that brings a graph, and the program that runs it, under a name of its own.
struct Bringer {
    function: GradientFunction,
    program: PathBuf,
    _place: Place,
}

impl Bringer {
    async fn new(engine: Kind, component: &[u8], limits: Limits) -> Bringer {
        let place = Place::new();
        let program = place.path("skein-of-this-test");
        symlink(env!("CARGO_BIN_EXE_skein"), &program).unwrap();
        let library = (engine != Kind::Rten).then(|| library::find(engine).unwrap());
        let loader = Loader { program: program.clone(), engine, library, threads: 1 };
        let graphs = Graphs { loader: Some(loader), ..Graphs::default() };
        let function = Function { name: "guest".into(), limits, graphs, ..Function::default() };
        let runtime = Runtime::start(Options { concurrency: 1, ..Options::default() }).unwrap();
        let function = runtime.gradient_function(function, component).await.unwrap();
        Bringer { function, program, _place: place }
    }

    /// Calls the function, and checks that no process is left once the call's slot is free again.
    async fn call(&self) -> Call<Metrics> {
        let batch = Batch { samples: 1, tensors: vec![], noise_seed: 0 };
        let parameters = Parameters { layout: Arc::new(Layout::default()), values: Arc::default() };
        let call = self.function.evaluate(&self.function.slot().await, parameters, batch).await;
        drop(tokio::time::timeout(KILLED, self.function.slot()).await.expect("its process is killed"));
        assert_eq!(self.processes(), Vec::<PathBuf>::new(), "no process is left");
        call
    }

    /// The folders in `/proc` of the processes that run graphs for this function.
    fn processes(&self) -> Vec<PathBuf> {
        let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let name = self.program.to_str().unwrap();
        let is_own = |path: &PathBuf| {
            fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.starts_with(&format!("{name}\0run-graph\0")))
        };
        all.filter(is_own).collect()
    }
}

fn kinds() -> Vec<Kind> {
    engines().iter().map(|name| name.parse().unwrap()).collect()
}

/// The error text that the function got and returned.
fn refusal(call: &Call<Metrics>) -> &str {
    match &call.result {
        Err(CallError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn hit(call: &Call<Metrics>) -> Limit {
    match &call.result {
        Err(CallError::Limit { hit, .. }) => hit.limit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_brought_graph_computes_on_every_engine() {
    for engine in kinds() {
        let bringer = Bringer::new(engine, &bringing(&squared(), CALL_ONCE), limits()).await;
        let call = bringer.call().await;
        assert_eq!(call.result.as_ref().unwrap().loss, 9.0, "{engine}: the square of 3");
        let usage = call.usage;
        println!("{engine}: {usage:?}");
        assert!(usage.engine > Duration::ZERO && usage.engine < usage.duration, "{engine}: {usage:?}");
        assert!(usage.cpu >= Duration::from_millis(10), "{engine}: its process is charged: {usage:?}");
        assert!(usage.memory_bytes_peak > 1 << 20, "{engine}: its process counts as memory: {usage:?}");
    }
}

/// The kernel's view of the process while the graph runs, and the end of a graph that never ends.
#[tokio::test]
async fn a_graph_that_never_ends_is_killed_with_its_call() {
    for engine in kinds() {
        let limits = Limits { wall: Duration::from_secs(4), ..limits() };
        let bringer = Bringer::new(engine, &bringing(&endless(), CALL_ONCE), limits).await;
        let mut call = Box::pin(bringer.call());
        let mut seen = None;
        let call = loop {
            tokio::select! {
                biased;
                call = &mut call => break call,
                () = tokio::task::yield_now() => {}
            }
            let status = bringer.processes().first().and_then(|path| fs::read_to_string(path.join("status")).ok());
            seen = status.filter(|status| is_confined(status)).or(seen);
        };
        assert_eq!(hit(&call), Limit::Wall, "{engine}");
        assert!(seen.is_some(), "{engine}: no process in a sandbox was seen");
        let Call { usage, .. } = call;
        println!("{engine}: {usage:?}");
        assert!(usage.cpu > Duration::from_millis(300), "{engine}: what it computed until then is charged: {usage:?}");
    }
}

#[tokio::test]
async fn the_processor_time_of_a_brought_graph_is_the_calls() {
    for engine in kinds() {
        let limits = Limits { cpu: Duration::from_secs(1), ..limits() };
        let bringer = Bringer::new(engine, &bringing(&endless(), CALL_ONCE), limits).await;
        let call = bringer.call().await;
        assert_eq!(hit(&call), Limit::Cpu, "{engine}");
        assert!(call.usage.cpu < Duration::from_secs(3), "{engine}: {:?}", call.usage);
    }
}

/// Four terabytes: some engines abort when they get no memory, which once ended the host.
#[tokio::test]
async fn a_graph_that_asks_for_terabytes_harms_nobody_else() {
    for engine in kinds() {
        let bringer = Bringer::new(engine, &bringing(&filled(&[1 << 20, 1 << 20]), CALL_ONCE), limits()).await;
        let call = bringer.call().await;
        println!("{engine}: {}", refusal(&call));
        assert!(refusal(&call).contains(engine.name()), "{engine}: {}", refusal(&call));
    }
}

/// The process has the memory for these 200 MiB, but not for the call's copy beside them.
#[tokio::test]
async fn an_output_that_is_larger_than_the_calls_memory_is_never_read() {
    let graph = constant(&[50, 1 << 20]);
    let bringer = Bringer::new(Kind::Rten, &bringing(&graph, CALL_ONCE), limits()).await;
    let call = bringer.call().await;
    assert_eq!(hit(&call), Limit::Memory);
}

#[tokio::test]
async fn memory_that_does_not_suffice_for_a_process_is_a_limit() {
    let limits = Limits { memory_mib: 1, ..limits() };
    let bringer = Bringer::new(Kind::Rten, &bringing(&squared(), CALL_ONCE), limits).await;
    assert_eq!(hit(&bringer.call().await), Limit::Memory);
}

#[tokio::test]
async fn bytes_that_are_no_graph_are_an_error_that_the_function_can_read() {
    for engine in kinds() {
        let bringer = Bringer::new(engine, &bringing(b"\x08\x09", CALL_ONCE), limits()).await;
        let call = bringer.call().await;
        let expected = format!("`{engine}` cannot compile the graph");
        assert!(refusal(&call).contains(&expected), "{engine}: {}", refusal(&call));
    }
}

/// A thousand loads, of which none is dropped: the fifth is refused, and so are all after it.
#[tokio::test]
async fn a_call_holds_few_graphs_at_a_time() {
    let bringer = Bringer::new(Kind::Rten, &bringing(&squared(), HOLD_ALL), limits()).await;
    let call = bringer.call().await;
    assert_eq!(call.result.unwrap().loss, 4.0, "so many loads were successful");
}

/// A graph that is dropped makes place for another, and its memory is free again: twenty would not fit at a time.
#[tokio::test]
async fn graphs_can_be_loaded_one_after_the_other() {
    let limits = Limits { memory_mib: 64, ..limits() };
    let bringer = Bringer::new(Kind::Rten, &bringing(&squared(), DROP_EACH), limits).await;
    let call = bringer.call().await;
    println!("{:?}", call.usage);
    assert_eq!(call.result.unwrap().loss, 20.0, "all loads were successful");
}

/// A process that ends by itself, here before it could answer, is told with its status.
#[tokio::test]
async fn a_program_that_is_not_skein_is_the_hosts_fault() {
    let component = bringing(&squared(), CALL_ONCE);
    let loader = Loader { program: "/bin/false".into(), engine: Kind::Rten, library: None, threads: 1 };
    let graphs = Graphs { named: BTreeMap::new(), loader: Some(loader) };
    let function = Function { name: "guest".into(), limits: limits(), graphs, ..Function::default() };
    let runtime = Runtime::start(Options { concurrency: 1, ..Options::default() }).unwrap();
    let function = runtime.gradient_function(function, &component).await.unwrap();
    let batch = Batch { samples: 1, tensors: vec![], noise_seed: 0 };
    let parameters = Parameters { layout: Arc::new(Layout::default()), values: Arc::default() };
    let call = function.evaluate(&function.slot().await, parameters, batch).await;
    let error = call.result.unwrap_err();
    assert!(matches!(error, CallError::Host { .. }), "{error}");
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("ended with exit status: 1"), "{text}");
}
