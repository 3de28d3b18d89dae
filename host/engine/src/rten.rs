//! rten, built in: pure Rust, no installation.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::rten::{Model, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::{Layout, Tensor as Array, TensorView};

use crate::signature::Signature;
use crate::tensor::{Buffer, ElementType, Tensor};
use crate::{Device, Engine, EngineError, Kind, Options, Session};

pub(crate) struct Rten;

impl Engine for Rten {
    fn kind(&self) -> Kind {
        Kind::Rten
    }

    fn compile(&self, graph: &[u8], options: Options) -> Result<Box<dyn Session>, EngineError> {
        if options.device != Device::Cpu {
            let reason = "it supports only the CPU: use `onnxruntime`".to_owned();
            return Err(EngineError::Device { kind: Kind::Rten, device: "cuda", reason });
        }
        let compile = |reason: String| EngineError::Compile { kind: Kind::Rten, reason };
        let model = guard(|| Model::load(graph.to_vec())).map_err(compile)?;
        let model = model.map_err(|error| compile(error.to_string()))?;
        let names =
            |ids: &[NodeId]| ids.iter().filter_map(|id| Some(model.node_info(*id)?.name()?.to_owned())).collect();
        let signature = Signature { inputs: names(model.input_ids()), outputs: names(model.output_ids()) };
        Ok(Box::new(Compiled { model, signature, pool: Arc::new(ThreadPool::with_num_threads(options.threads)) }))
    }
}

struct Compiled {
    model: Model,
    signature: Signature,
    pool: Arc<ThreadPool>,
}

/// Turns a panic of the engine into an error with its message.
fn guard<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("it panicked: {}", text.unwrap_or("without a message"))
    })
}

impl Session for Compiled {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, EngineError> {
        let fail = |reason: String| EngineError::Run { kind: Kind::Rten, reason };
        self.signature.check(inputs, outputs)?;
        let floats: Vec<_> = inputs.iter().map(|(_, tensor)| tensor.floats()).collect();
        let mut values: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len());
        for ((name, tensor), floats) in inputs.iter().zip(&floats) {
            let refuse = |reason: &str| EngineError::Input { name: (*name).to_owned(), reason: reason.to_owned() };
            let id = self.model.find_node(name).ok_or_else(|| refuse("it has no such input"))?;
            let shape: Vec<usize> = tensor.dimensions().iter().map(|size| *size as usize).collect();
            let value = match floats {
                Some(floats) => TensorView::from_data(&shape[..], &**floats).into(),
                None => Value::from(integers(tensor, &shape).map_err(|reason| refuse(&reason))?).into(),
            };
            values.push((id, value));
        }
        let find = |name: &&str| {
            let reason = "it has no such output".to_owned();
            self.model.find_node(name).ok_or_else(|| EngineError::Output { name: (*name).to_owned(), reason })
        };
        let ids = outputs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let found = guard(|| self.model.run(values, &ids, Some(options))).map_err(fail)?;
        let found = found.map_err(|error| fail(error.to_string()))?;
        let convert = |(name, value): (&&str, Value)| {
            tensor(value).map_err(|reason| EngineError::Output { name: (*name).to_owned(), reason })
        };
        outputs.iter().zip(found).map(convert).collect()
    }
}

/// Converts integers to 32 bits, the only ones that rten has.
fn integers(tensor: &Tensor, shape: &[usize]) -> Result<Array<i32>, String> {
    let values: Vec<i32> = match tensor.ty() {
        ElementType::I64 => {
            let values = tensor.integers().unwrap_or_default();
            let narrow = values.iter().map(|value| i32::try_from(*value));
            narrow.collect::<Result<_, _>>().map_err(|_| "rten supports integers of 32 bits only".to_owned())?
        }
        ElementType::I32 => bytemuck::pod_collect_to_vec(tensor.bytes()),
        other => return Err(format!("rten does not support {other:?}")),
    };
    Ok(Array::from_data(shape, values))
}

/// Values of an output, moved out of the engine.
struct Floats(Vec<f32>);

impl Buffer for Floats {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn tensor(value: Value) -> Result<Tensor, String> {
    match value {
        Value::FloatTensor(array) => {
            let dimensions = dimensions(array.shape())?;
            let values = Arc::new(Floats(array.into_data()));
            Tensor::from_buffer(dimensions, ElementType::Fp32, values).map_err(|error| error.to_string())
        }
        Value::Int32Tensor(array) => {
            let dimensions = dimensions(array.shape())?;
            let bytes = bytemuck::cast_slice(&array.into_data()).to_vec();
            Tensor::from_bytes(dimensions, ElementType::I32, bytes).map_err(|error| error.to_string())
        }
        other => Err(format!("has type {:?}, which is not supported", other.dtype())),
    }
}

fn dimensions(shape: &[usize]) -> Result<Vec<u32>, String> {
    shape.iter().map(|size| u32::try_from(*size).map_err(|_| format!("has unsupported shape {shape:?}"))).collect()
}
