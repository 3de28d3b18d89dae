//! The process that calls functions as a host does, and tells what came of it and what memory it takes.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use skein_engine::{Kind, library};
use skein_graph::networks;
use skein_runtime::aggregate::Contribution;
use skein_runtime::gradient::{Batch, Parameters};
use skein_runtime::graphs::{Graphs, Loader};
use skein_runtime::{CallError, Compiler, Function, Limits, LoadError, Options, Origin, Runtime, Tensor};
use skein_types::{Layout, Parameter};

use super::protocol::{Bounds, COMPILING, Network, Outcome, Reply, Request, Setup, TELLING, WIDE};
use super::shared;

/// Calls at a time, and threads that run them.
const CONCURRENCY: usize = 2;

/// Answers the requests on standard input, until it ends.
pub(crate) fn drive() {
    let mut lines = std::io::stdin().lock().lines().map(|line| line.expect("the suite writes whole lines"));
    let setup: Setup = serde_json::from_str(&lines.next().expect("the setup")).expect("a setup");
    confine(&setup);
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(CONCURRENCY).enable_all().build();
    let threads = threads.expect("threads");
    let mut driven = Driven { runtime: start(&setup), networks: HashMap::new() };
    for line in lines {
        let request: Request = serde_json::from_str(&line).expect("a request");
        let reply = threads.block_on(driven.answer(request));
        let line = serde_json::to_string(&reply).expect("a reply");
        let mut output = std::io::stdout().lock();
        writeln!(output, "{line}").and_then(|()| output.flush()).expect("the suite reads");
    }
}

/// Limits the memory of this process, and of its children where there are control groups.
fn confine(setup: &Setup) {
    // So that it is the child which gives up core files. Not every user may raise it.
    let _ = setrlimit(Resource::Core, Rlimit { current: None, maximum: None });
    match &setup.cgroup {
        Some(folder) => std::fs::write(folder.join("cgroup.procs"), std::process::id().to_string()).expect("the group"),
        None => {
            let bound = Some(setup.memory_bytes);
            setrlimit(Resource::Data, Rlimit { current: bound, maximum: bound }).expect("a lower limit");
        }
    }
}

fn start(setup: &Setup) -> Runtime {
    let argument = if setup.telling { TELLING } else { COMPILING };
    let options = Options {
        concurrency: CONCURRENCY,
        cache_dir: Some(setup.cache.clone()),
        compiler: Compiler::Child { program: "/proc/self/exe".into(), argument },
        compile_time_max: Duration::from_millis(setup.compile_ms),
        compile_memory_mib: setup.compile_memory_mib,
        ..Options::default()
    };
    Runtime::start(options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

struct Driven {
    runtime: Runtime,
    networks: HashMap<Network, (Parameters, Graphs)>,
}

impl Driven {
    async fn answer(&mut self, request: Request) -> Reply {
        let network = request.network.clone().map(|network| {
            let compiled = self.networks.entry(network.clone()).or_insert_with(|| compile(&network));
            compiled.clone()
        });
        let component: Arc<[u8]> = std::fs::read(&request.component).expect("the component").into();
        let at_once = request.at_once;
        let request = Arc::new(request);
        let calls: Vec<_> = (0..at_once)
            .map(|index| {
                let runtime = self.runtime.clone();
                let component = if request.distinct { own(&component, index) } else { component.clone() };
                let request = request.clone();
                let (parameters, graphs) = network.clone().unwrap_or_else(|| (layer(), Graphs::default()));
                let function = function(&request, Graphs { loader: loader(&request), ..graphs });
                tokio::spawn(async move {
                    if request.aggregates {
                        aggregate(&runtime, function, &component, request.number).await
                    } else {
                        let batch = batch(request.number, request.network.as_ref());
                        compute(&runtime, function, &component, Input { parameters, batch }).await
                    }
                })
            })
            .collect();
        drop(component);
        let mut outcomes = Vec::with_capacity(at_once);
        for call in calls {
            outcomes.push(call.await.expect("a call does not panic"));
        }
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_ms = cpu.tv_sec as u64 * 1000 + cpu.tv_nsec as u64 / 1_000_000;
        let resident_bytes = status("VmRSS:") << 10;
        let sessions_peak = skein_engine::sessions_peak();
        Reply { outcomes, resident_bytes, cpu_ms, threads: status("Threads:"), sessions_peak }
    }
}

/// The component with a custom section whose name is this byte.
fn own(component: &[u8], index: usize) -> Arc<[u8]> {
    [component, &[0, 2, 1, index as u8]].concat().into()
}

/// A number of this process's status.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

fn function(request: &Request, graphs: Graphs) -> Function {
    let Bounds { memory_mib, cpu_ms, wall_ms, hostcall_mib, handles } = request.bounds;
    let cpu = Duration::from_millis(cpu_ms);
    let wall = Duration::from_millis(wall_ms);
    let limits = Limits { memory_mib, cpu, wall, hostcall_mib, handles, ..Limits::default() };
    let settings = [("behaviour".to_owned(), request.behaviour.clone())].into();
    Function { name: request.name.clone(), limits, settings, graphs, ..Function::default() }
}

/// Graphs that the function brings are run by this program.
fn loader(request: &Request) -> Option<Loader> {
    let engine: Kind = request.loader.as_ref()?.parse().expect("an engine");
    let library = (engine != Kind::Rten).then(|| library::find(engine).expect("the suite has found it"));
    Some(Loader { program: "/proc/self/exe".into(), engine, library, threads: 1 })
}

fn compile(network: &Network) -> (Parameters, Graphs) {
    let kind = network.engine.parse().expect("an engine");
    let engine = skein_engine::open(kind, None).unwrap_or_else(|error| panic!("{error}"));
    let file = match network.model.as_str() {
        "" => networks::convolutional([1, 8, 8], 10),
        WIDE => networks::convolutional([1, 8, 8], 1000),
        name => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models");
            std::fs::read(folder.join(name)).expect("a model")
        }
    };
    shared::network(engine, file)
}

/// The parameters of a layer that takes two values and returns three.
fn layer() -> Parameters {
    let weight = Parameter { name: "layers.0.weight".into(), shape: vec![3, 2] };
    let bias = Parameter { name: "layers.0.bias".into(), shape: vec![3] };
    Parameters { layout: Arc::new(Layout::new(vec![weight, bias])), values: Arc::new(vec![0.5; 9]) }
}

/// Images for the network, or two values a sample.
fn batch(samples: u32, network: Option<&Network>) -> Batch {
    let width = match network {
        None => 2,
        Some(network) if ["", WIDE].contains(&network.model.as_str()) => 64,
        Some(_) => 3 * 32 * 32,
    };
    let values: Vec<f32> = (0..samples * width).map(|i| (i % 255) as f32 / 255.0).collect();
    let len = values.len();
    let input = Tensor::from_floats(vec![samples, width], Arc::new(values), 0..len).expect("as many values as fit");
    let labels = Tensor::from_integers((0..i64::from(samples)).map(|label| label % 3).collect());
    Batch { samples, tensors: vec![("input".into(), input), ("labels".into(), labels)], noise_seed: 1 }
}

/// The input of a gradient function.
struct Input {
    parameters: Parameters,
    batch: Batch,
}

async fn compute(runtime: &Runtime, function: Function, component: &[u8], input: Input) -> Outcome {
    match runtime.gradient_function(function, component).await {
        Err(error) => of_load(&error),
        Ok(function) => {
            let call = function.compute(&function.slot().await, input.parameters, input.batch).await;
            of_call(call.result.err().as_ref(), function.info().origin)
        }
    }
}

async fn aggregate(runtime: &Runtime, function: Function, component: &[u8], faults: u32) -> Outcome {
    match runtime.aggregate_function(function, component).await {
        Err(error) => of_load(&error),
        Ok(function) => {
            let values = Arc::new(vec![1.0; 4]);
            let contributions = vec![Contribution { peer: "peer".into(), samples: 1, values }];
            let call = function.aggregate(&function.slot().await, contributions, faults, 0).await;
            of_call(call.result.err().as_ref(), function.info().origin)
        }
    }
}

fn of_load(error: &LoadError) -> Outcome {
    let kind = match error {
        LoadError::TooLarge { .. } => "too large",
        LoadError::Invalid { .. } => "invalid",
        LoadError::WrongWorld { .. } => "wrong world",
        LoadError::TooComplex { .. } => "too complex",
        LoadError::CompileTime { .. } => "compile time",
        LoadError::Compiler { .. } => "compiler",
        _ => "not admitted",
    };
    Outcome { kind: kind.into(), message: chain(error), ..Outcome::default() }
}

fn of_call(error: Option<&CallError>, origin: Origin) -> Outcome {
    let kind = match error {
        None => "returned",
        Some(CallError::Trap { .. }) => "trap",
        Some(CallError::Limit { .. }) => "limit",
        Some(CallError::Refused { .. }) => "refused",
        Some(CallError::BadOutput { .. }) => "bad output",
        Some(CallError::Host { .. }) => "host",
        Some(_) => "other",
    };
    let limit = match error {
        Some(CallError::Limit { hit, .. }) => Some(hit.limit.to_string()),
        _ => None,
    };
    let message = error.map_or_else(String::new, |error| chain(error));
    Outcome { kind: kind.into(), limit, message, cached: origin == Origin::Cached }
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
