//! The names of a graph's inputs and outputs, and whether a run gives and asks for them.

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
        for (index, (name, _)) in inputs.iter().enumerate() {
            if !self.inputs.iter().any(|own| own == name) {
                return Err(refuse(name, "it has no such input"));
            }
            if inputs[..index].iter().any(|(other, _)| other == name) {
                return Err(refuse(name, "it is given twice"));
            }
        }
        if let Some(missing) = self.inputs.iter().find(|own| !inputs.iter().any(|(name, _)| name == own)) {
            return Err(refuse(missing, "it is not given"));
        }
        match outputs.iter().find(|name| !self.outputs.iter().any(|own| own == *name)) {
            Some(name) => {
                let reason = "it has no such output".to_owned();
                Err(EngineError::Output { name: (*name).to_owned(), reason })
            }
            None => Ok(()),
        }
    }
}
