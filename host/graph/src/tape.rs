//! A graph that records how it was built, so that gradients can be propagated back. `opset` adds the nodes of a model;
//! `rules` defines how each step is composed and differentiated.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::attributes::Attributes;
use crate::constant::ElementType;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::{Graph, ValueId};
use crate::lowering::Lowering;

/// Whether a graph trains or evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Batch statistics, noise for dropout.
    Training {
        /// Whether dropout is active, or the identity.
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
    /// Values that the forward rule keeps for the backward rule.
    pub(crate) saved: Vec<ValueId>,
    pub(crate) origin: Arc<str>,
}

impl Step {
    /// An input whose presence inference has checked.
    pub(crate) fn input(&self, index: usize) -> Result<ValueId, Reason> {
        self.inputs.get(index).copied().flatten().ok_or_else(|| format!("input {index} is missing"))
    }
}

/// A tensor of the model in the layout with the batch last.
#[derive(Debug, Clone)]
pub(crate) struct Map {
    /// Shape `[C, positions, N]`, with the positions of `sizes` in row-major order.
    pub(crate) value: ValueId,
    pub(crate) channels: i64,
    /// Sizes after the channels in the model's layout; empty for `[N, C]`.
    pub(crate) sizes: Vec<i64>,
    pub(crate) batch: Dim,
    /// Whether it is an input of the model, which has no gradient.
    pub(crate) is_input: bool,
    /// A map of one position that this one repeats, and how often.
    pub(crate) repeats: Option<(ValueId, i64)>,
}

/// A graph, the steps that built it, and the running statistics that training updates.
pub(crate) struct Tape {
    pub(crate) graph: Graph,
    pub(crate) lowering: Lowering,
    pub(crate) mode: Mode,
    /// New running statistics by buffer name.
    pub(crate) statistics: BTreeMap<String, ValueId>,
    /// Values of the model that also exist in the layout with the batch last.
    pub(crate) maps: HashMap<ValueId, Map>,
    /// Values that depend on a trained parameter, through the steps recorded so far.
    pub(crate) active: HashSet<ValueId>,
    pub(crate) steps: Vec<Step>,
    recorded: HashSet<ValueId>,
}

/// Values by their names in the model.
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

    /// Adds a step as it is, without applying a forward rule.
    pub(crate) fn step(
        &mut self,
        op: &'static str,
        inputs: &[ValueId],
        attributes: Attributes,
    ) -> Result<ValueId, Reason> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let outputs = self.graph.push(op, &inputs, attributes.clone())?;
        let output = outputs[0];
        self.record(Step { op, inputs, outputs, attributes, saved: vec![], origin: self.graph.origin.clone() });
        Ok(output)
    }

    /// Records a step that was added to the graph, if its gradient is needed.
    pub(crate) fn record(&mut self, step: Step) {
        // A node that was simplified away returns a value that is already known.
        let is_new = !step.inputs.contains(&Some(step.outputs[0])) && self.recorded.insert(step.outputs[0]);
        if is_new && step.inputs.iter().flatten().any(|id| self.active.contains(id)) {
            let floats = step.outputs.iter().filter(|id| self.graph.element(**id) == ElementType::F32);
            self.active.extend(floats);
            self.steps.push(step);
        }
    }

    /// Whether a value depends on a trained parameter.
    pub(crate) fn is_active(&self, id: ValueId) -> bool {
        self.active.contains(&id)
    }

    /// The sum of the gradients from all uses of a value.
    pub(crate) fn total(&mut self, parts: Option<Vec<ValueId>>) -> Result<Option<ValueId>, Reason> {
        match parts.as_deref() {
            None | Some([]) => Ok(None),
            Some([only]) => Ok(Some(*only)),
            Some([a, b]) => self.graph.add(*a, *b).map(Some),
            Some(parts) => self.graph.op("Sum", parts).map(Some),
        }
    }
}
