//! Which engine computes graphs: the requested one, or the fastest that this machine has.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use skein_engine::{Device, Engine, EngineError, Kind, Options, library};
use skein_runtime::graphs::Loader;

/// How graphs are to be computed.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The engine; if `None`, the first of [`Kind::ALL`] that this machine has.
    pub kind: Option<Kind>,
    /// Its library or the library's folder, if it is not in the usual place.
    pub library: Option<PathBuf>,
    /// Threads and device of each run.
    pub options: Options,
}

impl EngineConfig {
    /// The fastest engine of this machine, with one thread for each run: functions already run in parallel, and the
    /// bits of a gradient depend on the number of threads, which other load on the machine must not decide.
    pub fn automatic() -> EngineConfig {
        EngineConfig { kind: None, library: None, options: Options { threads: 1, device: Device::Cpu } }
    }

    /// Opens the engine.
    ///
    /// # Errors
    /// The requested engine is missing or cannot be used, or the machine has none.
    pub fn open(&self) -> Result<Arc<dyn Engine>> {
        if let Some(kind) = self.kind {
            return Ok(skein_engine::open(kind, self.library.clone())?);
        }
        let mut last = None;
        for kind in Kind::ALL {
            match skein_engine::open(kind, None) {
                Ok(engine) => return Ok(engine),
                Err(error) => {
                    // A broken engine is worth a warning, a missing one is not.
                    match error {
                        EngineError::Missing { .. } => tracing::debug!(%error, "skipped an engine"),
                        _ => tracing::warn!(%error, "skipped an engine"),
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("no engine can be used"), Into::into))
    }

    /// How graphs that functions bring along are run: by the same engine, in child processes, which are this very program.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn loader(&self) -> Result<Loader> {
        let kind = self.open()?.kind();
        let library = match (&self.library, kind) {
            (_, Kind::Rten) => None,
            (Some(path), _) => Some(path.clone()),
            // The child has no environment to find it by.
            (None, _) => Some(library::find(kind)?),
        };
        Ok(Loader { program: "/proc/self/exe".into(), engine: kind, library, threads: self.options.threads })
    }
}
