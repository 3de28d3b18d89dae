//! The host functions that guests may call: one file per WIT interface, and the state of a call behind them.

pub(crate) mod bindings;

mod contributions;
mod inference;
mod nn;
mod parameters;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skein_engine::Tensor;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::graphs::Graphs;
use crate::meter::Meter;
use crate::parameters::Parameters;
use crate::world::World;

#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use contributions::{HostContribution, HostSink};
#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use inference::{HostContext, HostError, HostGraph};
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub use nn::HostTensor;

/// A guest used an import in a way that its interface forbids; the call traps with this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(String);

/// The input of a call beside its arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub(crate) parameters: Parameters,
    /// Seed of the noise of dropout.
    pub(crate) noise_seed: u64,
}

/// Host resources that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Account {
    /// Time that engines spent computing.
    pub(crate) engine: Duration,
    /// Bytes of parameters that the guest read.
    pub(crate) parameter_bytes: u64,
}

/// Bytes of a handle that a guest creates, without the data behind it: its slot in the table, which doubles when it is
/// full, the box of its value, and its entry in the component's own table. A million tensors without elements take 277
/// bytes each of this process.
const HANDLE_BYTES: usize = 320;

/// Text of a guest, shortened for an error.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// The state of one call.
pub(crate) struct State {
    pub(crate) table: ResourceTable,
    pub(crate) meter: Meter,
    /// Host resources that the call used, beside its own time and memory.
    pub(crate) account: Account,
    settings: Arc<BTreeMap<String, String>>,
    graphs: Graphs,
    parameters: Parameters,
    noise_seed: u64,
    /// Created when a guest first uses WASI; the built-in functions never do.
    wasi: Option<WasiCtx>,
}

impl State {
    pub(crate) fn new(meter: Meter, settings: Arc<BTreeMap<String, String>>, graphs: Graphs, input: Input) -> State {
        let Input { parameters, noise_seed } = input;
        let table = ResourceTable::new();
        let account = Account::default();
        State { table, meter, account, settings, graphs, parameters, noise_seed, wasi: None }
    }

    /// Counts `bytes` more as the guest's memory, or ends the call with an error.
    fn take(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if !self.meter.take(bytes) {
            wasmtime::bail!("{bytes} more bytes exceed the memory limit");
        }
        Ok(())
    }

    /// Creates a handle to a value that holds `bytes` elsewhere. The guest requested it, so both count as its memory.
    fn hold<T: Send + 'static>(&mut self, value: T, bytes: usize) -> wasmtime::Result<Resource<T>> {
        self.take(HANDLE_BYTES + bytes)?;
        Ok(self.table.push(value)?)
    }

    /// Removes a handle that [`hold`](Self::hold) made. The caller releases the bytes that its value holds elsewhere.
    fn release<T: 'static>(&mut self, handle: Resource<T>) -> wasmtime::Result<T> {
        let value = self.table.delete(handle)?;
        self.meter.give(HANDLE_BYTES);
        Ok(value)
    }

    /// Creates a handle to a tensor whose own bytes count as the guest's memory.
    fn hold_tensor(&mut self, tensor: Tensor) -> wasmtime::Result<Resource<HostTensor>> {
        let taken = HANDLE_BYTES + tensor.own_bytes();
        self.take(taken)?;
        Ok(self.table.push(HostTensor { tensor, taken })?)
    }
}

impl WasiView for State {
    /// An empty WASI: no files, no environment, no network, no standard streams. Clocks and random numbers exist
    /// because every language's start-up needs them.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().max_random_size(1 << 16).build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// The imports of each world.
pub(crate) struct Linkers {
    gradient: Linker<State>,
    aggregate: Linker<State>,
}

impl Linkers {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Linkers> {
        let mut gradient = Linker::new(engine);
        bindings::GradientWorld::add_to_linker::<_, HasSelf<State>>(&mut gradient, |state| state)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut gradient)?;
        let mut aggregate = Linker::new(engine);
        bindings::AggregateWorld::add_to_linker::<_, HasSelf<State>>(&mut aggregate, |state| state)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut aggregate)?;
        Ok(Linkers { gradient, aggregate })
    }

    pub(crate) fn of(&self, world: World) -> &Linker<State> {
        match world {
            World::Gradient => &self.gradient,
            World::Aggregate => &self.aggregate,
        }
    }
}
