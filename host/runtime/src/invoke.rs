//! One call of a guest: a fresh instance, limits around it, an account of its usage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::{InstancePre, ResourceTableError};
use wasmtime::{Engine, PoolConcurrencyLimitError, Store, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::admission::{Admitted, Origin, admit, chain};
use crate::capability::{Account, HostFault, Input, State};
use crate::clock::CpuClock;
use crate::engine::PoolShare;
use crate::error::{CallError, Hit, Limit, LoadError, Trap};
use crate::function::Function;
use crate::graphs::{CallInputs, Graphs};
use crate::meter::Meter;
use crate::options::Limits;
use crate::parameters::Parameters;
use crate::run_queue::InTurns;
use crate::runtime::{Runtime, Shared};
use crate::slot::{CallSlot, FunctionSlots};
use crate::world::World;

/// Longest text of a guest that an error repeats.
const REASON_CHARS_MAX: usize = 300;

/// Resources that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// From the start of the call, after it got its slot, to its end; its waits for a processor are part of it.
    pub duration: Duration,
    /// Most bytes that the guest held: memories, tables, handles and the tensors behind them.
    pub memory_bytes_peak: usize,
    /// Processor time: that of the threads that ran the guest and its calls into the host, and of engines.
    pub cpu: Duration,
    /// Part of the duration that engines spent computing, in runs that came to their end.
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
    /// Part of the loading in which the component was hashed.
    pub hashing: Duration,
    /// Part of the loading in which a cached artifact was authenticated.
    pub authentication: Duration,
}

/// The part of a function that all worlds share.
pub(crate) struct Loaded {
    pub(crate) about: FunctionInfo,
    limits: Limits,
    settings: Arc<BTreeMap<String, String>>,
    graphs: Graphs,
    called: AtomicBool,
    slots: FunctionSlots,
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
        let Function { name, limits, engine_mib, settings, graphs } = function;
        let needed_mib = limits.memory_mib.saturating_add(engine_mib);
        if let Some(memory_mib) = shared.slots.memory_mib().filter(|memory_mib| *memory_mib < needed_mib) {
            return Err(LoadError::TotalMemory { function: name, needed_mib, memory_mib });
        }
        let Admitted { pre, digest, origin, duration, hashing, authentication } =
            admit(&shared, &name, world, bytes).await?;
        let pre = bind(pre).map_err(|error| LoadError::WrongWorld {
            function: name.clone(),
            expected: world,
            reason: chain(&error),
        })?;
        let about = FunctionInfo { name, digest, world, origin, load_duration: duration, hashing, authentication };
        let settings = Arc::new(settings);
        let called = AtomicBool::new(false);
        let slots = FunctionSlots::new(shared.slots.clone(), &limits, needed_mib);
        Ok((Arc::new(Loaded { about, limits, settings, graphs, called, slots, shared }), pre))
    }

    /// Runs `guest` in a fresh store, then `check` on its output.
    #[tracing::instrument(level = "debug", name = "call", skip_all, fields(function = self.about.name))]
    pub(crate) async fn invoke<T, R>(
        &self,
        input: Input,
        guest: impl AsyncFnOnce(&mut Store<State>) -> wasmtime::Result<T>,
        check: impl FnOnce(&mut State, T) -> Result<R, CallError>,
    ) -> Call<R> {
        let cold = !self.called.swap(true, Ordering::Relaxed);
        let start = Instant::now();
        let clock = CpuClock::default();
        let mut store = self.store(input, clock.clone());
        let output = {
            let guest = std::pin::pin!(guest(&mut store));
            self.in_time(InTurns::new(guest, &self.shared.run_queue, &clock)).await
        };
        let duration = start.elapsed();
        let state = store.data_mut();
        let result = match output {
            None => Err(self.limit(state, Limit::Wall)),
            Some(Err(error)) => Err(self.blame(state, error)),
            Some(Ok(output)) => check(state, output),
        };
        let Account { engine, parameter_bytes } = state.account;
        let memory_bytes_peak = state.meter.bytes_peak();
        let usage = Usage { duration, memory_bytes_peak, cpu: clock.used(), engine, parameter_bytes, cold };
        tracing::debug!(?usage, error = result.as_ref().err().map(tracing::field::display));
        Call { result, usage }
    }

    /// Runs a call for its wall time at most, without the time that it waits for its turns.
    async fn in_time<F: Future>(&self, mut call: InTurns<'_, F>) -> Option<F::Output> {
        let start = Instant::now();
        loop {
            let left = self.limits.wall.checked_sub(start.elapsed().saturating_sub(call.waited()))?;
            if let Ok(output) = tokio::time::timeout(left, &mut call).await {
                return Some(output);
            }
        }
    }

    /// A call that only instantiates the function. Returns what all calls of the runtime take of the world's pool
    /// meanwhile: if there is no other call, its own share.
    pub(crate) async fn call_nothing(&self, pre: &InstancePre<State>) -> Call<Option<PoolShare>> {
        let graphs = CallInputs { parameters: Parameters::default(), noise_seed: 0, samples_max: 0 };
        let repeatable = (self.about.world == World::Aggregate).then_some(0);
        let input = Input { graphs, repeatable, slot: self.slot().await };
        let guest = async |store: &mut Store<State>| {
            pre.instantiate_async(&mut *store).await?;
            Ok(PoolShare::of_all_calls(store.engine()))
        };
        self.invoke(input, guest, |_, share| Ok(share)).await
    }

    /// Waits for a slot to run in.
    pub(crate) async fn slot(&self) -> CallSlot {
        self.slots.slot().await
    }

    /// Waits for a slot as long as the limits allow.
    pub(crate) async fn slot_within_limits(&self) -> Result<CallSlot, CallError> {
        self.slots.slot_within(&self.limits).await.map_err(|limit| CallError::Busy {
            function: self.about.name.clone(),
            limit,
            bound: self.limits.bound(limit),
        })
    }

    fn engine(&self) -> &Engine {
        &self.shared.of_world(self.about.world).engine
    }

    fn store(&self, input: Input, clock: CpuClock) -> Store<State> {
        let meter = Meter::new(self.limits, clock);
        let mut store = Store::new(self.engine(), State::new(meter, self.settings.clone(), self.graphs.clone(), input));
        let (handles, _) = self.limits.handles_max();
        store.data_mut().table.set_max_capacity(handles);
        // Each handle of the host has an entry of the component too. The host's table is full first, which is an error
        // of a type of its own; entries beyond it are those of a component's own resources.
        store.set_max_component_handles(handles.saturating_mul(2));
        store.set_hostcall_fuel(self.limits.hostcall_bytes());
        store.limiter(|state| &mut state.meter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let meter = &mut store.data_mut().meter;
            Ok(if meter.has_cpu_left() {
                meter.note_yield();
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            } else {
                UpdateDeadline::Interrupt
            })
        });
        store
    }

    /// Attributes a failed call to a limit, the guest or the host: to the host only what it has marked as its own.
    fn blame(&self, state: &State, error: wasmtime::Error) -> CallError {
        let function = self.about.name.clone();
        if let Some(limit) = state.meter.hit().or_else(|| self.limit_of(&error)) {
            return self.limit(state, limit);
        }
        // Without a slot for each call, the pool could be full.
        if error.is::<HostFault>() || error.is::<PoolConcurrencyLimitError>() {
            return CallError::Host { function, source: error.into() };
        }
        let reason = match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(status)) => format!("it ended its program with status {status} and returned nothing"),
            None => error.root_cause().to_string(),
        };
        let trap = Trap { reason: bounded(&reason), frames: frames(&error), printed: state.printed() };
        CallError::Trap { function, trap: Box::new(trap) }
    }

    /// Limits that wasmtime or its tables count.
    fn limit_of(&self, error: &wasmtime::Error) -> Option<Limit> {
        if let Some(ResourceTableError::Full) = error.downcast_ref() {
            return Some(self.limits.handles_max().1);
        }
        // wasmtime keeps this type to itself; its name is the only part of it that is no prose.
        (format!("{:?}", error.root_cause()) == "HostcallFuelExhausted").then_some(Limit::Hostcall)
    }

    fn limit(&self, state: &State, limit: Limit) -> CallError {
        let hit = Hit { limit, bound: self.limits.bound(limit), printed: state.printed() };
        CallError::Limit { function: self.about.name.clone(), hit: Box::new(hit) }
    }

    pub(crate) fn refused(&self, reason: &str) -> CallError {
        CallError::Refused { function: self.about.name.clone(), reason: bounded(reason) }
    }

    pub(crate) fn bad_output(&self, reason: impl Into<String>) -> CallError {
        CallError::BadOutput { function: self.about.name.clone(), reason: bounded(&reason.into()) }
    }
}

/// Names of the functions that ran when the guest trapped, innermost first; empty if the component has no names.
fn frames(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    let names = backtrace.frames().iter().filter_map(|frame| frame.func_name());
    names.map(|name| bounded(&format!("{:#}", rustc_demangle::demangle(name)))).collect()
}

/// Text of a guest, shortened for an error and without control characters.
fn bounded(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(REASON_CHARS_MAX).map(printable).collect()
}
