//! `skein:train/contributions`: the round's contributions to read and the aggregate to write.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::State;
use super::bindings::contributions::{Host, HostContribution as ContributionInterface, HostSink as SinkInterface};

/// One contribution behind a handle.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostContribution {
    pub(crate) peer: String,
    pub(crate) samples: u64,
    pub(crate) values: Arc<Vec<f32>>,
}

/// The vector behind the sink. It starts as NaN, so that a value that was never written is detected.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct HostSink {
    pub(crate) values: Vec<f32>,
}

impl Host for State {}

impl ContributionInterface for State {
    fn peer(&mut self, contribution: Resource<HostContribution>) -> wasmtime::Result<String> {
        Ok(self.table.get(&contribution)?.peer.clone())
    }

    fn samples(&mut self, contribution: Resource<HostContribution>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&contribution)?.samples)
    }

    fn len(&mut self, contribution: Resource<HostContribution>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&contribution)?.values.len() as u64)
    }

    fn read(
        &mut self,
        contribution: Resource<HostContribution>,
        offset: u64,
        length: u32,
    ) -> wasmtime::Result<Vec<f32>> {
        let values = &self.table.get(&contribution)?.values;
        match usize::try_from(offset).ok().and_then(|start| values.get(start..start.checked_add(length as usize)?)) {
            Some(values) => Ok(values.to_vec()),
            None => Err(past_end(length as usize, offset, values.len())),
        }
    }

    fn drop(&mut self, contribution: Resource<HostContribution>) -> wasmtime::Result<()> {
        self.table.delete(contribution)?;
        Ok(())
    }
}

impl SinkInterface for State {
    fn write(&mut self, sink: Resource<HostSink>, offset: u64, values: Vec<f32>) -> wasmtime::Result<()> {
        let out = &mut self.table.get_mut(&sink)?.values;
        let len = out.len();
        let window =
            usize::try_from(offset).ok().and_then(|start| out.get_mut(start..start.checked_add(values.len())?));
        match window {
            Some(window) => window.copy_from_slice(&values),
            None => return Err(past_end(values.len(), offset, len)),
        }
        Ok(())
    }

    fn drop(&mut self, sink: Resource<HostSink>) -> wasmtime::Result<()> {
        self.table.delete(sink)?;
        Ok(())
    }
}

fn past_end(count: usize, offset: u64, len: usize) -> wasmtime::Error {
    wasmtime::format_err!("{count} values at {offset} reach past the end of {len}")
}
