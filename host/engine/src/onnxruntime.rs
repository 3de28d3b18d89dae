//! ONNX Runtime, from the library of its wheel.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session as OrtSession, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef};

use crate::signature::Signature;
use crate::stop::Stop;
use crate::tensor::{Buffer, ElementType, Tensor};
use crate::{Device, Engine, EngineError, Kind, Options, Session};

pub(crate) struct OnnxRuntime {
    environment: Environment,
}

impl OnnxRuntime {
    /// Loads the library; the first one that a process loads stays loaded.
    pub(crate) fn load(path: &Path) -> Result<OnnxRuntime, EngineError> {
        let refuse = |reason: String| EngineError::Library { kind: Kind::OnnxRuntime, path: path.to_owned(), reason };
        let builder = ort::init_from(path).map_err(|error| refuse(error.to_string()))?;
        let environment = builder.with_telemetry(false).build().map_err(|error| refuse(error.to_string()))?;
        Ok(OnnxRuntime { environment })
    }
}

impl Engine for OnnxRuntime {
    fn kind(&self) -> Kind {
        Kind::OnnxRuntime
    }

    fn compile(&self, graph: &[u8], options: Options) -> Result<Box<dyn Session>, EngineError> {
        let compile = |reason: String| EngineError::Compile { kind: Kind::OnnxRuntime, reason };
        let session = build(&self.environment, graph, options).map_err(|error| match options.device {
            Device::Cpu => compile(error.to_string()),
            Device::Cuda => EngineError::Device { kind: Kind::OnnxRuntime, device: "cuda", reason: error.to_string() },
        })?;
        let signature = Signature {
            inputs: session.inputs().iter().map(|input| input.name().to_owned()).collect(),
            outputs: session.outputs().iter().map(|output| output.name().to_owned()).collect(),
        };
        Ok(Box::new(Compiled { session, signature }))
    }
}

fn build(environment: &Environment, graph: &[u8], options: Options) -> ort::Result<OrtSession> {
    let builder = OrtSession::builder(environment)?
        .with_intra_threads(options.threads)?
        // Errors are returned; they would be printed to standard error as well.
        .with_log_level(LogLevel::Fatal)?
        // Graphs are already simplified; further fusion is slower, and takes seconds to find in a large graph.
        .with_optimization_level(GraphOptimizationLevel::Disable)?;
    let mut builder = match options.device {
        Device::Cpu => builder,
        Device::Cuda => builder.with_execution_providers([ep::CUDA::default().build().error_on_failure()])?,
    };
    builder.commit_from_memory(graph)
}

struct Compiled {
    session: OrtSession,
    signature: Signature,
}

impl Session for Compiled {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[(&str, Tensor)], outputs: &[&str], stop: &Stop) -> Result<Vec<Tensor>, EngineError> {
        let fail = |error: ort::Error| EngineError::Run { kind: Kind::OnnxRuntime, reason: error.to_string() };
        self.signature.check(inputs, outputs)?;
        let views: Vec<View<'_>> = inputs.iter().map(|(_, tensor)| View::of(tensor)).collect();
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for ((name, tensor), view) in inputs.iter().zip(&views) {
            let refuse = |reason: String| EngineError::Input { name: (*name).to_owned(), reason };
            values.push((Cow::Borrowed(*name), view.value(tensor).map_err(|error| refuse(error.to_string()))?));
        }
        // All outputs are computed: options that select some cannot be shared with the thread that stops the run.
        let options = Arc::new(RunOptions::new().map_err(fail)?);
        let interrupt = {
            let options = options.clone();
            // It fails only if the library lacks the function, which every release has.
            Box::new(move || drop(options.terminate()))
        };
        let found = stop.interrupting(interrupt, || self.session.run_with_options(values, &*options));
        let mut found = match found {
            Some(Ok(found)) => found,
            Some(Err(error)) if !stop.is_stopped() => return Err(fail(error)),
            _ => return Err(EngineError::Stopped),
        };
        let take = |name: &&str| {
            let refuse = |reason: String| EngineError::Output { name: (*name).to_owned(), reason };
            let value = found.remove(name).ok_or_else(|| refuse("the engine did not return it".into()))?;
            output(value).map_err(refuse)
        };
        outputs.iter().map(take).collect()
    }
}

/// Elements of an input, aligned.
enum View<'a> {
    Floats(Cow<'a, [f32]>),
    Integers(Cow<'a, [i64]>),
    Small(Vec<i32>),
    Bytes(&'a [u8]),
    Doubles(Vec<f64>),
    Other(ElementType),
}

impl<'a> View<'a> {
    fn of(tensor: &'a Tensor) -> View<'a> {
        match tensor.ty() {
            ElementType::Fp32 => View::Floats(tensor.floats().unwrap_or_default()),
            ElementType::I64 => View::Integers(tensor.integers().unwrap_or_default()),
            ElementType::I32 => View::Small(bytemuck::pod_collect_to_vec(tensor.bytes())),
            ElementType::Fp64 => View::Doubles(bytemuck::pod_collect_to_vec(tensor.bytes())),
            ElementType::U8 => View::Bytes(tensor.bytes()),
            other => View::Other(other),
        }
    }

    fn value(&'a self, tensor: &Tensor) -> ort::Result<SessionInputValue<'a>> {
        let shape: Vec<i64> = tensor.dimensions().iter().map(|size| i64::from(*size)).collect();
        Ok(match self {
            View::Floats(values) => TensorRef::from_array_view((shape, &**values))?.into(),
            View::Integers(values) => TensorRef::from_array_view((shape, &**values))?.into(),
            View::Small(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
            View::Doubles(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
            View::Bytes(values) => TensorRef::from_array_view((shape, *values))?.into(),
            View::Other(other) => return Err(ort::Error::new(format!("tensors of type {other:?} are not supported"))),
        })
    }
}

/// An output in the engine's memory.
struct Output {
    value: DynValue,
    ty: ElementType,
}

impl Buffer for Output {
    fn bytes(&self) -> &[u8] {
        let checked = "the type was checked when the output was created";
        match self.ty {
            ElementType::Fp32 => bytemuck::cast_slice(self.value.try_extract_tensor::<f32>().expect(checked).1),
            ElementType::Fp64 => bytemuck::cast_slice(self.value.try_extract_tensor::<f64>().expect(checked).1),
            ElementType::I64 => bytemuck::cast_slice(self.value.try_extract_tensor::<i64>().expect(checked).1),
            ElementType::I32 => bytemuck::cast_slice(self.value.try_extract_tensor::<i32>().expect(checked).1),
            _ => self.value.try_extract_tensor::<u8>().expect(checked).1,
        }
    }
}

fn output(value: DynValue) -> Result<Tensor, String> {
    let ort::value::ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err("is not a tensor".to_owned());
    };
    let dimensions = shape.iter().map(|size| u32::try_from(*size)).collect::<Result<Vec<_>, _>>();
    let dimensions = dimensions.map_err(|_| format!("has unsupported shape {shape:?}"))?;
    let ty = match ty {
        TensorElementType::Float32 => ElementType::Fp32,
        TensorElementType::Float64 => ElementType::Fp64,
        TensorElementType::Int64 => ElementType::I64,
        TensorElementType::Int32 => ElementType::I32,
        TensorElementType::Uint8 => ElementType::U8,
        other => return Err(format!("has type {other}, which is not supported")),
    };
    Tensor::from_buffer(dimensions, ty, Arc::new(Output { value, ty })).map_err(|error| error.to_string())
}
