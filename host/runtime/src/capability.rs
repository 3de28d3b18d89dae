//! What guests may ask of the host: one file per WIT interface, and the state of a call behind them.

pub(crate) mod bindings;

mod contributions;
mod inference;
mod nn;
mod parameters;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skein_kernels::layout::Layout;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::graphs::Graphs;
use crate::meter::Meter;
use crate::world::World;

#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use contributions::{HostContribution, HostSink};
#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use inference::{HostContext, HostError, HostGraph};

/// A model's parameters as one call sees them. Cloning shares the values.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Names and shapes.
    pub layout: Arc<Layout>,
    /// The values of all parameters, as long as the layout says.
    pub values: Arc<Vec<f32>>,
}

/// A guest asked an import for what its interface forbids; the call traps with this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(String);

/// What a call is given beside its arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub(crate) parameters: Parameters,
    /// What the noise of dropout is drawn from.
    pub(crate) noise_seed: u64,
}

/// What a call used of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Account {
    /// Time that engines computed.
    pub(crate) engine: Duration,
    /// Bytes of parameters that the guest read.
    pub(crate) parameter_bytes: u64,
}

/// Text of a guest, cut to what an error may repeat.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// The state of one call.
pub(crate) struct State {
    pub(crate) table: ResourceTable,
    pub(crate) meter: Meter,
    /// What the call used of the host beside its own time and memory.
    pub(crate) account: Account,
    settings: Arc<BTreeMap<String, String>>,
    graphs: Graphs,
    parameters: Parameters,
    noise_seed: u64,
    /// Made when a guest first asks for something of WASI, which the built-in ones never do.
    wasi: Option<WasiCtx>,
}

impl State {
    pub(crate) fn new(meter: Meter, settings: Arc<BTreeMap<String, String>>, graphs: Graphs, input: Input) -> State {
        let Input { parameters, noise_seed } = input;
        let (table, account) = (ResourceTable::new(), Account::default());
        State { table, meter, account, settings, graphs, parameters, noise_seed, wasi: None }
    }
}

impl WasiView for State {
    /// WASI with nothing in it: no files, no environment, no network, no standard streams. Clocks and random
    /// numbers are there because every language's start-up asks for them.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().max_random_size(1 << 16).build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// Everything each world may import.
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
