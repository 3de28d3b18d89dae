//! Inlines calls of functions that the file defines.

use std::collections::HashMap;

use super::decode::is_standard;
use crate::error::GraphError;
use crate::proto::{Attribute, Function, Node};

/// Maximum call depth: exporters nest modules, each a function, rarely beyond ten.
const DEPTH_MAX: usize = 32;
/// Maximum number of nodes after inlining, far more than any model has.
const NODES_MAX: usize = 1 << 20;

/// Returns `nodes` with all calls inlined.
pub(super) fn calls(nodes: Vec<Node>, functions: &[Function]) -> Result<Vec<Node>, GraphError> {
    if functions.is_empty() {
        return Ok(nodes);
    }
    let by_name = functions.iter().map(|f| ((f.domain.as_str(), f.name.as_str(), f.overload.as_str()), f)).collect();
    let mut inliner = Inliner { functions: by_name, calls: 0, done: Vec::new() };
    nodes.into_iter().try_for_each(|node| inliner.add(node, 0))?;
    Ok(inliner.done)
}

struct Inliner<'a> {
    functions: HashMap<(&'a str, &'a str, &'a str), &'a Function>,
    calls: usize,
    done: Vec<Node>,
}

impl Inliner<'_> {
    fn add(&mut self, node: Node, depth: usize) -> Result<(), GraphError> {
        let domain = if is_standard(&node.domain) { "" } else { &node.domain };
        let Some(function) = self.functions.get(&(domain, &*node.op_type, &*node.overload)).copied() else {
            self.done.push(node);
            return Ok(());
        };
        if depth == DEPTH_MAX || self.done.len() + function.node.len() > NODES_MAX {
            let reason = "its function calls itself, or nests calls too deeply".to_owned();
            return Err(GraphError::node(&node.name, &node.op_type, reason));
        }
        self.calls += 1;
        let scope = Scope::new(function, &node, self.calls);
        for inner in &function.node {
            self.add(scope.rename(inner, &node), depth + 1)?;
        }
        Ok(())
    }
}

/// Names and attributes inside one call.
struct Scope<'a> {
    names: HashMap<&'a str, &'a str>,
    attributes: HashMap<&'a str, &'a Attribute>,
    prefix: String,
}

impl<'a> Scope<'a> {
    fn new(function: &'a Function, call: &'a Node, number: usize) -> Scope<'a> {
        let empty = std::iter::repeat("");
        let inputs = function.input.iter().map(String::as_str).zip(call.input.iter().map(String::as_str).chain(empty));
        let outputs = function.output.iter().map(String::as_str).zip(call.output.iter().map(String::as_str));
        let defaults = function.attribute_proto.iter().chain(&call.attribute);
        Scope {
            names: inputs.chain(outputs.filter(|(_, outer)| !outer.is_empty())).collect(),
            attributes: defaults.map(|attribute| (attribute.name.as_str(), attribute)).collect(),
            prefix: format!("{}/{number}/", call.op_type),
        }
    }

    fn rename(&self, inner: &Node, call: &Node) -> Node {
        let name = |name: &String| match self.names.get(name.as_str()) {
            Some(outer) => (*outer).to_owned(),
            None if name.is_empty() => String::new(),
            None => format!("{}{name}", self.prefix),
        };
        let attribute = |attribute: &Attribute| match attribute.ref_attr_name.as_str() {
            "" => Some(attribute.clone()),
            // An attribute that the call omits and that has no default is omitted inside as well.
            outer => {
                self.attributes.get(outer).map(|value| Attribute { name: attribute.name.clone(), ..(*value).clone() })
            }
        };
        Node {
            input: inner.input.iter().map(name).collect(),
            output: inner.output.iter().map(name).collect(),
            name: format!("{}/{}", call.name, inner.name),
            attribute: inner.attribute.iter().filter_map(attribute).collect(),
            ..inner.clone()
        }
    }
}
