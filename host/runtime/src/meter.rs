//! Counts the resources that a call uses and enforces its limits.

use std::time::Duration;

use wasmtime::{Result, bail};

use crate::clock::CpuClock;
use crate::engine::{INSTANCES_PER_CALL, MEMORIES_PER_CALL, TABLES_PER_CALL};
use crate::error::Limit;
use crate::options::Limits;

/// Bytes that one table element takes in the host.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// The account of one call. Memories, tables, handles and the data behind them count into one total, because a limit
/// per memory does not limit a guest that has several.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: Limits,
    bytes: usize,
    bytes_peak: usize,
    clock: CpuClock,
    hit: Option<Limit>,
}

impl Meter {
    pub(crate) fn new(limits: Limits, clock: CpuClock) -> Meter {
        Meter { limits, bytes: 0, bytes_peak: 0, clock, hit: None }
    }

    /// Most bytes that were held at the same time.
    pub(crate) fn bytes_peak(&self) -> usize {
        self.bytes_peak
    }

    /// The limit that was hit, if any: the guest usually turns it into a trap without a reason.
    pub(crate) fn hit(&self) -> Option<Limit> {
        self.hit
    }

    /// Bytes that can still be taken.
    pub(crate) fn bytes_left(&self) -> usize {
        self.limits.memory_bytes().saturating_sub(self.bytes)
    }

    /// Takes `bytes` more, if the limit allows.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let total = self.bytes.saturating_add(bytes);
        if total > self.limits.memory_bytes() {
            self.hit = Some(Limit::Memory);
            return false;
        }
        self.bytes = total;
        self.bytes_peak = self.bytes_peak.max(total);
        true
    }

    /// Notes that `bytes` more were held for a while, within the limit.
    pub(crate) fn note_peak(&mut self, bytes: usize) {
        self.bytes_peak = self.bytes_peak.max((self.bytes + bytes).min(self.limits.memory_bytes()));
    }

    /// Releases `bytes` that were taken.
    pub(crate) fn give(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Notes that the guest yields at a tick.
    pub(crate) fn note_yield(&self) {
        self.clock.note_yield();
    }

    /// Processor time that the call has left. Only the call itself may ask, while it is polled.
    pub(crate) fn cpu_left(&self) -> Duration {
        self.limits.cpu.saturating_sub(self.clock.used_within_poll())
    }

    /// Notes that a limit was hit, as somebody else has found.
    pub(crate) fn note_hit(&mut self, limit: Limit) {
        self.hit = Some(limit);
    }

    /// What counts the call's processor time.
    pub(crate) fn clock(&self) -> CpuClock {
        self.clock.clone()
    }

    /// Whether the call has processor time left. Only the call itself may ask, while it is polled.
    pub(crate) fn has_cpu_left(&mut self) -> bool {
        let is_left = self.clock.used_within_poll() < self.limits.cpu;
        if !is_left {
            self.hit = Some(Limit::Cpu);
        }
        is_left
    }
}

impl wasmtime::ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        // Beyond the maximum that the memory declares or the pool has, growing fails without a cost, and the guest is told.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.take(desired - current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if self.take((desired - current).saturating_mul(TABLE_ELEMENT_BYTES)) {
            return Ok(true);
        }
        bail!("the table exceeds the memory limit")
    }

    // A component that needs more than the pool has for a call is refused when it is loaded.
    fn instances(&self) -> usize {
        INSTANCES_PER_CALL as usize
    }

    fn tables(&self) -> usize {
        TABLES_PER_CALL as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_CALL as usize
    }
}
