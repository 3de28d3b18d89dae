//! Random numbers and clocks of an aggregation function: the same on every peer, so that its result is too.

use std::convert::Infallible;
use std::time::Duration;

use async_trait::async_trait;
use rand_core::TryRng;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{HostWallClock, WasiCtxBuilder};

use super::State;

/// Time that passes between two readings of the monotonic clock, in nanoseconds: a guest that reads it until some time
/// has passed goes on.
const STEP_NANOS: u64 = 1_000_000;

/// Random numbers from a seed.
struct Seeded(blake3::OutputReader);

impl Seeded {
    fn new(context: &'static str, seed: u64) -> Seeded {
        Seeded(blake3::Hasher::new_derive_key(context).update(&seed.to_le_bytes()).finalize_xof())
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }
}

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

/// A wall clock that stands still at the beginning of 1970.
struct Epoch;

impl HostWallClock for Epoch {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(STEP_NANOS)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// The monotonic clock of a call: it advances when it is read, and to every time that the guest waits for. Waiting itself
/// takes no time, since how long it took would differ between peers.
pub(super) struct Clock<'a> {
    pub(super) nanos: &'a mut u64,
    pub(super) table: &'a mut ResourceTable,
}

/// A time that has come.
struct Past;

#[async_trait]
impl Pollable for Past {
    async fn ready(&mut self) {}
}

impl monotonic_clock::Host for Clock<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        let now = *self.nanos;
        *self.nanos = now.saturating_add(STEP_NANOS);
        Ok(now)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(STEP_NANOS)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        *self.nanos = when.max(*self.nanos);
        let past = self.table.push(Past)?;
        subscribe(self.table, past)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(self.nanos.saturating_add(duration))
    }
}

/// Has the guests of this linker read [`Clock`].
pub(super) fn add_clock(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<State, Repeatable>(linker, State::clock)?;
    linker.allow_shadowing(false);
    Ok(())
}

struct Repeatable;

impl HasData for Repeatable {
    type Data<'a> = Clock<'a>;
}

/// Replaces all else that differs between two machines or two calls.
pub(super) fn make_repeatable(builder: &mut WasiCtxBuilder, seed: u64) {
    let mut hashing = Seeded::new("skein 2026-11 hashing seed of an aggregation", seed);
    builder
        .secure_random(Seeded::new("skein 2026-11 random numbers of an aggregation", seed))
        .insecure_random(Seeded::new("skein 2026-11 insecure random numbers of an aggregation", seed))
        .insecure_random_seed(u128::from_le_bytes(hashing.bytes()))
        .wall_clock(Epoch);
}
