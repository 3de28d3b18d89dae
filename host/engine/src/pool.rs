//! A pool of sessions of one graph, one per concurrent call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Engine, EngineError, Options, Session, Signature, Stop, Tensor};

/// Sessions that exist in this process.
static SESSIONS: AtomicUsize = AtomicUsize::new(0);

/// Most sessions that existed at the same time.
static SESSIONS_PEAK: AtomicUsize = AtomicUsize::new(0);

/// Returns how many sessions the pools of this process have, idle ones included.
pub fn sessions() -> usize {
    SESSIONS.load(Ordering::Relaxed)
}

/// Returns the most sessions that this process ever had at the same time.
pub fn sessions_peak() -> usize {
    SESSIONS_PEAK.load(Ordering::Relaxed)
}

/// A session, counted as long as it exists.
struct Counted(Box<dyn Session>);

impl Counted {
    fn new(session: Box<dyn Session>) -> Counted {
        let sessions = SESSIONS.fetch_add(1, Ordering::Relaxed) + 1;
        SESSIONS_PEAK.fetch_max(sessions, Ordering::Relaxed);
        Counted(session)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SESSIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A graph and its sessions. A run takes an idle session, or compiles another.
///
/// There are as many sessions as there were concurrent runs; the caller bounds their number.
pub struct Pool {
    engine: Arc<dyn Engine>,
    graph: Vec<u8>,
    options: Options,
    signature: Signature,
    idle: Mutex<Vec<Counted>>,
}

impl Pool {
    /// Compiles the graph once, so that an unusable graph fails here.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn new(engine: Arc<dyn Engine>, graph: Vec<u8>, options: Options) -> Result<Pool, EngineError> {
        let first = engine.compile(&graph, options)?;
        let signature = first.signature().clone();
        Ok(Pool { engine, graph, options, signature, idle: Mutex::new(vec![Counted::new(first)]) })
    }

    /// Runs the graph; blocks until it is done. See [`Session::run`].
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn run(&self, inputs: &[(&str, Tensor)], outputs: &[&str], stop: &Stop) -> Result<Vec<Tensor>, EngineError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle {
            Some(session) => session,
            None => Counted::new(self.engine.compile(&self.graph, self.options)?),
        };
        let result = session.0.run(inputs, outputs, stop);
        // OpenVINO cannot use a graph again that was interrupted: it keeps sizes of the interrupted run.
        if !matches!(result, Err(EngineError::Stopped)) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
        result
    }

    /// Threads that a run uses.
    pub fn threads(&self) -> usize {
        self.options.threads
    }

    /// Names of the graph's inputs and outputs.
    pub fn signature(&self) -> Signature {
        self.signature.clone()
    }
}
