//! OpenVINO, from the library of its wheel.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::openvino::{
    Core, DeviceType, ElementType as OvType, InferRequest, InferenceError, InferenceErrorKind, Model, RwPropertyKey,
    Shape, Tensor as OvTensor,
};

use crate::signature::Signature;
use crate::stop::Stop;
use crate::tensor::{Buffer, ElementType, Tensor};
use crate::{Device, Engine, EngineError, Kind, Options, Session};

pub(crate) struct OpenVino {
    core: Mutex<Core>,
}

impl OpenVino {
    /// Loads the library; the first one that a process loads stays loaded.
    pub(crate) fn load(path: &Path) -> Result<OpenVino, EngineError> {
        let refuse = |reason: String| EngineError::Library { kind: Kind::OpenVino, path: path.to_owned(), reason };
        openvino_sys::library::load_from(path).map_err(refuse)?;
        let core = Core::new().map_err(|error| refuse(error.to_string()))?;
        Ok(OpenVino { core: Mutex::new(core) })
    }
}

impl Engine for OpenVino {
    fn kind(&self) -> Kind {
        Kind::OpenVino
    }

    fn compile(&self, graph: &[u8], options: Options) -> Result<Box<dyn Session>, EngineError> {
        if options.device != Device::Cpu {
            let reason = "it supports only the CPU: use `onnxruntime`".to_owned();
            return Err(EngineError::Device { kind: Kind::OpenVino, device: "cuda", reason });
        }
        let fail = |error: InferenceError| EngineError::Compile { kind: Kind::OpenVino, reason: error.to_string() };
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = options.threads.to_string();
        for (key, value) in [
            // Otherwise it computes in bfloat16 if the CPU supports it.
            (RwPropertyKey::HintInferencePrecision, "f32"),
            (RwPropertyKey::InferenceNumThreads, threads.as_str()),
            (RwPropertyKey::NumStreams, "1"),
            // Otherwise the threads of all sessions are pinned to the same cores.
            (RwPropertyKey::HintEnableCpuPinning, "NO"),
        ] {
            core.set_property(&DeviceType::CPU, &key, value).map_err(fail)?;
        }
        let model = core.read_model_from_buffer(graph, None).map_err(fail)?;
        let mut compiled = core.compile_model(&model, DeviceType::CPU).map_err(fail)?;
        let request = compiled.create_infer_request().map_err(fail)?;
        Ok(Box::new(Compiled { request, signature: signature(&model).map_err(fail)? }))
    }
}

/// Time between two looks whether a run is to stop, in milliseconds.
const SLICE_MS: i64 = 10;

struct Compiled {
    request: InferRequest,
    signature: Signature,
}

fn signature(model: &Model) -> Result<Signature, InferenceError> {
    let inputs = (0..model.get_inputs_len()?).map(|index| model.get_input_by_index(index)?.get_name());
    let outputs = (0..model.get_outputs_len()?).map(|index| model.get_output_by_index(index)?.get_name());
    Ok(Signature { inputs: inputs.collect::<Result<_, _>>()?, outputs: outputs.collect::<Result<_, _>>()? })
}

impl Session for Compiled {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[(&str, Tensor)], outputs: &[&str], stop: &Stop) -> Result<Vec<Tensor>, EngineError> {
        self.signature.check(inputs, outputs)?;
        for (name, tensor) in inputs {
            let refuse = |reason: String| EngineError::Input { name: (*name).to_owned(), reason };
            let own = input(tensor).map_err(refuse)?;
            self.request.set_tensor(name, &own).map_err(|error| refuse(error.to_string()))?;
        }
        self.infer(stop)?;
        let take = |name: &&str| {
            let refuse = |reason: String| EngineError::Output { name: (*name).to_owned(), reason };
            let found = self.request.get_tensor(name).map_err(|error| refuse(error.to_string()))?;
            output(&found).map_err(refuse)
        };
        outputs.iter().map(take).collect()
    }
}

impl Compiled {
    /// Runs the request, and looks from this thread whether to stop it: requests are not for several threads.
    fn infer(&mut self, stop: &Stop) -> Result<(), EngineError> {
        let fail = |error: InferenceError| EngineError::Run { kind: Kind::OpenVino, reason: error.to_string() };
        self.request.infer_async().map_err(fail)?;
        let mut is_cancelled = false;
        loop {
            match self.request.wait(SLICE_MS) {
                Err(error) if error.kind == InferenceErrorKind::ResultNotReady => {}
                _ if is_cancelled => return Err(EngineError::Stopped),
                result => return result.map_err(fail),
            }
            if stop.is_stopped() && !is_cancelled {
                self.request.cancel().map_err(fail)?;
                is_cancelled = true;
            }
        }
    }
}

/// A copy of the tensor in the engine's memory.
fn input(tensor: &Tensor) -> Result<OvTensor, String> {
    let ty = match tensor.ty() {
        ElementType::Fp32 => OvType::F32,
        ElementType::Fp64 => OvType::F64,
        ElementType::Fp16 => OvType::F16,
        ElementType::Bf16 => OvType::Bf16,
        ElementType::I64 => OvType::I64,
        ElementType::I32 => OvType::I32,
        ElementType::U8 => OvType::U8,
    };
    let dimensions: Vec<i64> = tensor.dimensions().iter().map(|size| i64::from(*size)).collect();
    let text = |error: InferenceError| error.to_string();
    let shape = Shape::new(&dimensions).map_err(text)?;
    let mut own = OvTensor::new(ty, &shape).map_err(text)?;
    own.get_raw_data_mut().map_err(text)?.copy_from_slice(tensor.bytes());
    Ok(own)
}

struct Copied(Vec<u8>);

impl Buffer for Copied {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A copy of an output, since the next run overwrites its memory.
fn output(tensor: &OvTensor) -> Result<Tensor, String> {
    let text = |error: InferenceError| error.to_string();
    let ty = match tensor.get_element_type().map_err(text)? {
        OvType::F32 => ElementType::Fp32,
        OvType::F64 => ElementType::Fp64,
        OvType::I64 => ElementType::I64,
        OvType::I32 => ElementType::I32,
        OvType::U8 => ElementType::U8,
        other => return Err(format!("has type {other:?}, which is not supported")),
    };
    let shape = tensor.get_shape().map_err(text)?;
    let sizes = shape.get_dimensions();
    let dimensions = sizes.iter().map(|size| u32::try_from(*size)).collect::<Result<Vec<_>, _>>();
    let dimensions = dimensions.map_err(|_| format!("has unsupported shape {sizes:?}"))?;
    let bytes = tensor.get_raw_data().map_err(text)?.to_vec();
    Tensor::from_buffer(dimensions, ty, Arc::new(Copied(bytes))).map_err(|error| error.to_string())
}
