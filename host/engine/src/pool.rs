//! As many sessions of one graph as calls run at the same time.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Engine, EngineError, Options, Session, Signature, Tensor};

/// A graph and its sessions. A run takes a session that is idle, or compiles one more.
///
/// There are as many sessions as there were runs at the same time; who admits calls bounds that.
pub struct Pool {
    engine: Arc<dyn Engine>,
    graph: Vec<u8>,
    options: Options,
    signature: Signature,
    idle: Mutex<Vec<Box<dyn Session>>>,
}

impl Pool {
    /// Compiles the graph once, so that one that can not run is found out now.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn new(engine: Arc<dyn Engine>, graph: Vec<u8>, options: Options) -> Result<Pool, EngineError> {
        let first = engine.compile(&graph, options)?;
        let signature = first.signature().clone();
        Ok(Pool { engine, graph, options, signature, idle: Mutex::new(vec![first]) })
    }

    /// Runs the graph; blocks until it is done. See [`Session::run`].
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn run(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, EngineError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle {
            Some(session) => session,
            None => self.engine.compile(&self.graph, self.options)?,
        };
        let result = session.run(inputs, outputs);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        result
    }

    /// Names of the graph's inputs and outputs.
    pub fn signature(&self) -> Signature {
        self.signature.clone()
    }
}
