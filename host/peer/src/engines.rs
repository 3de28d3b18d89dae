//! Which engine computes graphs: the one asked for, or the fastest that this machine has.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use skein_engine::{Device, Engine, EngineError, Kind, Options};

/// How graphs are to be computed.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The engine; the first of [`Kind::ALL`] that is there where none is named.
    pub kind: Option<Kind>,
    /// Its library, or the folder that it is in, where that is not the usual one.
    pub library: Option<PathBuf>,
    /// Threads and device of each run.
    pub options: Options,
}

impl EngineConfig {
    /// Whatever the machine has, one thread for each run: functions run in parallel already, and the bits of a
    /// gradient depend on the number of threads, which what happens to run beside it must not decide.
    pub fn automatic() -> EngineConfig {
        EngineConfig { kind: None, library: None, options: Options { threads: 1, device: Device::Cpu } }
    }

    /// Opens the engine.
    ///
    /// # Errors
    /// The one that was asked for is not there or can not be used.
    pub fn open(&self) -> Result<Arc<dyn Engine>> {
        if let Some(kind) = self.kind {
            return Ok(skein_engine::open(kind, self.library.clone())?);
        }
        let mut last = None;
        for kind in Kind::ALL {
            match skein_engine::open(kind, None) {
                Ok(engine) => return Ok(engine),
                Err(error) => {
                    // One that is installed and broken is another thing than one that is not there.
                    match error {
                        EngineError::Missing { .. } => tracing::debug!(%error, "engine passed over"),
                        _ => tracing::warn!(%error, "engine passed over"),
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("there is no engine"), Into::into))
    }
}
