//! Adds nodes to a graph. Each is checked, typed, simplified and deduplicated when it is added.
//!
//! The only pass over a finished graph drops the nodes that no output needs. A node that equals an earlier one reuses
//! its outputs, arithmetic on shapes becomes numbers, and nodes without effect disappear.

use std::fmt::Write;

use crate::attributes::Attributes;
use crate::error::Reason;
use crate::graph::{Graph, Node, Value, ValueId};
use crate::{fold, infer, simplify};

impl Graph {
    /// Adds an operation and returns its outputs, as many as the operator's inference finds.
    pub(crate) fn push(
        &mut self,
        op: &'static str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<Vec<ValueId>, Reason> {
        let types = infer::types(self, op, inputs, &attributes)?;
        if let Some(input) = simplify::unchanged_input(self, op, inputs, &attributes, &types) {
            return Ok(vec![input]);
        }
        if let Some(constant) = fold::constant(self, op, inputs, &attributes, &types) {
            return Ok(vec![self.constant(constant)]);
        }
        let inputs = simplify::canonical(self, op, inputs, &types);
        let mut key = String::with_capacity(64);
        write!(key, "{op} {inputs:?} {attributes:?}").expect("writing to a string cannot fail");
        if let Some(outputs) = self.known_nodes.get(&key) {
            return Ok(outputs.clone());
        }
        let sizes = fold::sizes(self, op, &inputs, &attributes);
        let values = types.into_iter().map(|ty| Value { ty, constant: None, sizes: None, name: None });
        let outputs: Vec<ValueId> = values.map(|value| self.add_value(value)).collect();
        self.values[outputs[0].index()].sizes = sizes;
        self.known_nodes.insert(key, outputs.clone());
        self.producers.extend(outputs.iter().map(|id| (*id, self.nodes.len())));
        self.nodes.push(Node { op, inputs, outputs: outputs.clone(), attributes });
        Ok(outputs)
    }
}
