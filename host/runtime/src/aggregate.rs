//! Functions of the world `aggregate`: the contributions of a round in, one finite vector out.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use skein_kernels::norm::all_finite;
use wasmtime::Store;
use wasmtime::component::Resource;

use crate::capability::bindings::{AggregatePre, aggregation};
use crate::capability::{HostContribution, HostSink, Input, State};
use crate::error::{CallError, LoadError};
use crate::function::Function;
use crate::graphs::CallInputs;
use crate::invoke::{Call, FunctionInfo, Loaded};
use crate::parameters::Parameters;
use crate::runtime::Runtime;
use crate::slot::CallSlot;
use crate::world::World;

/// One peer's contribution. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct Contribution {
    /// The peer's public key in hexadecimal digits.
    pub peer: String,
    /// Samples that the peer claims it averaged over.
    pub samples: u64,
    /// The gradient, averaged over the peer's samples of this round.
    pub values: Arc<Vec<f32>>,
}

/// The result of an aggregation function for one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregated {
    /// The aggregate, as long as every contribution, all finite.
    pub values: Vec<f32>,
    /// Peers that the rule left out as a whole.
    pub rejected: Vec<String>,
}

/// An aggregation function, ready to be called from many tasks at once. Cloning shares it.
#[derive(Clone)]
pub struct AggregateFunction {
    loaded: Arc<Loaded>,
    pre: AggregatePre<State>,
}

impl Runtime {
    /// Compiles a component, or takes it from the cache, and checks that it is an aggregation function.
    ///
    /// # Errors
    /// [`LoadError`]: the bytes are not admitted, or implement another world.
    pub fn aggregate_function<'a>(
        &'a self,
        function: Function,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<AggregateFunction, LoadError>> {
        Box::pin(async move {
            let (loaded, pre) = Loaded::load(self, function, World::Aggregate, bytes, AggregatePre::new).await?;
            Ok(AggregateFunction { loaded, pre })
        })
    }
}

impl AggregateFunction {
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

    /// Aggregates contributions of one length, in the order of their peers' keys. Up to `faults` of them may be
    /// arbitrary. The guest's random numbers follow from `seed` and its clocks are fixed, so that the same input has the
    /// same result everywhere.
    ///
    /// # Panics
    /// If the contributions differ in length: the caller has checked what it received.
    pub fn aggregate<'a>(
        &'a self,
        slot: &'a CallSlot,
        contributions: Vec<Contribution>,
        faults: u32,
        seed: u64,
    ) -> BoxFuture<'a, Call<Aggregated>> {
        Box::pin(async move {
            let present = contributions.len();
            let len = contributions.first().map_or(0, |contribution| contribution.values.len());
            assert!(
                contributions.iter().all(|contribution| contribution.values.len() == len),
                "contributions must have one length"
            );
            let guest = async |store: &mut Store<State>| {
                let table = &mut store.data_mut().table;
                let sink = table.push(HostSink { values: vec![f32::NAN; len] })?;
                let handles = contributions
                    .into_iter()
                    .map(|Contribution { peer, samples, values }| {
                        Ok(table.push(HostContribution { peer, samples, values })?)
                    })
                    .collect::<wasmtime::Result<Vec<_>>>()?;
                let instance = self.pre.instantiate_async(&mut *store).await?;
                let borrowed = Resource::new_borrow(sink.rep());
                let functions = instance.skein_train_aggregation();
                let report = functions.call_aggregate(&mut *store, &handles, faults, borrowed).await?;
                Ok((report, store.data_mut().table.delete(sink)?.values))
            };
            let check =
                |_: &mut State, (report, values): (Result<aggregation::Report, aggregation::Error>, Vec<f32>)| {
                    let report = report.map_err(|error| self.refusal(error, present))?;
                    if !all_finite(&values) {
                        let first = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
                        return Err(self
                            .loaded
                            .bad_output(format!("value {first} of the aggregate was not written or is not finite")));
                    }
                    Ok(Aggregated { values, rejected: report.rejected })
                };
            let graphs = CallInputs { parameters: Parameters::default(), noise_seed: 0, samples_max: 0 };
            let input = Input { graphs, repeatable: Some(seed), slot: slot.clone() };
            self.loaded.invoke(input, guest, check).await
        })
    }

    /// The function's name, digest, world and loading time.
    pub fn info(&self) -> &FunctionInfo {
        &self.loaded.about
    }

    fn refusal(&self, error: aggregation::Error, present: usize) -> CallError {
        match error {
            aggregation::Error::TooFew(needed) => {
                CallError::TooFew { function: self.loaded.about.name.clone(), needed, present }
            }
            aggregation::Error::Other(reason) => self.loaded.refused(&reason),
        }
    }
}
