//! One call of a guest: a fresh instance, limits around it, an account of its usage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skein_engine::ShapeError;
use wasmtime::component::{InstancePre, ResourceTableError};
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::admission::{Admitted, Origin, admit, chain};
use crate::capability::{Account, Input, Misuse, State};
use crate::error::{CallError, Limit, LoadError};
use crate::function::Function;
use crate::graphs::Graphs;
use crate::meter::Meter;
use crate::options::Limits;
use crate::runtime::{CallSlot, Runtime, Shared};
use crate::world::World;

/// Longest text of a guest that an error repeats.
const REASON_CHARS_MAX: usize = 300;

/// Resources that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// From the start of the call, after it got its slot, to its end.
    pub duration: Duration,
    /// Most bytes that the guest held: memories, tables, handles and the tensors behind them.
    pub memory_bytes_peak: usize,
    /// Part of the duration that engines spent computing.
    pub engine: Duration,
    /// Bytes of parameters that crossed into the guest.
    pub parameter_bytes: u64,
    /// Whether this was the function's first call since it was loaded.
    pub cold: bool,
}

impl Usage {
    /// Peak memory times duration, in gigabytes (10⁹ bytes) times seconds.
    pub fn gb_seconds(&self) -> f64 {
        self.memory_bytes_peak as f64 / 1e9 * self.duration.as_secs_f64()
    }
}

/// The result of a call, and the resources that it used.
#[derive(Debug)]
pub struct Call<T> {
    /// The function's output after the host's checks, or why there is none.
    pub result: Result<T, CallError>,
    /// Resources used, counted for failed calls too.
    pub usage: Usage,
}

/// A loaded function's name, digest, world and loading time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Name in the job.
    pub name: String,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: String,
    /// The world it implements.
    pub world: World,
    /// Where its compiled artifact came from.
    pub origin: Origin,
    /// How long it took to load.
    pub load_duration: Duration,
}

/// The part of a function that all worlds share.
pub(crate) struct Loaded {
    pub(crate) about: FunctionInfo,
    limits: Limits,
    settings: Arc<BTreeMap<String, String>>,
    graphs: Graphs,
    called: AtomicBool,
    shared: Arc<Shared>,
}

impl Loaded {
    /// Admits a component as a function of `world`; `bind` creates the bindings of that world.
    pub(crate) async fn load<P>(
        runtime: &Runtime,
        function: Function,
        world: World,
        bytes: &[u8],
        bind: impl FnOnce(InstancePre<State>) -> wasmtime::Result<P>,
    ) -> Result<(Arc<Loaded>, P), LoadError> {
        let shared = runtime.shared().clone();
        let Function { name, limits, settings, graphs } = function;
        let Admitted { pre, digest, origin, duration } = admit(&shared, &name, world, bytes).await?;
        let pre = bind(pre).map_err(|error| LoadError::WrongWorld {
            function: name.clone(),
            expected: world,
            reason: chain(&error),
        })?;
        let about = FunctionInfo { name, digest, world, origin, load_duration: duration };
        let settings = Arc::new(settings);
        let called = AtomicBool::new(false);
        Ok((Arc::new(Loaded { about, limits, settings, graphs, called, shared }), pre))
    }

    /// Runs `guest` in a fresh store, then `check` on its output, in the slot that the caller holds.
    #[tracing::instrument(level = "debug", name = "call", skip_all, fields(function = self.about.name))]
    pub(crate) async fn invoke<T, R>(
        &self,
        _slot: &CallSlot,
        input: Input,
        guest: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<T>,
        check: impl FnOnce(&mut State, T) -> Result<R, CallError>,
    ) -> Call<R> {
        let deadline = tokio::time::Instant::now() + self.limits.wall;
        let cold = !self.called.swap(true, Ordering::Relaxed);
        let start = Instant::now();
        let mut store = self.store(input);
        let output = tokio::time::timeout_at(deadline, guest(&mut store)).await;
        let duration = start.elapsed();
        let state = store.data_mut();
        let result = match output {
            Err(_) => Err(self.limit(Limit::Wall)),
            Ok(Err(error)) => Err(self.blame(state, error)),
            Ok(Ok(output)) => check(state, output),
        };
        let Account { engine, parameter_bytes } = state.account;
        let usage = Usage { duration, memory_bytes_peak: state.meter.bytes_peak(), engine, parameter_bytes, cold };
        tracing::debug!(?usage, error = result.as_ref().err().map(tracing::field::display));
        Call { result, usage }
    }

    /// Waits for a slot to run in.
    pub(crate) async fn slot(&self) -> CallSlot {
        self.shared.slot().await
    }

    fn store(&self, input: Input) -> Store<State> {
        let meter = Meter::new(self.limits);
        let mut store =
            Store::new(&self.shared.engine, State::new(meter, self.settings.clone(), self.graphs.clone(), input));
        store.data_mut().table.set_max_capacity(self.limits.handles as usize);
        store.set_max_component_handles(self.limits.handles as usize);
        store.set_hostcall_fuel(self.limits.hostcall_bytes());
        store.limiter(|state| &mut state.meter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().meter.tick() {
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            } else {
                UpdateDeadline::Interrupt
            })
        });
        store
    }

    /// Attributes a failed call to a limit, the guest or the host.
    fn blame(&self, state: &State, error: wasmtime::Error) -> CallError {
        let function = self.about.name.clone();
        if let Some(limit) = state.meter.hit() {
            return CallError::Limit { function, limit };
        }
        if let Some(limit) = limit_of(&error) {
            return CallError::Limit { function, limit };
        }
        // A trap, or an import that refused the guest's input.
        let is_guest = error.downcast_ref::<Trap>().is_some()
            || error.downcast_ref::<ResourceTableError>().is_some()
            || error.downcast_ref::<ShapeError>().is_some()
            || error.downcast_ref::<Misuse>().is_some();
        if is_guest {
            CallError::Trap { function, reason: bounded(&error.root_cause().to_string()) }
        } else {
            CallError::Host { function, source: error.into() }
        }
    }

    pub(crate) fn limit(&self, limit: Limit) -> CallError {
        CallError::Limit { function: self.about.name.clone(), limit }
    }

    pub(crate) fn refused(&self, reason: &str) -> CallError {
        CallError::Refused { function: self.about.name.clone(), reason: bounded(reason) }
    }

    pub(crate) fn bad_output(&self, reason: impl Into<String>) -> CallError {
        CallError::BadOutput { function: self.about.name.clone(), reason: bounded(&reason.into()) }
    }
}

/// Limits that wasmtime itself counts; it distinguishes most of them only by their messages.
fn limit_of(error: &wasmtime::Error) -> Option<Limit> {
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Some(Limit::Handles);
    }
    let text = error.root_cause().to_string();
    [("fuel allocated for hostcalls", Limit::Hostcall), ("limit on the number of component handles", Limit::Handles)]
        .into_iter()
        .chain([("resource limit exceeded", Limit::Instances)])
        .find_map(|(words, limit)| text.contains(words).then_some(limit))
}

/// Text of a guest, shortened for an error and without control characters.
fn bounded(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(REASON_CHARS_MAX).map(printable).collect()
}
