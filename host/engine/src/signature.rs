//! The names of a graph's inputs and outputs, and the check of a run against them.

use std::collections::HashSet;

use crate::{EngineError, Tensor};

/// Input and output names of a compiled graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Names of the inputs, in the graph's order.
    pub inputs: Vec<String>,
    /// Names of the outputs, in the graph's order.
    pub outputs: Vec<String>,
}

impl Signature {
    /// Checks that every input is passed once, and nothing else, and that every requested output exists.
    ///
    /// Engines differ in how they treat a missing input: one of them reuses that of the previous run.
    pub(crate) fn check(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<(), EngineError> {
        let refuse = |name: &str, reason: &str| EngineError::Input { name: name.to_owned(), reason: reason.to_owned() };
        // Sets, since large models have hundreds of inputs and every run is checked.
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
            return Err(refuse(missing, "it is missing"));
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
