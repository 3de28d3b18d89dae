//! Benchmarks of the runtime. Each figure is a ratio of two measurements, taken in turn in one run; printed as one JSON
//! object.
//!
//! Run by `cargo xtask bench`. Times are medians: machines are noisy, and the two sides of a ratio alternate so
//! that noise falls on both.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skein_kernels::order::trimmed_mean;
use skein_runtime::Tensor;
use skein_runtime::aggregate::Contribution;
use skein_runtime::gradient::{Batch, GradientFunction, Parameters};
use skein_runtime::{Function, Limits, Options, Runtime};
use skein_types::{Layout, Parameter};
use wasmtime::component::{Component, HasSelf, Linker, Resource, ResourceTable};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

/// The same world as the runtime's, bound without the runtime.
mod bare {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "gradient",
        imports: { default: trappable },
        exports: { default: async },
        with: { "wasi:nn/tensor.tensor": super::BareTensor },
    });
}

use bare::wasi::nn::{errors, graph, inference};

fn main() {
    // `cargo test` starts benchmarks too, with nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let figures = runtime.expect("threads").block_on(async {
        let call = warm_call().await;
        let rule = trimmed_mean_in_wasm().await;
        let parallel = two_batches().await;
        format!("{{{call},{rule},{parallel}}}")
    });
    println!("{figures}");
}

fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist").join(format!("{name}.wasm"));
    std::fs::read(path).expect("the component is checked in")
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// A guest's tensor without the runtime; no call of this benchmark creates one.
pub struct BareTensor;

#[derive(Default)]
struct BareState {
    table: ResourceTable,
}

impl bare::skein::train::settings::Host for BareState {
    fn get(&mut self, _: String) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl bare::skein::train::parameters::Host for BareState {
    fn describe(&mut self) -> wasmtime::Result<Vec<bare::skein::train::parameters::Parameter>> {
        Ok(Vec::new())
    }

    fn get(&mut self, _: String) -> wasmtime::Result<Option<Resource<BareTensor>>> {
        Ok(None)
    }
}

impl bare::wasi::nn::tensor::Host for BareState {}

impl bare::wasi::nn::tensor::HostTensor for BareState {
    fn new(
        &mut self,
        _: Vec<u32>,
        _: bare::wasi::nn::tensor::TensorType,
        _: Vec<u8>,
    ) -> wasmtime::Result<Resource<BareTensor>> {
        Ok(self.table.push(BareTensor)?)
    }

    fn dimensions(&mut self, _: Resource<BareTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn ty(&mut self, _: Resource<BareTensor>) -> wasmtime::Result<bare::wasi::nn::tensor::TensorType> {
        Ok(bare::wasi::nn::tensor::TensorType::Fp32)
    }

    fn data(&mut self, _: Resource<BareTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn drop(&mut self, tensor: Resource<BareTensor>) -> wasmtime::Result<()> {
        self.table.delete(tensor)?;
        Ok(())
    }
}

/// The error for a guest that uses graphs; no call of this benchmark does.
fn no_graphs<T>() -> wasmtime::Result<T> {
    Err(wasmtime::Error::msg("there are no graphs here"))
}

impl errors::Host for BareState {}

impl errors::HostError for BareState {
    fn code(&mut self, _: Resource<errors::Error>) -> wasmtime::Result<errors::ErrorCode> {
        no_graphs()
    }

    fn data(&mut self, _: Resource<errors::Error>) -> wasmtime::Result<String> {
        no_graphs()
    }

    fn drop(&mut self, _: Resource<errors::Error>) -> wasmtime::Result<()> {
        no_graphs()
    }
}

impl graph::Host for BareState {
    fn load(
        &mut self,
        _: Vec<graph::GraphBuilder>,
        _: graph::GraphEncoding,
        _: graph::ExecutionTarget,
    ) -> wasmtime::Result<Result<Resource<graph::Graph>, Resource<errors::Error>>> {
        no_graphs()
    }

    fn load_by_name(&mut self, _: String) -> wasmtime::Result<Result<Resource<graph::Graph>, Resource<errors::Error>>> {
        no_graphs()
    }
}

impl graph::HostGraph for BareState {
    fn init_execution_context(
        &mut self,
        _: Resource<graph::Graph>,
    ) -> wasmtime::Result<Result<Resource<inference::GraphExecutionContext>, Resource<errors::Error>>> {
        no_graphs()
    }

    fn drop(&mut self, _: Resource<graph::Graph>) -> wasmtime::Result<()> {
        no_graphs()
    }
}

impl inference::Host for BareState {}

impl inference::HostGraphExecutionContext for BareState {
    fn compute(
        &mut self,
        _: Resource<inference::GraphExecutionContext>,
        _: Vec<inference::NamedTensor>,
    ) -> wasmtime::Result<Result<Vec<inference::NamedTensor>, Resource<errors::Error>>> {
        no_graphs()
    }

    fn drop(&mut self, _: Resource<inference::GraphExecutionContext>) -> wasmtime::Result<()> {
        no_graphs()
    }
}

/// A warm call of a function that does nothing, instantiation included: the runtime with its limits, meter and
/// checks, against wasmtime alone with the same pool and the same component.
async fn warm_call() -> String {
    let options = Options { concurrency: 4, ..Options::default() };
    let runtime = Runtime::start(options).expect("the engine starts");
    let bytes = component("gradient-probe");
    let function = runtime.gradient_function(Function::default(), &bytes).await.expect("it loads");

    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::new()));
    let engine = Engine::new(&config).expect("an engine");
    let component = Component::new(&engine, &bytes).expect("it compiles");
    let mut linker = Linker::new(&engine);
    // The probe's imports.
    bare::skein::train::settings::add_to_linker::<_, HasSelf<BareState>>(&mut linker, |s| s).expect("it links");
    bare::skein::train::parameters::add_to_linker::<_, HasSelf<BareState>>(&mut linker, |s| s).expect("it links");
    bare::wasi::nn::tensor::add_to_linker::<_, HasSelf<BareState>>(&mut linker, |s| s).expect("it links");
    errors::add_to_linker::<_, HasSelf<BareState>>(&mut linker, |s| s).expect("it links");
    inference::add_to_linker::<_, HasSelf<BareState>>(&mut linker, |s| s).expect("it links");
    graph::add_to_linker::<_, HasSelf<BareState>>(&mut linker, |s| s).expect("it links");
    let pre = linker.instantiate_pre(&component).and_then(bare::GradientPre::new).expect("it links");

    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..20_000 {
        let begun = Instant::now();
        let call = function
            .compute(
                &function.slot().await,
                Parameters::default(),
                Batch { samples: 1, tensors: Vec::new(), noise_seed: 0 },
            )
            .await;
        ours.push(begun.elapsed());
        call.result.expect("an empty gradient of an empty model");

        let begun = Instant::now();
        let mut store = Store::new(&engine, BareState::default());
        let instance = pre.instantiate_async(&mut store).await.expect("it starts");
        let batch = bare::exports::skein::train::gradients::Batch { samples: 1, tensors: Vec::new() };
        let result = instance.skein_train_gradients().call_compute(&mut store, &batch).await;
        drop((instance, store));
        theirs.push(begun.elapsed());
        result.expect("no trap").expect("no error");
    }
    let ours = median(ours) * 1e6;
    let theirs = median(theirs) * 1e6;
    format!("\"warm_call_us\":{ours:.2},\"bare_wasmtime_call_us\":{theirs:.2},\"warm_call_ratio\":{:.3}", ours / theirs)
}

/// The built-in rule in its sandbox against the same kernel called natively, one thread each.
async fn trimmed_mean_in_wasm() -> String {
    const PEERS: usize = 8;
    const LEN: usize = 11_700_000;
    let runtime = Runtime::start(Options::default()).expect("the engine starts");
    let bytes = component("aggregate-trimmed-mean");
    let function = runtime.aggregate_function(Function::default(), &bytes).await.expect("it loads");
    let contributions: Vec<Contribution> = (0..PEERS)
        .map(|peer| Contribution { peer: String::new(), samples: 1, values: Arc::new(noise(peer as u32, LEN)) })
        .collect();
    let rows: Vec<&[f32]> = contributions.iter().map(|contribution| contribution.values.as_slice()).collect();
    let mut wasm = Vec::new();
    let mut native = Vec::new();
    for _ in 0..7 {
        let begun = Instant::now();
        let aggregated =
            function.aggregate(&function.slot().await, contributions.clone(), 2, 0).await.result.expect("an aggregate");
        wasm.push(begun.elapsed());

        let begun = Instant::now();
        let mut out = vec![0.0; LEN];
        trimmed_mean(&rows, 2, &mut out).expect("enough rows");
        native.push(begun.elapsed());
        assert!(aggregated.values == out, "the same bits");
        black_box(out);
    }
    let wasm = median(wasm) * 1e3;
    let native = median(native) * 1e3;
    format!(
        "\"trimmed_mean_wasm_ms\":{wasm:.1},\"trimmed_mean_native_ms\":{native:.1},\"trimmed_mean_ratio\":{:.3}",
        wasm / native
    )
}

/// Two batches of a perceptron at the same time against one after the other.
async fn two_batches() -> String {
    let options = Options { concurrency: 2, ..Options::default() };
    let runtime = Runtime::start(options).expect("the engine starts");
    let limits = Limits::default();
    let options = Function { limits, ..Function::default() };
    let function = runtime.gradient_function(options, &component("gradient-mlp")).await.expect("it loads");
    let parameter = |name: &str, shape: &[u32]| Parameter { name: name.into(), shape: shape.into() };
    let layout = Layout::new(vec![
        parameter("layers.0.weight", &[256, 784]),
        parameter("layers.0.bias", &[256]),
        parameter("layers.1.weight", &[10, 256]),
        parameter("layers.1.bias", &[10]),
    ]);
    let values = Arc::new(noise(1, layout.len()).iter().map(|value| value * 0.01).collect::<Vec<_>>());
    let parameters = Parameters { layout: Arc::new(layout), values };
    let input = Tensor::from_floats(vec![64, 784], Arc::new(noise(2, 64 * 784)), 0..64 * 784).expect("it fits");
    let labels = Tensor::from_integers((0..64).map(|label| label % 10).collect());
    let batch = Batch { samples: 64, tensors: vec![("input".into(), input), ("labels".into(), labels)], noise_seed: 0 };

    let mut parallel = Vec::new();
    let mut sequential = Vec::new();
    for _ in 0..60 {
        let begun = Instant::now();
        let tasks: Vec<_> = (0..2).map(|_| spawn(&function, &parameters, &batch)).collect();
        for task in tasks {
            task.await.expect("the task ends");
        }
        parallel.push(begun.elapsed());

        let begun = Instant::now();
        for _ in 0..2 {
            spawn(&function, &parameters, &batch).await.expect("the task ends");
        }
        sequential.push(begun.elapsed());
    }
    let parallel = median(parallel) * 1e3;
    let sequential = median(sequential) * 1e3;
    format!(
        "\"two_batches_parallel_ms\":{parallel:.2},\"two_batches_sequential_ms\":{sequential:.2},\
         \"parallel_speedup\":{:.3}",
        sequential / parallel
    )
}

fn spawn(function: &GradientFunction, parameters: &Parameters, batch: &Batch) -> tokio::task::JoinHandle<()> {
    let function = function.clone();
    let parameters = parameters.clone();
    let batch = batch.clone();
    tokio::spawn(async move {
        drop(function.compute(&function.slot().await, parameters, batch).await.result.expect("a gradient"));
    })
}

fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}
