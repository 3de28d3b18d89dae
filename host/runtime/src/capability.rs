//! The host functions that guests may call: one file per WIT interface, and the state of a call behind them.

pub(crate) mod bindings;

mod contributions;
mod inference;
mod nn;
mod parameters;
mod printed;
mod repeatable;
mod settings;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use skein_engine::{Stop, Tensor};
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::printed::Printed;
use self::repeatable::Clock;
use crate::brought::Children;
use crate::graphs::{CallInputs, Graphs};
use crate::meter::Meter;
use crate::options::HANDLE_BYTES;
use crate::slot::CallSlot;
use crate::world::World;

#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use contributions::{HostContribution, HostSink};
#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use inference::{HostContext, HostError, HostGraph};
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub use nn::HostTensor;

/// A failure of the host during a call. Any other error that ends a call is the guest's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostFault(pub(crate) String);

/// The input of a call beside its arguments.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) graphs: CallInputs,
    /// Seed of random numbers, if they and the clocks have to be the same on every peer.
    pub(crate) repeatable: Option<u64>,
    /// The slot that the call runs in.
    pub(crate) slot: CallSlot,
}

/// Stops the runs of engines when it is dropped.
#[derive(Debug, Default)]
struct StopOnDrop(Stop);

impl Deref for StopOnDrop {
    type Target = Stop;

    fn deref(&self) -> &Stop {
        &self.0
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Host resources that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Account {
    /// Time that engines spent computing.
    pub(crate) engine: Duration,
    /// Bytes of parameters that the guest read.
    pub(crate) parameter_bytes: u64,
}

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
    input: Input,
    /// Created when a guest first uses WASI; the built-in functions never do.
    wasi: Option<WasiCtx>,
    /// What a repeatable call's monotonic clock shows next, in nanoseconds.
    nanos: u64,
    printed: Printed,
    /// Stops the run of an engine when the call ends before it.
    stop: StopOnDrop,
    /// The processes of graphs that the function brought.
    children: Children,
}

impl State {
    pub(crate) fn new(meter: Meter, settings: Arc<BTreeMap<String, String>>, graphs: Graphs, input: Input) -> State {
        let table = ResourceTable::new();
        let account = Account::default();
        State {
            table,
            meter,
            account,
            settings,
            graphs,
            input,
            wasi: None,
            nanos: 0,
            printed: Printed::default(),
            stop: StopOnDrop::default(),
            children: Children::default(),
        }
    }

    /// The end of what the guest has printed.
    pub(crate) fn printed(&self) -> String {
        self.printed.text()
    }

    fn clock(&mut self) -> Clock<'_> {
        Clock { nanos: &mut self.nanos, table: &mut self.table }
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
    /// An empty WASI: no files, no environment, no network. Clocks and random numbers exist because every language's
    /// start-up needs them; what is printed is kept for errors.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| {
            let mut builder = WasiCtx::builder();
            builder.max_random_size(1 << 16).stdout(self.printed.clone()).stderr(self.printed.clone());
            if let Some(seed) = self.input.repeatable {
                repeatable::make_repeatable(&mut builder, seed);
            }
            builder.build()
        });
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// The imports of a world.
pub(crate) fn linker(engine: &Engine, world: World) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    match world {
        World::Gradient => {
            bindings::GradientWorld::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
        }
        World::Aggregate => {
            bindings::AggregateWorld::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
        }
    }
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    if world == World::Aggregate {
        repeatable::add_clock(&mut linker)?;
    }
    Ok(linker)
}
