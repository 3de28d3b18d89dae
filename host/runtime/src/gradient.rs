//! Functions of the world `gradient`: one batch in, a checked gradient or metrics out.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use skein_engine::{ElementType, Tensor};
use skein_kernels::norm::all_finite;
use skein_types::Layout;
use wasmtime::Store;
use wasmtime::component::Resource;

use crate::capability::bindings::{GradientPre, gradients};
use crate::capability::{HostTensor, Input, State};
use crate::error::{CallError, LoadError};
use crate::function::Function;
use crate::graphs::CallInputs;
use crate::invoke::{Call, FunctionInfo, Loaded};
use crate::runtime::Runtime;
use crate::slot::CallSlot;
use crate::world::World;

pub use crate::parameters::Parameters;

/// Samples to compute on. Cloning shares the tensors.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Number of samples, at least 1.
    pub samples: u32,
    /// Named tensors whose first dimension is the sample.
    pub tensors: Vec<(String, Tensor)>,
    /// Seed of the noise of dropout.
    pub noise_seed: u64,
}

/// A checked gradient: finite, with the parameters' names, shapes and type.
#[derive(Debug, Clone)]
pub struct Gradient {
    /// Mean loss over the samples.
    pub loss: f32,
    /// Samples that it is the mean over, at least 1.
    pub samples: u32,
    /// One FP32 tensor for each parameter, in the layout's order; for a running statistic its new value.
    pub tensors: Vec<Tensor>,
}

impl Gradient {
    /// All tensors as one vector, in the layout's order.
    ///
    /// # Errors
    /// A tensor is not FP32.
    pub fn flat(&self) -> Result<Vec<f32>, NotFloats> {
        let mut flat = Vec::with_capacity(self.tensors.iter().map(|tensor| tensor.bytes().len() / 4).sum());
        for (index, tensor) in self.tensors.iter().enumerate() {
            let floats = tensor.floats().ok_or(NotFloats { index, actual: tensor.ty() })?;
            flat.extend_from_slice(&floats);
        }
        Ok(flat)
    }
}

/// A tensor of a gradient that is not FP32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tensor {index} of the gradient has type {actual:?}, expected FP32")]
pub struct NotFloats {
    /// Index of the tensor.
    pub index: usize,
    /// Type of the tensor.
    pub actual: ElementType,
}

/// The likely cause of values that are not finite, and what helps.
const DIVERGED: &str =
    "training may have diverged; lower `train.learning_rate`, set `train.clip_norm`, or scale the data by `data.scale`";

/// Metrics of parameters on a batch; the loss is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// Mean loss over the samples.
    pub loss: f32,
    /// Samples evaluated, at least 1.
    pub samples: u32,
    /// Samples classified correctly, if the task is a classification.
    pub correct: Option<u32>,
}

/// A gradient function, ready to be called from many tasks at once. Cloning shares it.
#[derive(Clone)]
pub struct GradientFunction {
    loaded: Arc<Loaded>,
    pre: GradientPre<State>,
}

impl Runtime {
    /// Compiles a component, or takes it from the cache, and checks that it is a gradient function.
    ///
    /// # Errors
    /// [`LoadError`]: the bytes are not admitted, or implement another world.
    pub fn gradient_function<'a>(
        &'a self,
        function: Function,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<GradientFunction, LoadError>> {
        Box::pin(async move {
            let (loaded, pre) = Loaded::load(self, function, World::Gradient, bytes, GradientPre::new).await?;
            Ok(GradientFunction { loaded, pre })
        })
    }
}

impl GradientFunction {
    /// Waits for a slot to run in, as long as it takes; slots are granted in the order of requests. Hold it as long as
    /// the call's result is in use.
    pub async fn slot(&self) -> CallSlot {
        self.loaded.slot().await
    }

    /// Waits for a slot as long as the function's limits allow.
    ///
    /// # Errors
    /// [`CallError::Busy`]: too many calls wait already, or this one has waited too long.
    pub async fn slot_within_limits(&self) -> Result<CallSlot, CallError> {
        self.loaded.slot_within_limits().await
    }

    /// The loss and gradient of `batch`, at `parameters`.
    pub fn compute<'a>(
        &'a self,
        slot: &'a CallSlot,
        parameters: Parameters,
        batch: Batch,
    ) -> BoxFuture<'a, Call<Gradient>> {
        Box::pin(async move {
            let layout = parameters.layout.clone();
            let samples = batch.samples;
            let input = input(slot, parameters, &batch);
            let guest = async |store: &mut Store<State>| {
                let batch = lower(store, batch)?;
                let instance = self.pre.instantiate_async(&mut *store).await?;
                instance.skein_train_gradients().call_compute(store, &batch).await
            };
            self.loaded.invoke(input, guest, |state, output| self.check(state, output, &layout, samples)).await
        })
    }

    /// The loss and metrics of `batch`, at `parameters`.
    pub fn evaluate<'a>(
        &'a self,
        slot: &'a CallSlot,
        parameters: Parameters,
        batch: Batch,
    ) -> BoxFuture<'a, Call<Metrics>> {
        Box::pin(async move {
            let samples = batch.samples;
            let input = input(slot, parameters, &batch);
            let guest = async |store: &mut Store<State>| {
                let batch = lower(store, batch)?;
                let instance = self.pre.instantiate_async(&mut *store).await?;
                instance.skein_train_gradients().call_evaluate(store, &batch).await
            };
            let check = |_: &mut State, output: Result<gradients::Metrics, gradients::Error>| {
                let gradients::Metrics { loss, samples: counted, correct } = output.map_err(|e| self.refusal(&e))?;
                self.check_loss(loss, counted, samples)?;
                if correct.is_some_and(|correct| correct > counted) {
                    return Err(self.loaded.bad_output(format!("{correct:?} of {counted} samples are right")));
                }
                Ok(Metrics { loss, samples: counted, correct })
            };
            self.loaded.invoke(input, guest, check).await
        })
    }

    /// The function's name, digest, world and loading time.
    pub fn info(&self) -> &FunctionInfo {
        &self.loaded.about
    }

    fn check(
        &self,
        state: &mut State,
        output: Result<gradients::Gradient, gradients::Error>,
        layout: &Layout,
        samples: u32,
    ) -> Result<Gradient, CallError> {
        let gradients::Gradient { loss, samples: counted, tensors } = output.map_err(|error| self.refusal(&error))?;
        self.check_loss(loss, counted, samples)?;
        let mut named = BTreeMap::new();
        for (name, handle) in tensors {
            let HostTensor { tensor, .. } =
                state.table.delete(handle).map_err(|error| self.loaded.bad_output(error.to_string()))?;
            if layout.find(&name).is_none() {
                return Err(self.loaded.bad_output(format!("`{name}` is not a parameter of the model")));
            }
            if named.insert(name.clone(), tensor).is_some() {
                return Err(self.loaded.bad_output(format!("`{name}` is returned twice")));
            }
        }
        let ordered = layout.parameters().iter().map(|parameter| {
            let tensor = named.remove(&parameter.name);
            let tensor = tensor.ok_or_else(|| format!("the gradient of `{}` is missing", parameter.name))?;
            let name = &parameter.name;
            let expected = &parameter.shape;
            let actual = tensor.dimensions();
            if expected != actual {
                return Err(format!("the gradient of `{name}` has shape {actual:?}, expected {expected:?}"));
            }
            let Some(values) = tensor.floats() else {
                let actual = tensor.ty();
                let expected = ElementType::Fp32;
                return Err(format!("the gradient of `{name}` has type {actual:?}, expected {expected:?}"));
            };
            if !all_finite(&values) {
                return Err(format!("the gradient of `{name}` is not finite: {DIVERGED}"));
            }
            drop(values);
            Ok(tensor)
        });
        let tensors = ordered.collect::<Result<_, String>>().map_err(|reason| self.loaded.bad_output(reason))?;
        Ok(Gradient { loss, samples: counted, tensors })
    }

    fn check_loss(&self, loss: f32, counted: u32, samples: u32) -> Result<(), CallError> {
        if !loss.is_finite() {
            return Err(self.loaded.bad_output(format!("the loss is {loss}: {DIVERGED}")));
        }
        if !(1..=samples).contains(&counted) {
            return Err(self.loaded.bad_output(format!("it counts {counted} samples of a batch of {samples}")));
        }
        Ok(())
    }

    fn refusal(&self, error: &gradients::Error) -> CallError {
        let (gradients::Error::InvalidBatch(reason)
        | gradients::Error::InvalidParameters(reason)
        | gradients::Error::Other(reason)) = error;
        self.loaded.refused(reason)
    }
}

fn input(slot: &CallSlot, parameters: Parameters, batch: &Batch) -> Input {
    let graphs = CallInputs { parameters, noise_seed: batch.noise_seed, samples_max: batch.samples };
    Input { graphs, repeatable: None, slot: slot.clone() }
}

fn lower(store: &mut Store<State>, batch: Batch) -> wasmtime::Result<gradients::Batch> {
    let table = &mut store.data_mut().table;
    let push = |(name, tensor)| -> wasmtime::Result<(String, Resource<HostTensor>)> {
        Ok((name, table.push(HostTensor::of_host(tensor))?))
    };
    let tensors = batch.tensors.into_iter().map(push).collect::<wasmtime::Result<_>>()?;
    Ok(gradients::Batch { samples: batch.samples, tensors })
}
