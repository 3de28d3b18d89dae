//! `wasi:nn/graph`, `inference` and `errors`: graphs by name, computed by the engine off the async threads, and graphs
//! that the function brought, computed in processes of their own.
//!
//! Tensors stay with the host: inputs that a function leaves out are bound from the store, and outputs are returned as
//! handles. A function's mistakes are errors that it can read. A call that hits its wall time ends at once; its engine is
//! stopped, on a thread that is not awaited but keeps the call's slot until the run has ended, or killed with its process,
//! which keeps the slot as long.

use std::fmt::{self, Display, Write};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use skein_engine::{EngineError, Pool, Stop, Tensor};
use wasmtime::component::Resource;

use super::bindings::errors::{self, ErrorCode};
use super::bindings::graph::{self, ExecutionTarget, GraphEncoding};
use super::bindings::inference;
use super::{HostFault, HostTensor, State};
use crate::brought::{Allowance, Brought, BroughtError, Caller, GRAPHS_PER_CALL};
use crate::clock::EngineRun;
use crate::error::Limit;
use crate::graphs::{Graph, Runner};

/// Longest text of an error, in bytes. An engine's text may repeat a function's input, of any length.
const TEXT_BYTES_MAX: usize = 1024;

/// A graph that a function has loaded.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostGraph(Arc<Graph>);

/// A graph that is ready to compute. It keeps nothing between two runs.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostContext(Arc<Graph>);

/// An error that the function can read.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostError {
    code: ErrorCode,
    text: String,
}

type Result<T> = wasmtime::Result<std::result::Result<Resource<T>, Resource<HostError>>>;
/// The result of an engine's work; the outer error ends the call.
type Worked<T> = wasmtime::Result<std::result::Result<T, EngineError>>;

impl State {
    fn refuse(&mut self, code: ErrorCode, text: impl Display) -> wasmtime::Result<Resource<HostError>> {
        let text = cut(text);
        tracing::debug!(text, "refused a function's use of a graph");
        let bytes = text.len();
        self.hold(HostError { code, text }, bytes)
    }

    fn engine_error(&mut self, error: &EngineError) -> wasmtime::Result<Resource<HostError>> {
        let code = match error {
            EngineError::Input { .. } | EngineError::Output { .. } => ErrorCode::InvalidArgument,
            EngineError::Compile { .. } => ErrorCode::InvalidEncoding,
            EngineError::Run { .. } => ErrorCode::RuntimeError,
            _ => ErrorCode::UnsupportedOperation,
        };
        self.refuse(code, error)
    }
}

/// The first [`TEXT_BYTES_MAX`] bytes of a text, whole characters only. The rest is never formatted.
fn cut(text: impl Display) -> String {
    struct Cut(String);
    impl Write for Cut {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = TEXT_BYTES_MAX - self.0.len();
            self.0.push_str(&part[..part.floor_char_boundary(room)]);
            if part.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut cut = Cut(String::new());
    // It fails by design when the room is used up.
    let _ = write!(cut, "{text}");
    cut.0
}

impl State {
    /// Runs blocking work on a thread that may block. The work holds the call's slot as well: while an engine still
    /// computes for a call that has ended, no other call takes its place.
    ///
    /// # Errors
    /// [`HostFault`]: the work panicked, or the process ends.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> BoxFuture<'static, wasmtime::Result<T>> {
        let slot = self.input.slot.clone();
        let work = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        });
        Box::pin(async {
            work.await.map_err(|error| HostFault(format!("a run of an engine was lost: {error}")).into())
        })
    }
}

impl State {
    /// Runs a graph of the job in this process.
    async fn run(&mut self, graph: Arc<Graph>, pool: Arc<Pool>, given: Vec<(String, Tensor)>) -> Worked<Vec<Tensor>> {
        let call = self.input.graphs.clone();
        let charged = EngineRun::begin(self.meter.clock(), pool.threads());
        let stop = Stop::clone(&self.stop);
        let run = move || {
            let begun = Instant::now();
            let found = graph.bind(given, &call).and_then(|inputs| pool.run(&inputs, &graph.outputs(), &stop));
            (found, begun.elapsed())
        };
        let (found, duration) = self.blocking(run).await?;
        self.account.engine += duration;
        charged.end(duration);
        if !self.meter.has_cpu_left() {
            wasmtime::bail!("the engine used up the processor time");
        }
        Ok(found)
    }

    /// Runs a graph that the function brought, in its own process.
    async fn run_brought(
        &mut self,
        graph: &Graph,
        brought: &Brought,
        given: Vec<(String, Tensor)>,
    ) -> Worked<Vec<Tensor>> {
        let inputs = match graph.bind(given, &self.input.graphs) {
            Ok(inputs) => inputs,
            Err(error) => return Ok(Err(error)),
        };
        let before = brought.bytes();
        let begun = Instant::now();
        let found = brought.run(&inputs, self.allowance()).await;
        self.account.engine += begun.elapsed();
        self.meter.give(before);
        self.meter.note_peak(brought.bytes_peak());
        self.take(brought.bytes())?;
        self.worked(found)
    }

    /// What a process of this call may use.
    fn allowance(&self) -> Allowance {
        Allowance { memory_bytes: self.meter.bytes_left(), cpu: self.meter.cpu_left() }
    }

    /// The result of a process, unless it ends the call.
    fn worked<T>(&mut self, result: std::result::Result<T, BroughtError>) -> Worked<T> {
        if !self.meter.has_cpu_left() {
            wasmtime::bail!("the engine used up the processor time");
        }
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(BroughtError::Engine(error)) => Ok(Err(error)),
            Err(BroughtError::Cpu) => {
                self.meter.note_hit(Limit::Cpu);
                wasmtime::bail!("the engine used up the processor time")
            }
            Err(BroughtError::Memory(bytes)) => {
                self.meter.note_hit(Limit::Memory);
                wasmtime::bail!("{bytes} bytes for a graph exceed the memory limit")
            }
            Err(BroughtError::Host(fault)) => Err(HostFault(fault).into()),
        }
    }

    /// Drops a handle's share of a graph. With the last one, a graph that the function brought ends, and its memory is
    /// free again.
    fn let_go(&mut self, graph: Arc<Graph>) {
        if let Some(graph) = Arc::into_inner(graph) {
            self.meter.give(graph.bytes());
        }
    }
}

impl graph::Host for State {
    async fn load(
        &mut self,
        builder: Vec<Vec<u8>>,
        encoding: GraphEncoding,
        target: ExecutionTarget,
    ) -> Result<HostGraph> {
        let Some(loader) = self.graphs.loader.clone() else {
            let text = "this function may not load its own graphs: set `load_graphs = true` in its manifest";
            return Ok(Err(self.refuse(ErrorCode::Security, text)?));
        };
        if !matches!(encoding, GraphEncoding::Onnx | GraphEncoding::Autodetect) {
            return Ok(Err(self.refuse(ErrorCode::InvalidEncoding, "graphs must be ONNX")?));
        }
        if target != ExecutionTarget::Cpu {
            return Ok(Err(self.refuse(ErrorCode::UnsupportedOperation, "graphs run on the processor only")?));
        }
        let Ok([bytes]) = <[Vec<u8>; 1]>::try_from(builder) else {
            return Ok(Err(self.refuse(ErrorCode::InvalidArgument, "a graph must be one file, its only builder")?));
        };
        let Some(place) = self.children.place().await else {
            let text =
                format!("a call may hold at most {GRAPHS_PER_CALL} graphs that it loaded: drop one and its contexts");
            return Ok(Err(self.refuse(ErrorCode::UnsupportedOperation, text)?));
        };
        let size = bytes.len();
        self.take(size)?;
        let caller = Caller { slot: self.input.slot.clone(), clock: self.meter.clock(), allowed: self.allowance() };
        let begun = Instant::now();
        let loaded = Brought::load(&loader, bytes, place, caller).await;
        self.account.engine += begun.elapsed();
        self.meter.give(size);
        match self.worked(loaded)? {
            Ok(brought) => {
                let bytes = brought.bytes();
                self.meter.note_peak(brought.bytes_peak());
                Ok(Ok(self.hold(HostGraph(Arc::new(Graph::brought(brought))), bytes)?))
            }
            Err(error) => Ok(Err(self.engine_error(&error)?)),
        }
    }

    fn load_by_name(&mut self, name: String) -> Result<HostGraph> {
        match self.graphs.named.get(&name).cloned() {
            Some(graph) => Ok(Ok(self.hold(HostGraph(graph), 0)?)),
            None => {
                let known: Vec<_> = self.graphs.named.keys().map(|known| format!("`{known}`")).collect();
                let text = if known.is_empty() {
                    "there is no graph: the job's model is not an ONNX file".to_owned()
                } else {
                    format!("there is no graph `{}`: the job has {}", super::shortened(&name), known.join(", "))
                };
                Ok(Err(self.refuse(ErrorCode::NotFound, text)?))
            }
        }
    }
}

impl graph::HostGraph for State {
    fn init_execution_context(&mut self, graph: Resource<HostGraph>) -> Result<HostContext> {
        let context = HostContext(self.table.get(&graph)?.0.clone());
        Ok(Ok(self.hold(context, 0)?))
    }

    fn drop(&mut self, graph: Resource<HostGraph>) -> wasmtime::Result<()> {
        let HostGraph(graph) = self.release(graph)?;
        self.let_go(graph);
        Ok(())
    }
}

impl inference::Host for State {}

impl inference::HostGraphExecutionContext for State {
    async fn compute(
        &mut self,
        context: Resource<HostContext>,
        inputs: Vec<(String, Resource<HostTensor>)>,
    ) -> wasmtime::Result<std::result::Result<Vec<(String, Resource<HostTensor>)>, Resource<HostError>>> {
        let graph = self.table.get(&context)?.0.clone();
        let mut given = Vec::with_capacity(inputs.len());
        let mut taken = 0;
        for (name, handle) in inputs {
            let HostTensor { tensor, taken: own } = self.table.delete(handle)?;
            // The host keeps the function's names while the engine runs.
            self.take(name.len())?;
            taken += own + name.len();
            given.push((name, tensor));
        }
        let outputs = match graph.runner() {
            Runner::Job(pool) => self.run(graph.clone(), pool.clone(), given).await?,
            Runner::Brought(brought) => self.run_brought(&graph, brought, given).await?,
        };
        self.meter.give(taken);
        let outputs = match outputs.and_then(|outputs| graph.named_outputs(outputs)) {
            Ok(outputs) => outputs,
            Err(error) => return Ok(Err(self.engine_error(&error)?)),
        };
        let mut handles = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            handles.push((name, self.hold_tensor(tensor)?));
        }
        Ok(Ok(handles))
    }

    fn drop(&mut self, context: Resource<HostContext>) -> wasmtime::Result<()> {
        let HostContext(graph) = self.release(context)?;
        self.let_go(graph);
        Ok(())
    }
}

impl errors::Host for State {}

impl errors::HostError for State {
    fn code(&mut self, error: Resource<HostError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    fn data(&mut self, error: Resource<HostError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.text.clone())
    }

    fn drop(&mut self, error: Resource<HostError>) -> wasmtime::Result<()> {
        let error = self.release(error)?;
        self.meter.give(error.text.len());
        Ok(())
    }
}
