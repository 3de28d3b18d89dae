//! Short names for the nodes that rules emit.

use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim::{Dim, Shape};
use crate::error::Reason;
use crate::graph::{Graph, ValueId};

/// A new value, or the reason why it cannot be built.
pub(crate) type Emitted = Result<ValueId, Reason>;

/// Every `step`-th element of one axis from `start` to before `end`. As in ONNX, a negative `end` counts from the end of
/// the axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AxisSlice {
    pub(crate) axis: usize,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
}

/// A matrix to multiply, or its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) value: ValueId,
    pub(crate) is_transposed: bool,
}

impl Factor {
    pub(crate) fn transpose(self) -> Factor {
        Factor { is_transposed: !self.is_transposed, ..self }
    }
}

impl Graph {
    /// A node with one output and no attribute.
    pub(crate) fn op(&mut self, op: &'static str, inputs: &[ValueId]) -> Emitted {
        self.op_with(op, inputs, Attributes::default())
    }

    /// A node with one output.
    pub(crate) fn op_with(&mut self, op: &'static str, inputs: &[ValueId], attributes: Attributes) -> Emitted {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.push(op, &inputs, attributes)?[0])
    }

    /// A constant float without dimensions.
    pub(crate) fn scalar(&mut self, value: f32) -> ValueId {
        self.constant(Constant::floats(&[], &[value]))
    }

    /// A constant vector of integers.
    pub(crate) fn integers(&mut self, values: &[i64]) -> ValueId {
        self.constant(Constant::integers(values))
    }

    pub(crate) fn add(&mut self, a: ValueId, b: ValueId) -> Emitted {
        self.op("Add", &[a, b])
    }

    pub(crate) fn sub(&mut self, a: ValueId, b: ValueId) -> Emitted {
        self.op("Sub", &[a, b])
    }

    pub(crate) fn mul(&mut self, a: ValueId, b: ValueId) -> Emitted {
        self.op("Mul", &[a, b])
    }

    pub(crate) fn div(&mut self, a: ValueId, b: ValueId) -> Emitted {
        self.op("Div", &[a, b])
    }

    pub(crate) fn neg(&mut self, a: ValueId) -> Emitted {
        self.op("Neg", &[a])
    }

    /// `a` times a number.
    pub(crate) fn scale(&mut self, a: ValueId, factor: f32) -> Emitted {
        let factor = self.scalar(factor);
        self.mul(a, factor)
    }

    /// `a` plus a number.
    pub(crate) fn offset(&mut self, a: ValueId, term: f32) -> Emitted {
        let term = self.scalar(term);
        self.add(a, term)
    }

    /// A comparison of `a` with a number.
    pub(crate) fn compare(&mut self, op: &'static str, a: ValueId, bound: f32) -> Emitted {
        let bound = self.scalar(bound);
        self.op(op, &[a, bound])
    }

    /// `a` where the condition holds, 0 elsewhere.
    pub(crate) fn keep_where(&mut self, condition: ValueId, a: ValueId) -> Emitted {
        let zero = self.scalar(0.0);
        self.op("Where", &[condition, a, zero])
    }

    pub(crate) fn transpose(&mut self, a: ValueId, perm: &[usize]) -> Emitted {
        let perm: Vec<i64> = perm.iter().map(|axis| *axis as i64).collect();
        self.op_with("Transpose", &[a], Attributes::default().with("perm", perm))
    }

    /// `a` with its last two axes swapped.
    pub(crate) fn transpose_last(&mut self, a: ValueId) -> Emitted {
        let mut perm: Vec<usize> = (0..self.rank(a)).collect();
        let rank = perm.len();
        perm.swap(rank - 2, rank - 1);
        self.transpose(a, &perm)
    }

    /// `a` reshaped; at most one size may be known by name only.
    pub(crate) fn reshape(&mut self, a: ValueId, shape: &[Dim]) -> Emitted {
        let unknown = shape.iter().filter(|dim| dim.fixed().is_none()).count();
        if unknown > 1 {
            return Err(format!("shape {} has more than one unknown size", crate::dim::text(shape)));
        }
        let target: Vec<i64> = shape.iter().map(|dim| dim.fixed().unwrap_or(-1)).collect();
        let target = self.integers(&target);
        self.op_with("Reshape", &[a, target], Attributes::default().with("allowzero", 0))
    }

    /// `a` reshaped to the shape of `model`.
    pub(crate) fn reshape_like(&mut self, a: ValueId, model: ValueId) -> Emitted {
        let shape = self.shape(model).to_vec();
        if shape.iter().filter(|dim| dim.fixed().is_none()).count() <= 1 {
            return self.reshape(a, &shape);
        }
        let target = self.op("Shape", &[model])?;
        self.op_with("Reshape", &[a, target], Attributes::default().with("allowzero", 0))
    }

    /// `a` broadcast to the shape of `model`.
    pub(crate) fn expand_like(&mut self, a: ValueId, model: ValueId) -> Emitted {
        let target = self.op("Shape", &[model])?;
        self.op("Expand", &[a, target])
    }

    /// A reduction over `axes`.
    pub(crate) fn reduce(&mut self, op: &'static str, a: ValueId, axes: &[usize], keeps: bool) -> Emitted {
        let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
        let axes = self.integers(&axes);
        let attributes = Attributes::default().with("keepdims", i64::from(keeps)).with("noop_with_empty_axes", 0);
        self.op_with(op, &[a, axes], attributes)
    }

    /// Sum over `axes`, which are kept with size 1.
    pub(crate) fn sum(&mut self, a: ValueId, axes: &[usize]) -> Emitted {
        self.reduce("ReduceSum", a, axes, true)
    }

    /// Mean over `axes`, which are kept with size 1.
    pub(crate) fn mean(&mut self, a: ValueId, axes: &[usize]) -> Emitted {
        self.reduce("ReduceMean", a, axes, true)
    }

    /// The part of `a` within the slices of its axes.
    pub(crate) fn slice(&mut self, a: ValueId, slices: &[AxisSlice]) -> Emitted {
        let slices: Vec<_> = slices.iter().filter(|slice| !self.is_whole(a, slice)).collect();
        if slices.is_empty() {
            return Ok(a);
        }
        let column = |graph: &mut Graph, pick: fn(&AxisSlice) -> i64| {
            let values: Vec<i64> = slices.iter().map(|slice| pick(slice)).collect();
            graph.integers(&values)
        };
        let starts = column(self, |slice| slice.start);
        let ends = column(self, |slice| slice.end);
        let axes = column(self, |slice| slice.axis as i64);
        let steps = column(self, |slice| slice.step);
        self.op("Slice", &[a, starts, ends, axes, steps])
    }

    fn is_whole(&self, a: ValueId, slice: &AxisSlice) -> bool {
        slice.start == 0 && slice.step == 1 && self.shape(a)[slice.axis].fixed() == Some(slice.end)
    }

    /// `a` padded with `begins` elements of `value` before it and `ends` after it, per axis.
    pub(crate) fn pad(&mut self, a: ValueId, begins: &[i64], ends: &[i64], value: f32) -> Emitted {
        let pads = self.integers(&[begins, ends].concat());
        let value = self.scalar(value);
        self.op_with("Pad", &[a, pads, value], Attributes::default().with("mode", "constant"))
    }

    pub(crate) fn concat(&mut self, parts: &[ValueId], axis: usize) -> Emitted {
        self.op_with("Concat", parts, Attributes::default().with("axis", axis as i64))
    }

    /// Parts of the given sizes along `axis`.
    pub(crate) fn split(&mut self, a: ValueId, sizes: &[i64], axis: usize) -> Result<Vec<ValueId>, Reason> {
        if sizes.len() == 1 {
            return Ok(vec![a]);
        }
        let sizes = self.integers(sizes);
        self.push("Split", &[Some(a), Some(sizes)], Attributes::default().with("axis", axis as i64))
    }

    pub(crate) fn matmul(&mut self, a: ValueId, b: ValueId) -> Emitted {
        self.op("MatMul", &[a, b])
    }

    /// The product of two matrices.
    pub(crate) fn gemm(&mut self, a: Factor, b: Factor) -> Emitted {
        let attributes = Attributes::default()
            .with("alpha", 1.0)
            .with("beta", 1.0)
            .with("transA", i64::from(a.is_transposed))
            .with("transB", i64::from(b.is_transposed));
        self.op_with("Gemm", &[a.value, b.value], attributes)
    }

    pub(crate) fn cast(&mut self, a: ValueId, to: ElementType) -> Emitted {
        self.op_with("Cast", &[a], Attributes::default().with("to", i64::from(to.code())))
    }

    /// Sums a gradient over the axes that broadcasting repeated, in the shape of `model`.
    pub(crate) fn unbroadcast(&mut self, gradient: ValueId, model: ValueId) -> Emitted {
        let own = self.shape(gradient).to_vec();
        let target = self.shape(model).to_vec();
        if own == target {
            return Ok(gradient);
        }
        let added = own.len() - target.len();
        let is_repeated = |axis: &usize| *axis < added || (target[axis - added] != own[*axis]);
        let axes: Vec<usize> = (0..own.len()).filter(is_repeated).collect();
        let keeps = added == 0;
        let summed = if axes.is_empty() { gradient } else { self.reduce("ReduceSum", gradient, &axes, keeps)? };
        self.reshape_like(summed, model)
    }

    /// Shape in which a vector with one value for each channel broadcasts to `x`, whose channels are along `axis`.
    pub(crate) fn channel_shape(&self, x: ValueId, axis: usize) -> Shape {
        let mut shape = vec![Dim::from(1); self.rank(x)];
        shape[axis] = self.shape(x)[axis].clone();
        shape
    }
}
