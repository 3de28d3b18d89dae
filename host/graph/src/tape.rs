//! Builds a graph from a model's nodes and remembers how, so that gradients can be led back along it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::attributes::Attributes;
use crate::constant::ElementType;
use crate::error::{GraphError, Reason};
use crate::graph::{Graph, Type, ValueId};
use crate::lowering::Lowering;
use crate::model::Model;
use crate::rules::maps::Map;
use crate::{opset, rules};

/// What a graph is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Batch statistics, noise for dropout.
    Training {
        /// Whether dropout drops.
        dropout: bool,
    },
    /// Running statistics, no dropout.
    Evaluation,
}

/// One differentiable step of the forward computation.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) op: &'static str,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) attributes: Attributes,
    /// Values that the forward rule keeps for the backward one.
    pub(crate) saved: Vec<ValueId>,
    origin: Arc<str>,
}

impl Step {
    /// An input that inference has made sure of.
    pub(crate) fn input(&self, index: usize) -> Result<ValueId, Reason> {
        self.inputs.get(index).copied().flatten().ok_or_else(|| format!("input {index} is missing"))
    }
}

/// A graph, how it was built, and what training adds to it.
pub(crate) struct Tape {
    pub(crate) graph: Graph,
    pub(crate) lowering: Lowering,
    pub(crate) mode: Mode,
    /// New running statistics by the name of the buffer.
    pub(crate) statistics: BTreeMap<String, ValueId>,
    /// Values of the model that are there in another layout.
    pub(crate) maps: HashMap<ValueId, Map>,
    /// Values that depend on a parameter, as far as steps have been recorded.
    active: HashSet<ValueId>,
    steps: Vec<Step>,
    recorded: HashSet<ValueId>,
}

/// The values that a model's names stand for.
pub(crate) type Names = HashMap<String, ValueId>;

impl Tape {
    pub(crate) fn new(lowering: Lowering, mode: Mode) -> Tape {
        Tape {
            graph: Graph::default(),
            lowering,
            mode,
            statistics: BTreeMap::new(),
            maps: HashMap::new(),
            active: HashSet::new(),
            steps: Vec::new(),
            recorded: HashSet::new(),
        }
    }

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
            let outputs = opset::apply(self, model.opset, node, &inputs).map_err(refuse)?;
            names.extend(node.outputs.iter().cloned().zip(outputs));
        }
        Ok(names)
    }

    /// Adds a step of the forward computation, by steps it is made of where it is no primitive.
    pub(crate) fn apply(
        &mut self,
        op: &'static str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<Vec<ValueId>, Reason> {
        let (outputs, saved) = match rules::forward(self, op, inputs, &attributes)? {
            rules::Forward::Composed(outputs) => return Ok(outputs),
            rules::Forward::Saved(outputs, saved) => (outputs, saved),
            rules::Forward::Plain => (self.graph.push(op, inputs, attributes.clone())?, vec![]),
        };
        self.keep(op, (inputs, &outputs), attributes, saved);
        Ok(outputs)
    }

    /// Adds a step as it is, whatever other rules would make of it.
    pub(crate) fn plain(
        &mut self,
        op: &'static str,
        inputs: &[ValueId],
        attributes: Attributes,
    ) -> Result<ValueId, Reason> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let outputs = self.graph.push(op, &inputs, attributes.clone())?;
        self.keep(op, (&inputs, &outputs), attributes, vec![]);
        Ok(outputs[0])
    }

    /// Remembers a step that a rule has emitted, and values kept for the backward rule.
    pub(crate) fn record(
        &mut self,
        op: &'static str,
        inputs: &[ValueId],
        output: ValueId,
        (attributes, saved): (Attributes, Vec<ValueId>),
    ) {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.keep(op, (&inputs, &[output]), attributes, saved);
    }

    fn keep(
        &mut self,
        op: &'static str,
        (inputs, outputs): (&[Option<ValueId>], &[ValueId]),
        attributes: Attributes,
        saved: Vec<ValueId>,
    ) {
        // A node that was simplified away gives back a value that is known already.
        let is_new = !inputs.contains(&Some(outputs[0])) && self.recorded.insert(outputs[0]);
        if is_new && inputs.iter().flatten().any(|id| self.active.contains(id)) {
            let floats = outputs.iter().filter(|id| self.graph.element(**id) == ElementType::F32);
            self.active.extend(floats);
            let (inputs, outputs, origin) = (inputs.to_vec(), outputs.to_vec(), self.graph.origin.clone());
            self.steps.push(Step { op, inputs, outputs, attributes, saved, origin });
        }
    }

    /// [`apply`](Self::apply) for one output and inputs that are all there.
    pub(crate) fn apply_one(
        &mut self,
        op: &'static str,
        inputs: &[ValueId],
        attributes: Attributes,
    ) -> Result<ValueId, Reason> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.apply(op, &inputs, attributes)?[0])
    }

    /// Whether a value depends on a parameter that is trained.
    pub(crate) fn is_active(&self, id: ValueId) -> bool {
        self.active.contains(&id)
    }

    /// Gradients of `loss`, a number, with respect to `wanted`; none where it does not depend on one.
    pub(crate) fn differentiate(
        &mut self,
        loss: ValueId,
        wanted: &[ValueId],
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let mut parts: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
        let one = self.graph.scalar(1.0);
        let seed = self.graph.reshape_like(one, loss).map_err(GraphError::Request)?;
        parts.insert(loss, vec![seed]);
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            let refuse = |reason| GraphError::node(&step.origin, step.op, reason);
            self.graph.origin = step.origin.clone();
            let mut gradients = Vec::with_capacity(step.outputs.len());
            for output in &step.outputs {
                gradients.push(self.total(parts.remove(output)).map_err(refuse)?);
            }
            if gradients.iter().all(Option::is_none) {
                continue;
            }
            let found = rules::backward(self, &step, &gradients).map_err(refuse)?;
            for (input, gradient) in step.inputs.iter().zip(found) {
                if let (Some(input), Some(gradient)) = (input, gradient)
                    && self.active.contains(input)
                {
                    parts.entry(*input).or_default().push(gradient);
                }
            }
        }
        let totals = wanted.iter().map(|id| self.total(parts.remove(id)));
        totals.collect::<Result<_, _>>().map_err(GraphError::Request)
    }

    /// The sum of what came from all uses of a value.
    fn total(&mut self, parts: Option<Vec<ValueId>>) -> Result<Option<ValueId>, Reason> {
        match parts.as_deref() {
            None | Some([]) => Ok(None),
            Some([only]) => Ok(Some(*only)),
            Some([a, b]) => self.graph.add(*a, *b).map(Some),
            Some(parts) => self.graph.op("Sum", parts).map(Some),
        }
    }
}
