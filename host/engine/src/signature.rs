//! The names of a graph's inputs and outputs, and whether a run gives and asks for them.

use std::collections::HashSet;

use crate::{EngineError, Tensor};

/// Names of a compiled graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Names of the inputs, in the graph's order.
    pub inputs: Vec<String>,
    /// Names of the outputs, in the graph's order.
    pub outputs: Vec<String>,
}

impl Signature {
    /// Every input is given once, and nothing else is; every output asked for is there.
    ///
    /// Engines differ in what they do with an input that is left out: one of them takes that of the run before.
    pub(crate) fn check(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<(), EngineError> {
        let refuse = |name: &str, reason: &str| EngineError::Input { name: name.to_owned(), reason: reason.to_owned() };
        // Large models have hundreds of inputs, and this is done at every run.
        let own: HashSet<&str> = self.inputs.iter().map(String::as_str).collect();
        let mut given = HashSet::with_capacity(inputs.len());
        for (name, _) in inputs {
            if !own.contains(name) {
                return Err(refuse(name, "it has no such input"));
            }
            if !given.insert(*name) {
                return Err(refuse(name, "it is given twice"));
            }
        }
        if let Some(missing) = self.inputs.iter().find(|own| !given.contains(own.as_str())) {
            return Err(refuse(missing, "it is not given"));
        }
        let known: HashSet<&str> = self.outputs.iter().map(String::as_str).collect();
        match outputs.iter().find(|name| !known.contains(**name)) {
            Some(name) => {
                let reason = "it has no such output".to_owned();
                Err(EngineError::Output { name: (*name).to_owned(), reason })
            }
            None => Ok(()),
        }
    }
}
