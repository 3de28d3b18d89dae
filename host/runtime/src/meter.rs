//! Counts the resources that a call uses and enforces its limits.

use wasmtime::{Result, bail};

use crate::error::Limit;
use crate::options::Limits;

/// Bytes that one table element takes in the host.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Most core instances, most memories and most tables of one component. A Python guest takes some 30 instances.
const INSTANCES_MAX: usize = 100;

/// The account of one call. Memories, tables, handles and the data behind them count into one total, because a limit
/// per memory does not limit a guest that has several.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: Limits,
    bytes: usize,
    bytes_peak: usize,
    ticks_left: u64,
    hit: Option<Limit>,
}

impl Meter {
    pub(crate) fn new(limits: Limits) -> Meter {
        let ticks_left = limits.cpu.as_nanos().div_ceil(crate::engine::TICK.as_nanos()) as u64;
        Meter { limits, bytes: 0, bytes_peak: 0, ticks_left, hit: None }
    }

    /// Most bytes that were held at the same time.
    pub(crate) fn bytes_peak(&self) -> usize {
        self.bytes_peak
    }

    /// The limit that was hit, if any: the guest usually turns it into a trap without a reason.
    pub(crate) fn hit(&self) -> Option<Limit> {
        self.hit
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

    /// Releases `bytes` that were taken.
    pub(crate) fn give(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Counts one more tick of the guest's processor time. Returns `false` if that time is used up.
    pub(crate) fn tick(&mut self) -> bool {
        if self.ticks_left == 0 {
            self.hit = Some(Limit::Cpu);
            return false;
        }
        self.ticks_left -= 1;
        true
    }
}

impl wasmtime::ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(self.take(desired - current))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.hit = Some(Limit::Memory);
        tracing::debug!(%error, "memory.grow failed");
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        if self.take((desired - current).saturating_mul(TABLE_ELEMENT_BYTES)) {
            return Ok(true);
        }
        bail!("the table exceeds the memory limit")
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        INSTANCES_MAX
    }
}
