//! rten, built in: pure Rust, no installation.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::rten::{Model, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use bytes::Bytes;
use rten_tensor::{AsView, Layout, Tensor as Array, TensorView};
use skein_graph::parts::{Parts, cut};

use crate::signature::Signature;
use crate::stop::Stop;
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
        let pool = Arc::new(ThreadPool::with_num_threads(options.threads));
        let graph = Bytes::copy_from_slice(graph);
        let (signature, parts) = match cut(graph.clone()) {
            Some(Parts { inputs, outputs, parts }) => {
                (Signature { inputs, outputs }, parts.into_iter().map(Part::load).collect::<Result<_, _>>()?)
            }
            None => {
                let model = load(graph.to_vec())?;
                let names = |ids: &[NodeId]| {
                    ids.iter().filter_map(|id| Some(model.node_info(*id)?.name()?.to_owned())).collect()
                };
                let inputs: Vec<String> = names(model.input_ids());
                let outputs: Vec<String> = names(model.output_ids());
                let part = Part::new(model, inputs.clone(), outputs.clone())?;
                (Signature { inputs, outputs }, vec![part])
            }
        };
        Ok(Box::new(Compiled { last_uses: last_uses(&parts, &signature), parts, signature, pool }))
    }
}

fn load(file: Vec<u8>) -> Result<Model, EngineError> {
    let refuse = |reason: String| EngineError::Compile { kind: Kind::Rten, reason };
    guard(|| Model::load(file)).map_err(refuse)?.map_err(|error| refuse(error.to_string()))
}

/// A graph as parts: a run is stopped between two of them, since rten itself has no means to.
struct Compiled {
    parts: Vec<Part>,
    /// Index of the last part that takes each value; that after the last part for outputs of the whole graph.
    last_uses: HashMap<String, usize>,
    signature: Signature,
    pool: Arc<ThreadPool>,
}

/// A part of the graph; the names are those of the whole graph.
struct Part {
    model: Model,
    inputs: Vec<(String, NodeId)>,
    outputs: Vec<(String, NodeId)>,
}

impl Part {
    fn load(part: skein_graph::parts::Part) -> Result<Part, EngineError> {
        Part::new(load(part.file)?, part.inputs, part.outputs)
    }

    fn new(model: Model, inputs: Vec<String>, outputs: Vec<String>) -> Result<Part, EngineError> {
        let find = |name: String| match model.find_node(&name) {
            Some(id) => Ok((name, id)),
            None => Err(EngineError::Compile { kind: Kind::Rten, reason: format!("it has no value `{name}`") }),
        };
        let inputs = inputs.into_iter().map(find).collect::<Result<_, _>>()?;
        let outputs = outputs.into_iter().map(find).collect::<Result<_, _>>()?;
        Ok(Part { model, inputs, outputs })
    }
}

fn last_uses(parts: &[Part], signature: &Signature) -> HashMap<String, usize> {
    let taken =
        parts.iter().enumerate().flat_map(|(index, part)| part.inputs.iter().map(move |(name, _)| (name, index)));
    let returned = signature.outputs.iter().map(|name| (name, parts.len()));
    // Later entries replace earlier ones.
    taken.chain(returned).map(|(name, last)| (name.clone(), last)).collect()
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

    fn run(&mut self, inputs: &[(&str, Tensor)], outputs: &[&str], stop: &Stop) -> Result<Vec<Tensor>, EngineError> {
        let fail = |reason: String| EngineError::Run { kind: Kind::Rten, reason };
        self.signature.check(inputs, outputs)?;
        let floats: Vec<_> = inputs.iter().map(|(_, tensor)| tensor.floats()).collect();
        let mut views = HashMap::with_capacity(inputs.len());
        for ((name, tensor), floats) in inputs.iter().zip(&floats) {
            let refuse = |reason: String| EngineError::Input { name: (*name).to_owned(), reason };
            let shape: Vec<usize> = tensor.dimensions().iter().map(|size| *size as usize).collect();
            let input = match floats {
                Some(floats) => Input::Floats(TensorView::from_data(&shape[..], &**floats)),
                None => Input::Integers(integers(tensor, &shape).map_err(refuse)?),
            };
            views.insert(*name, input);
        }
        let mut values: HashMap<&str, Value> = HashMap::new();
        for (index, part) in self.parts.iter().enumerate() {
            if stop.is_stopped() {
                return Err(EngineError::Stopped);
            }
            let is_used = |name: &str| self.last_uses.get(name).is_some_and(|last| *last > index);
            // Values that nothing else uses are given away, so that operators can compute in their place.
            let last = part.inputs.iter().filter(|(name, _)| !is_used(name));
            let own = last.filter_map(|(name, id)| Some((*id, values.remove(name.as_str())?.into()))).collect();
            let found = self.run_part(part, own, |name| {
                let value = values.get(name).map(|value| ValueOrView::View(value.as_view()));
                value.or_else(|| views.get(name).map(Input::view))
            });
            let found = found.map_err(fail)?;
            let names = part.outputs.iter().map(|(name, _)| name.as_str());
            values.extend(names.zip(found).filter(|(name, _)| is_used(name)));
        }
        let take = |name: &&str| {
            let refuse = |reason: String| EngineError::Output { name: (*name).to_owned(), reason };
            let value = values.remove(*name).ok_or_else(|| refuse("the engine did not return it".to_owned()))?;
            tensor(value).map_err(refuse)
        };
        outputs.iter().map(take).collect()
    }
}

/// An input of a run.
enum Input<'a> {
    Floats(TensorView<'a, f32>),
    Integers(Array<i32>),
}

impl Input<'_> {
    fn view(&self) -> ValueOrView<'_> {
        match self {
            Input::Floats(floats) => floats.view().into(),
            Input::Integers(integers) => integers.view().into(),
        }
    }
}

impl Compiled {
    /// Runs a part on values of its own and on others that `find` lends; returns its outputs, in its order.
    fn run_part<'a>(
        &self,
        part: &'a Part,
        mut inputs: Vec<(NodeId, ValueOrView<'a>)>,
        find: impl Fn(&'a str) -> Option<ValueOrView<'a>>,
    ) -> Result<Vec<Value>, String> {
        for (name, id) in &part.inputs {
            if !inputs.iter().any(|(own, _)| own == id) {
                inputs.push((*id, find(name).ok_or_else(|| format!("no part computes `{name}`"))?));
            }
        }
        let outputs: Vec<NodeId> = part.outputs.iter().map(|(_, id)| *id).collect();
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        guard(|| part.model.run(inputs, &outputs, Some(options)))?.map_err(|error| error.to_string())
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
