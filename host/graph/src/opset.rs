//! Brings every node of a model into one normal form: operator set 20, attributes written out, composite operators
//! decomposed.

mod composite;
mod einsum;
mod movement;
mod spatial;

use crate::attributes::{Attribute, Attributes};
use crate::constant::{Constant, ElementType};
use crate::error::{GraphError, Reason};
use crate::graph::{Type, ValueId};
use crate::model::{Model, SourceNode};
use crate::tape::{Names, Tape};

/// A node of a model, and the values of its inputs.
pub(crate) struct Call<'a> {
    tape: &'a mut Tape,
    opset: i64,
    node: &'a SourceNode,
    inputs: Vec<Option<ValueId>>,
}

type Outputs = Result<Vec<ValueId>, Reason>;

impl Tape {
    /// Adds the model's inputs, constants and nodes. Parameters for which `is_trained` holds are active.
    pub(crate) fn replay(&mut self, model: &Model, is_trained: impl Fn(&str) -> bool) -> Result<Names, GraphError> {
        let mut names = Names::new();
        for (name, ty) in &model.inputs {
            names.insert(name.clone(), self.graph.input(name, ty.clone()));
        }
        for tensor in model.parameters().iter().chain(model.buffers()) {
            let shape = tensor.initial.dims().iter().copied().map(Into::into).collect();
            let id = self.graph.input(&tensor.name, Type::new(ElementType::F32, shape));
            names.insert(tensor.name.clone(), id);
        }
        let trained = model.parameters().iter().filter(|tensor| is_trained(&tensor.name));
        self.active = trained.map(|tensor| names[&tensor.name]).collect();
        for (name, constant) in &model.constants {
            names.insert(name.clone(), self.graph.constant(constant.clone()));
        }
        for node in &model.nodes {
            let refuse = |reason| GraphError::node(&node.name, node.op, reason);
            self.graph.origin = node.name.clone();
            let find = |name: &String| match name.as_str() {
                "" => Ok(None),
                known => {
                    names.get(known).copied().map(Some).ok_or_else(|| format!("nothing computes its input `{known}`"))
                }
            };
            let inputs = node.inputs.iter().map(find).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
            let outputs = apply(self, model.opset, node, &inputs).map_err(refuse)?;
            names.extend(node.outputs.iter().cloned().zip(outputs));
        }
        Ok(names)
    }
}

/// Adds a model's node to the tape and returns its outputs.
pub(crate) fn apply(tape: &mut Tape, opset: i64, node: &SourceNode, inputs: &[Option<ValueId>]) -> Outputs {
    let mut call = Call { tape, opset, node, inputs: inputs.to_vec() };
    match node.op {
        "Constant" => call.constant(),
        "CastLike" => call.cast_like(),
        "Cast" => {
            let to = call.int("to", 1);
            call.with(Attributes::default().with("to", to))
        }
        "Clip" => call.clip(),
        "Dropout" => call.dropout(),
        "Gemm" => call.gemm(),
        "Softmax" | "LogSoftmax" => call.softmax(),
        "BatchNormalization" => call.batch_normalization(),
        "LayerNormalization" => call.layer_normalization(),
        "Gelu" => {
            let approximate = node.attributes.text("approximate").unwrap_or("none").to_owned();
            call.with(Attributes::default().with("approximate", &*approximate))
        }
        "HardSigmoid" => {
            let alpha = call.float("alpha", 0.2);
            let beta = call.float("beta", 0.5);
            call.with(Attributes::default().with("alpha", alpha).with("beta", beta))
        }
        "LeakyRelu" => {
            let alpha = call.float("alpha", 0.01);
            call.with(Attributes::default().with("alpha", alpha))
        }
        "Elu" => {
            let alpha = call.float("alpha", 1.0);
            call.with(Attributes::default().with("alpha", alpha))
        }
        "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "Resize" => {
            spatial::apply(&mut call)
        }
        "Shape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Reshape" | "Transpose" | "Concat" | "Split" | "Slice"
        | "Pad" | "Gather" | "GatherElements" | "GatherND" | "Expand" | "Tile" | "Trilu" | "ConstantOfShape"
        | "OneHot" | "ArgMax" | "CumSum" => movement::apply(&mut call),
        "Einsum" => einsum::apply(&mut call),
        "Upsample" => Err("it was replaced by Resize in 2019: export the model with a newer operator set".into()),
        reduction if reduction.starts_with("Reduce") => call.reduction(),
        _ => composite::apply(&mut call),
    }
}

impl Call<'_> {
    /// Applies the operator as it is, with these attributes.
    fn with(&mut self, attributes: Attributes) -> Outputs {
        self.tape.apply(self.node.op, &self.inputs, attributes)
    }

    /// Applies another operator to the first input.
    fn unary(&mut self, op: &'static str, attributes: Attributes) -> Result<ValueId, Reason> {
        let first = self.input(0)?;
        self.tape.apply_one(op, &[first], attributes)
    }

    /// Applies an operator without attributes to inputs that are all present.
    fn step(&mut self, op: &'static str, inputs: &[ValueId]) -> Result<ValueId, Reason> {
        self.tape.apply_one(op, inputs, Attributes::default())
    }

    fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    fn input(&self, index: usize) -> Result<ValueId, Reason> {
        self.optional(index).ok_or_else(|| format!("input {index} is missing"))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.node.attributes.int(name, default)
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        self.node.attributes.float(name, default)
    }

    fn scalar(&mut self, value: f32) -> ValueId {
        self.tape.graph.scalar(value)
    }

    /// Numbers that are attribute `name` in older operator sets and input `index` in newer ones.
    fn numbers(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Reason> {
        if let Some(values) = self.node.attributes.ints(name) {
            return Ok(Some(values.to_vec()));
        }
        let Some(id) = self.optional(index) else { return Ok(None) };
        let known = self.tape.graph.integers_of(id);
        known.map(Some).ok_or_else(|| format!("input {index} (`{name}`) depends on data: it must be constant"))
    }

    /// A number that is attribute `name` in older operator sets and input `index` in newer ones.
    fn number(&self, name: &str, index: usize) -> Result<Option<f32>, Reason> {
        if let Some(Attribute::Float(value)) = self.node.attributes.get(name) {
            return Ok(Some(*value));
        }
        let Some(id) = self.optional(index) else { return Ok(None) };
        let known = self.tape.graph.uniform_of(id);
        known.map(Some).ok_or_else(|| format!("input {index} (`{name}`) depends on data: it must be constant"))
    }

    fn constant(&mut self) -> Outputs {
        let (name, value) = self.node.attributes.iter().next().ok_or("it has no value")?;
        let constant = match value {
            Attribute::Tensor(tensor) => tensor.clone(),
            Attribute::Int(value) => Constant::array(&[], &[*value]),
            Attribute::Ints(values) => Constant::integers(values),
            Attribute::Float(value) => Constant::floats(&[], &[*value]),
            Attribute::Floats(values) => Constant::floats(&[values.len() as i64], values),
            Attribute::Text(_) => return Err(format!("its value `{name}` is text, which is not supported")),
        };
        Ok(vec![self.tape.graph.constant(constant)])
    }

    fn cast_like(&mut self) -> Outputs {
        let to = self.tape.graph.element(self.input(1)?);
        Ok(vec![self.unary("Cast", Attributes::default().with("to", i64::from(to.code())))?])
    }

    /// Turns `min` and `max` into inputs, each of which may be missing.
    fn clip(&mut self) -> Outputs {
        for (index, name) in [(1, "min"), (2, "max")] {
            if let Some(Attribute::Float(bound)) = self.node.attributes.get(name) {
                let bound = self.scalar(*bound);
                self.inputs.resize(3.max(self.inputs.len()), None);
                self.inputs[index] = Some(bound);
            }
        }
        self.with(Attributes::default())
    }

    fn dropout(&mut self) -> Outputs {
        let default = if self.opset < 12 { 0.5 } else { self.number("ratio", 1)?.unwrap_or(0.5) };
        let ratio = self.float("ratio", default);
        if !(0.0..1.0).contains(&ratio) {
            return Err(format!("its ratio must be in [0, 1), got {ratio}"));
        }
        Ok(vec![self.unary("Dropout", Attributes::default().with("ratio", ratio))?])
    }

    fn gemm(&mut self) -> Outputs {
        let attributes = Attributes::default()
            .with("alpha", self.float("alpha", 1.0))
            .with("beta", self.float("beta", 1.0))
            .with("transA", self.int("transA", 0))
            .with("transB", self.int("transB", 0));
        self.with(attributes)
    }

    /// Before operator set 13 all axes from `axis` on were merged.
    fn softmax(&mut self) -> Outputs {
        let x = self.input(0)?;
        let rank = self.tape.graph.rank(x);
        let old = self.opset < 13;
        let axis = crate::infer::resolve_axis(self.int("axis", if old { 1 } else { -1 }), rank)?;
        if old && axis + 1 != rank {
            return Err("it spans several axes, as before operator set 13: export the model with a newer one".into());
        }
        self.with(Attributes::default().with("axis", axis as i64))
    }

    fn batch_normalization(&mut self) -> Outputs {
        let epsilon = self.float("epsilon", 1e-5);
        let momentum = self.float("momentum", 0.9);
        let attributes = Attributes::default().with("epsilon", epsilon).with("momentum", momentum);
        self.with(attributes)
    }

    fn layer_normalization(&mut self) -> Outputs {
        let x = self.input(0)?;
        let axis = crate::infer::resolve_axis(self.int("axis", -1), self.tape.graph.rank(x))?;
        let epsilon = self.float("epsilon", 1e-5);
        let attributes = Attributes::default().with("axis", axis as i64).with("epsilon", epsilon).with("stash_type", 1);
        self.with(attributes)
    }

    /// Turns axes into an input, and decomposes norms and sums of squares.
    fn reduction(&mut self) -> Outputs {
        let x = self.input(0)?;
        let rank = self.tape.graph.rank(x);
        let axes = self.numbers("axes", 1)?.unwrap_or_default();
        if axes.is_empty() && self.int("noop_with_empty_axes", 0) == 1 {
            return Ok(vec![x]);
        }
        let mut axes =
            axes.into_iter().map(|axis| crate::infer::resolve_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        if axes.is_empty() {
            axes = (0..rank).collect();
        }
        axes.sort_unstable();
        let keeps = self.int("keepdims", 1) == 1;
        let (inner, op, outer) = match self.node.op {
            "ReduceL1" => (Some("Abs"), "ReduceSum", None),
            "ReduceL2" => (Some("Mul"), "ReduceSum", Some("Sqrt")),
            "ReduceSumSquare" => (Some("Mul"), "ReduceSum", None),
            "ReduceLogSumExp" => (Some("Exp"), "ReduceSum", Some("Log")),
            plain => (None, plain, None),
        };
        let x = match inner {
            Some("Mul") => self.step("Mul", &[x, x])?,
            Some(inner) => self.step(inner, &[x])?,
            None => x,
        };
        let reduced = self.reduce(op, x, &axes, keeps)?;
        Ok(vec![outer.map_or(Ok(reduced), |outer| self.step(outer, &[reduced]))?])
    }

    fn reduce(&mut self, op: &'static str, x: ValueId, axes: &[usize], keeps: bool) -> Result<ValueId, Reason> {
        let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
        let axes = self.tape.graph.integers(&axes);
        let attributes = Attributes::default().with("keepdims", i64::from(keeps)).with("noop_with_empty_axes", 0);
        self.tape.apply_one(op, &[x, axes], attributes)
    }

    fn reshape(&mut self, x: ValueId, shape: &[crate::dim::Dim]) -> Result<ValueId, Reason> {
        let target: Vec<i64> = shape.iter().map(|dim| dim.fixed().unwrap_or(-1)).collect();
        if target.iter().filter(|size| **size == -1).count() > 1 {
            return Err("two sizes of its result are not known: set the model's input sizes".into());
        }
        let target = self.tape.graph.integers(&target);
        self.tape.apply_one("Reshape", &[x, target], Attributes::default().with("allowzero", 0))
    }

    /// Whether `x` is of 32-bit floats; other tensors are never differentiated.
    fn is_float(&self, x: ValueId) -> bool {
        self.tape.graph.element(x) == ElementType::F32
    }
}
