//! Random numbers and clocks of an aggregation function: the same on every peer, so that its result is too.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand_core::TryRng;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

/// Time that passes between two readings of the monotonic clock, in nanoseconds: a guest that waits until some time has
/// passed goes on.
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

/// A clock that advances when it is read.
struct Steps(AtomicU64);

impl HostMonotonicClock for Steps {
    fn resolution(&self) -> u64 {
        STEP_NANOS
    }

    fn now(&self) -> u64 {
        self.0.fetch_add(STEP_NANOS, Ordering::Relaxed)
    }
}

/// Replaces all that differs between two machines or two calls.
pub(super) fn make_repeatable(builder: &mut WasiCtxBuilder, seed: u64) {
    let mut hashing = Seeded::new("skein 2026-11 hashing seed of an aggregation", seed);
    builder
        .secure_random(Seeded::new("skein 2026-11 random numbers of an aggregation", seed))
        .insecure_random(Seeded::new("skein 2026-11 insecure random numbers of an aggregation", seed))
        .insecure_random_seed(u128::from_le_bytes(hashing.bytes()))
        .wall_clock(Epoch)
        .monotonic_clock(Steps(AtomicU64::new(0)));
}
