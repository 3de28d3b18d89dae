//! Infers types and shapes of a node's outputs, and checks that the node is well formed.

mod elementwise;
mod linear;
mod reduce;
mod reshape;
mod spatial;

use std::ops::RangeInclusive;

use crate::attributes::Attributes;
use crate::constant::ElementType;
use crate::dim::{Dim, Shape};
use crate::error::Reason;
use crate::graph::{Graph, Type, ValueId};

pub(crate) use spatial::Window;

/// Types of all outputs of a node in this crate's normal form: operator set 20, every attribute written out.
pub(crate) fn types(
    graph: &Graph,
    op: &str,
    inputs: &[Option<ValueId>],
    attributes: &Attributes,
) -> Result<Vec<Type>, Reason> {
    if !arity(op).contains(&inputs.len()) {
        return Err(format!("it has {} inputs", inputs.len()));
    }
    let operands = Operands { graph, inputs, attributes };
    for family in [elementwise::types, reshape::types, reduce::types, linear::types, spatial::types] {
        if let Some(types) = family(op, &operands) {
            return types;
        }
    }
    Err("this operator has no rule".into())
}

/// How many inputs an operator takes; rules rely on this number.
fn arity(op: &str) -> RangeInclusive<usize> {
    match op {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "And" | "Or" | "Xor" | "Equal" | "Greater" | "Less"
        | "GreaterOrEqual" | "LessOrEqual" | "MatMul" | "Reshape" | "Expand" | "Tile" | "Gather" | "GatherElements"
        | "Split" | "Unsqueeze" => 2..=2,
        "Where" | "OneHot" | "Range" | "ScatterND" | "ScatterElements" => 3..=3,
        "Conv" | "ConvTranspose" | "Gemm" | "LayerNormalization" => 2..=3,
        "InstanceNormalization" | "GroupNormalization" => 3..=3,
        "BatchNormalization" => 5..=5,
        "Slice" => 3..=5,
        "Pad" => 2..=4,
        "Clip" => 1..=3,
        "CumSum" => 2..=2,
        "Squeeze" | "Trilu" => 1..=2,
        reduction if reduction.starts_with("Reduce") => 1..=2,
        "Sum" | "Mean" | "Max" | "Min" | "Concat" => 1..=usize::MAX,
        _ => 1..=1,
    }
}

/// Inputs and attributes of a node.
struct Operands<'a> {
    graph: &'a Graph,
    inputs: &'a [Option<ValueId>],
    attributes: &'a Attributes,
}

impl Operands<'_> {
    fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    fn get(&self, index: usize) -> Result<ValueId, Reason> {
        self.optional(index).ok_or_else(|| format!("input {index} is missing"))
    }

    fn shape(&self, index: usize) -> Result<&[Dim], Reason> {
        Ok(self.graph.shape(self.get(index)?))
    }

    fn element(&self, index: usize) -> Result<ElementType, Reason> {
        Ok(self.graph.element(self.get(index)?))
    }

    /// The shape of an input that must be float32.
    fn float_shape(&self, index: usize) -> Result<&[Dim], Reason> {
        match self.element(index)? {
            ElementType::F32 => self.shape(index),
            other => Err(format!("input {index} has type {other:?}, expected float32")),
        }
    }

    /// The integers of an input that must be known when the graph is built.
    fn integers(&self, index: usize) -> Result<Vec<i64>, Reason> {
        let id = self.get(index)?;
        let known = self.graph.integers_of(id).filter(|numbers| numbers.len() <= 1 << 16);
        known.ok_or_else(|| format!("input {index} depends on data: its values must be constant"))
    }

    /// Sizes that an input holds; some may be known by name only.
    fn sizes(&self, index: usize) -> Result<Vec<Dim>, Reason> {
        let value = self.graph.value(self.get(index)?);
        value
            .sizes
            .clone()
            .ok_or_else(|| format!("the shape in input {index} cannot be derived from the model's inputs"))
    }

    /// Axes in input `index`, counted from the front; all axes if the input is missing.
    fn axes(&self, index: usize, rank: usize) -> Result<Vec<usize>, Reason> {
        match self.optional(index) {
            None => Ok((0..rank).collect()),
            Some(_) => self.integers(index)?.into_iter().map(|axis| resolve_axis(axis, rank)).collect(),
        }
    }

    /// The attribute `axis`, counted from the front.
    fn axis(&self, default: i64, rank: usize) -> Result<usize, Reason> {
        resolve_axis(self.attributes.int("axis", default), rank)
    }
}

/// Resolves an axis, which counts from the end if negative.
pub(crate) fn resolve_axis(axis: i64, rank: usize) -> Result<usize, Reason> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(from_front).ok().filter(|axis| *axis < rank);
    found.ok_or_else(|| format!("axis {axis} is out of range for {rank} dimensions"))
}

fn one(element: ElementType, shape: Shape) -> Result<Vec<Type>, Reason> {
    Ok(vec![Type::new(element, shape)])
}

/// The range of dimensions that `Shape` returns.
pub(crate) fn shape_range(rank: i64, attributes: &Attributes) -> (usize, usize) {
    let clamp = |position: i64| (if position < 0 { position + rank } else { position }).clamp(0, rank) as usize;
    (clamp(attributes.int("start", 0)), clamp(attributes.int("end", rank)))
}
