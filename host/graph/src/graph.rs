//! A graph: its values, its nodes and what is known about them. `builder` adds nodes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim::{self, Dim, Shape};

/// A tensor of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ValueId(u32);

impl ValueId {
    pub(crate) fn of_index(index: usize) -> ValueId {
        ValueId(u32::try_from(index).expect("a file of 2 GiB has fewer values than 2^32"))
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Type and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) element: ElementType,
    pub(crate) shape: Shape,
}

impl Type {
    pub(crate) fn new(element: ElementType, shape: Shape) -> Type {
        Type { element, shape }
    }
}

/// The known properties of a tensor.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) ty: Type,
    /// Elements, if they are known.
    pub(crate) constant: Option<Arc<Constant>>,
    /// Elements, if it is a vector or a number that was computed from shapes.
    pub(crate) sizes: Option<Vec<Dim>>,
    /// Name, if it is an input of the graph.
    pub(crate) name: Option<Arc<str>>,
}

/// One operation; an input of `None` is omitted.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) op: &'static str,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) attributes: Attributes,
}

/// A graph under construction.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    /// Inputs, in the order in which they were added.
    pub(crate) inputs: Vec<ValueId>,
    /// Names and values of the outputs, in order.
    pub(crate) outputs: Vec<(String, ValueId)>,
    /// Name of the model's node that is being added.
    pub(crate) origin: Arc<str>,
    /// Outputs of existing nodes, by operator, inputs and attributes.
    pub(crate) known_nodes: HashMap<String, Vec<ValueId>>,
    known_constants: HashMap<Constant, ValueId>,
    /// Index of the node that computes a value.
    pub(crate) producers: HashMap<ValueId, usize>,
}

impl Default for Graph {
    fn default() -> Graph {
        Graph {
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            origin: "".into(),
            known_nodes: HashMap::new(),
            known_constants: HashMap::new(),
            producers: HashMap::new(),
        }
    }
}

impl Graph {
    pub(crate) fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    pub(crate) fn shape(&self, id: ValueId) -> &[Dim] {
        &self.value(id).ty.shape
    }

    pub(crate) fn rank(&self, id: ValueId) -> usize {
        self.shape(id).len()
    }

    pub(crate) fn element(&self, id: ValueId) -> ElementType {
        self.value(id).ty.element
    }

    /// Sizes of all dimensions, if all are known.
    pub(crate) fn fixed_shape(&self, id: ValueId) -> Option<Vec<i64>> {
        dim::fixed(self.shape(id))
    }

    /// Sizes from axis `first` on, if all are known.
    pub(crate) fn fixed_shape_from(&self, id: ValueId, first: usize) -> Option<Vec<i64>> {
        dim::fixed(self.shape(id).get(first..)?)
    }

    /// The elements, if they are known.
    pub(crate) fn constant_of(&self, id: ValueId) -> Option<&Constant> {
        self.value(id).constant.as_deref()
    }

    /// The elements of a tensor of integers, if they are known.
    pub(crate) fn integers_of(&self, id: ValueId) -> Option<Vec<i64>> {
        self.constant_of(id).and_then(Constant::to_integers)
    }

    /// The value of all elements, if they are known and equal.
    pub(crate) fn uniform_of(&self, id: ValueId) -> Option<f32> {
        self.constant_of(id).and_then(Constant::uniform)
    }

    /// Names and shapes of all inputs.
    pub(crate) fn named_inputs(&self) -> Vec<(String, Shape)> {
        let inputs = self.inputs.iter().map(|id| self.value(*id));
        inputs.filter_map(|value| Some((value.name.as_ref()?.to_string(), value.ty.shape.clone()))).collect()
    }

    /// The node that computes a value; `None` for inputs and constants.
    pub(crate) fn producer(&self, id: ValueId) -> Option<&Node> {
        self.producers.get(&id).map(|index| &self.nodes[*index])
    }

    /// Adds an input after the existing ones.
    pub(crate) fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.add_value(Value { ty, constant: None, sizes: None, name: Some(name.into()) });
        self.inputs.push(id);
        id
    }

    /// Adds a tensor whose values are known; equal tensors share one value.
    pub(crate) fn constant(&mut self, constant: Constant) -> ValueId {
        if let Some(id) = self.known_constants.get(&constant) {
            return *id;
        }
        let shape = constant.dims().iter().copied().map(Dim::from).collect();
        let sizes = (constant.dims().len() <= 1).then(|| constant.to_integers()).flatten();
        let id = self.add_value(Value {
            ty: Type::new(constant.ty(), shape),
            sizes: sizes.map(|sizes| sizes.into_iter().map(Dim::from).collect()),
            constant: Some(Arc::new(constant.clone())),
            name: None,
        });
        self.known_constants.insert(constant, id);
        id
    }

    /// Drops the nodes that no output needs.
    pub(crate) fn prune(&mut self) {
        let mut needed = vec![false; self.values.len()];
        self.outputs.iter().for_each(|(_, id)| needed[id.index()] = true);
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.drain(..).rev() {
            if node.outputs.iter().any(|id| needed[id.index()]) {
                node.inputs.iter().flatten().for_each(|id| needed[id.index()] = true);
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        self.producers.clear();
        for (index, node) in self.nodes.iter().enumerate() {
            self.producers.extend(node.outputs.iter().map(|id| (*id, index)));
        }
    }

    pub(crate) fn add_value(&mut self, value: Value) -> ValueId {
        let id = ValueId::of_index(self.values.len());
        self.values.push(value);
        id
    }
}
