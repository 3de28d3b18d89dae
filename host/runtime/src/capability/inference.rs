//! `wasi:nn/graph`, `inference` and `errors`: graphs by name, computed by the engine off the async threads.
//!
//! Tensors stay with the host: what a function leaves out is bound from the store, and what a graph gives comes back
//! as handles. Whatever a function does wrong is an error that it can read. An engine can not be stopped: a call that hits
//! its wall time ends at once, while the engine finishes its run on a thread that nobody waits for.

use std::sync::Arc;
use std::time::Instant;

use skein_engine::{EngineError, Pool, Tensor};
use wasmtime::component::Resource;

use super::State;
use super::bindings::errors::{self, ErrorCode};
use super::bindings::graph::{self, ExecutionTarget, GraphEncoding};
use super::bindings::inference;
use crate::graphs::Graph;

/// A graph that a function has loaded.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostGraph(Arc<Graph>);

/// A graph made ready to compute. Nothing is kept between two calls.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostContext(Arc<Graph>);

/// What went wrong, for the function to read.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostError {
    code: ErrorCode,
    text: String,
}

type Result<T> = wasmtime::Result<std::result::Result<Resource<T>, Resource<HostError>>>;

impl State {
    fn refuse(&mut self, code: ErrorCode, text: impl Into<String>) -> wasmtime::Result<Resource<HostError>> {
        Ok(self.table.push(HostError { code, text: text.into() })?)
    }

    fn engine_error(&mut self, error: &EngineError) -> wasmtime::Result<Resource<HostError>> {
        let code = match error {
            EngineError::Input { .. } | EngineError::Output { .. } => ErrorCode::InvalidArgument,
            EngineError::Compile { .. } => ErrorCode::InvalidEncoding,
            EngineError::Run { .. } => ErrorCode::RuntimeError,
            _ => ErrorCode::UnsupportedOperation,
        };
        tracing::debug!(%error, "a graph failed");
        self.refuse(code, error.to_string())
    }
}

/// Runs what blocks on a thread that may be blocked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl graph::Host for State {
    async fn load(
        &mut self,
        builder: Vec<Vec<u8>>,
        encoding: GraphEncoding,
        target: ExecutionTarget,
    ) -> Result<HostGraph> {
        let Some((engine, options)) = self.graphs.loader.clone() else {
            let text = "this function may not load graphs of its own: set `load_graphs = true` in its manifest";
            return Ok(Err(self.refuse(ErrorCode::Security, text)?));
        };
        if !matches!(encoding, GraphEncoding::Onnx | GraphEncoding::Autodetect) {
            return Ok(Err(self.refuse(ErrorCode::InvalidEncoding, "graphs have to be ONNX")?));
        }
        if target != ExecutionTarget::Cpu {
            return Ok(Err(self.refuse(ErrorCode::UnsupportedOperation, "graphs are run on the processor")?));
        }
        let Ok([bytes]) = <[Vec<u8>; 1]>::try_from(builder) else {
            return Ok(Err(self.refuse(ErrorCode::InvalidArgument, "a graph is one file, its only builder")?));
        };
        if !self.meter.take(bytes.len()) {
            wasmtime::bail!("the graph does not fit the memory limit");
        }
        match blocking(move || Pool::new(engine, bytes, options)).await {
            Ok(pool) => Ok(Ok(self.table.push(HostGraph(Arc::new(Graph::brought(pool))))?)),
            Err(error) => Ok(Err(self.engine_error(&error)?)),
        }
    }

    fn load_by_name(&mut self, name: String) -> Result<HostGraph> {
        match self.graphs.named.get(&name).cloned() {
            Some(graph) => Ok(Ok(self.table.push(HostGraph(graph))?)),
            None => {
                let known: Vec<_> = self.graphs.named.keys().map(|known| format!("`{known}`")).collect();
                let text = match known.is_empty() {
                    true => "there is no graph: the job's model is no ONNX file".to_owned(),
                    false => format!("there is no graph `{}`, there is {}", super::shortened(&name), known.join(", ")),
                };
                Ok(Err(self.refuse(ErrorCode::NotFound, text)?))
            }
        }
    }
}

impl graph::HostGraph for State {
    fn init_execution_context(&mut self, graph: Resource<HostGraph>) -> Result<HostContext> {
        let context = HostContext(self.table.get(&graph)?.0.clone());
        Ok(Ok(self.table.push(context)?))
    }

    fn drop(&mut self, graph: Resource<HostGraph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for State {}

impl inference::HostGraphExecutionContext for State {
    async fn compute(
        &mut self,
        context: Resource<HostContext>,
        inputs: Vec<(String, Resource<Tensor>)>,
    ) -> wasmtime::Result<std::result::Result<Vec<(String, Resource<Tensor>)>, Resource<HostError>>> {
        let graph = self.table.get(&context)?.0.clone();
        let mut given = Vec::with_capacity(inputs.len());
        for (name, handle) in inputs {
            let tensor = self.table.delete(handle)?;
            self.meter.give(tensor.own_bytes());
            given.push((name, tensor));
        }
        let (parameters, seed) = (self.parameters.clone(), self.noise_seed);
        let begun = Instant::now();
        let found = blocking(move || graph.run(&graph.bind(given, &parameters, seed)?)).await;
        self.account.engine += begun.elapsed();
        let outputs = match found {
            Ok(outputs) => outputs,
            Err(error) => return Ok(Err(self.engine_error(&error)?)),
        };
        let mut handles = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            if !self.meter.take(tensor.own_bytes()) {
                wasmtime::bail!("what the graph gave does not fit the memory limit");
            }
            handles.push((name, self.table.push(tensor)?));
        }
        Ok(Ok(handles))
    }

    fn drop(&mut self, context: Resource<HostContext>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
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
        self.table.delete(error)?;
        Ok(())
    }
}
