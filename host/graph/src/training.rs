//! Derives the graphs that train and evaluate a forward model.

use crate::attributes::Attributes;
use crate::constant::Constant;
use crate::dim::Shape;
use crate::error::GraphError;
use crate::export;
use crate::graph::{Graph, ValueId};
use crate::loss::Loss;
use crate::lowering::Lowering;
use crate::memory;
use crate::model::Model;
use crate::tape::{Mode, Names, Tape};

/// Loss, parameters and form of a training graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Loss to be minimized.
    pub loss: Loss,
    /// How gradients are expressed for the engine.
    pub lowering: Lowering,
    /// Whether dropout is active, with noise as an input.
    pub dropout: bool,
    /// Whether gradients may have another shape, with the same elements in the same order. It saves engines a copy if
    /// the host restores the shapes.
    pub flat_outputs: bool,
    /// Parameters that are not trained, by name; `*` stands for any characters.
    pub frozen: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        let loss = Loss::CrossEntropy { ignore_index: None };
        Options { loss, lowering: Lowering::portable(), dropout: true, flat_outputs: false, frozen: vec![] }
    }
}

/// A graph that computes the loss, the gradients and the new running statistics of a batch.
///
/// Inputs: those of the model, `labels`, every parameter and buffer under its name, and `noise.<node>` for each
/// dropout. Outputs: `loss` of shape `[1]`, `grad.<parameter>`, `new.<buffer>`.
#[derive(Debug, Clone)]
pub struct TrainingGraph {
    /// The graph as an ONNX file.
    pub onnx: Vec<u8>,
    /// Parameters with a gradient, sorted by name.
    pub trained: Vec<String>,
    /// Buffers with a new value, sorted by name.
    pub statistics: Vec<String>,
    /// Names and shapes of all inputs.
    pub inputs: Vec<(String, Shape)>,
    /// Names and shapes of the noise inputs, uniform in [0, 1).
    pub noise: Vec<(String, Shape)>,
    /// Number of nodes after simplification.
    pub nodes: usize,
    /// About the memory of a run in bytes, without its inputs; sizes with a name count as 1.
    pub peak_bytes: u64,
}

/// A graph that computes the model's outputs, with every parameter and buffer as an input under its name.
#[derive(Debug, Clone)]
pub struct EvaluationGraph {
    /// The graph as an ONNX file.
    pub onnx: Vec<u8>,
    /// Names and shapes of all inputs.
    pub inputs: Vec<(String, Shape)>,
    /// Names and shapes of the outputs.
    pub outputs: Vec<(String, Shape)>,
    /// Number of nodes after simplification.
    pub nodes: usize,
    /// About the memory of a run in bytes, without its inputs; sizes with a name count as 1.
    pub peak_bytes: u64,
}

impl Model {
    /// Derives the graph that trains the model.
    ///
    /// # Errors
    /// [`GraphError`]: a node has no gradient, or the options do not fit the model.
    pub fn training_graph(&self, options: &Options) -> Result<TrainingGraph, GraphError> {
        self.check_names()?;
        self.check_patterns(&options.frozen)?;
        let is_trained = |name: &str| !is_frozen(&options.frozen, name);
        let mut tape = Tape::new(options.lowering.clone(), Mode::Training { dropout: options.dropout });
        let names = tape.replay(self, is_trained).map_err(|error| self.located(error))?;
        let names_of_all = self.parameters().iter().map(|parameter| parameter.name.clone());
        let trained: Vec<String> = names_of_all.filter(|name| is_trained(name)).collect();
        if trained.is_empty() {
            let hint = "its file must hold float32 initializers that are not frozen";
            return Err(GraphError::Request(format!("the model has no parameter to train: {hint}")));
        }
        let output = self.output(&names)?;
        let refuse = |reason| GraphError::Tensor { name: self.outputs[0].clone(), reason };
        let loss = options.loss.apply(&mut tape, output).map_err(refuse)?;
        let wanted: Vec<ValueId> = trained.iter().map(|name| names[name]).collect();
        let gradients = tape.differentiate(loss, &wanted).map_err(|error| self.located(error))?;
        let mut outputs = vec![("loss".to_owned(), loss)];
        for ((name, parameter), gradient) in trained.iter().zip(&wanted).zip(gradients) {
            // A parameter that the loss does not depend on has a gradient of zeros.
            let gradient = gradient.map_or_else(|| zeros_like(&mut tape.graph, *parameter), Ok);
            outputs.push((format!("grad.{name}"), gradient.map_err(GraphError::Request)?));
        }
        let statistics: Vec<String> = tape.statistics.keys().cloned().collect();
        outputs.extend(tape.statistics.iter().map(|(name, id)| (format!("new.{name}"), *id)));
        if options.flat_outputs {
            outputs.iter_mut().skip(1).for_each(|(_, id)| *id = unshaped(&tape.graph, *id));
        }
        let inputs = tape.graph.named_inputs();
        let noise = inputs.iter().filter(|(name, _)| name.starts_with("noise.")).cloned().collect();
        let graph = finish(tape.graph, outputs);
        let onnx = export::encode(&graph);
        let nodes = graph.nodes.len();
        let peak_bytes = memory::peak_bytes(&graph);
        Ok(TrainingGraph { onnx, trained, statistics, inputs, noise, nodes, peak_bytes })
    }

    /// Derives the graph that evaluates the model; batch normalizations use their running statistics.
    ///
    /// # Errors
    /// [`GraphError`]: a node cannot be used.
    pub fn evaluation_graph(&self) -> Result<EvaluationGraph, GraphError> {
        let mut tape = Tape::new(Lowering::portable(), Mode::Evaluation);
        let names = tape.replay(self, |_| false).map_err(|error| self.located(error))?;
        let outputs: Result<Vec<_>, _> =
            self.outputs.iter().map(|name| Ok((name.clone(), find(&names, name)?))).collect();
        let graph = finish(tape.graph, outputs?);
        let outputs = graph.outputs.iter().map(|(name, id)| (name.clone(), graph.shape(*id).to_vec())).collect();
        let inputs = graph.named_inputs();
        let nodes = graph.nodes.len();
        let peak_bytes = memory::peak_bytes(&graph);
        Ok(EvaluationGraph { onnx: export::encode(&graph), inputs, outputs, nodes, peak_bytes })
    }

    fn output(&self, names: &Names) -> Result<ValueId, GraphError> {
        match &self.outputs[..] {
            [only] => find(names, only),
            several => Err(GraphError::Request(format!(
                "the model has {} outputs, but a loss takes one: export it with its logits only",
                several.len()
            ))),
        }
    }

    /// Checks that every pattern freezes a parameter.
    fn check_patterns(&self, frozen: &[String]) -> Result<(), GraphError> {
        let is_idle = |pattern: &&String| !self.parameters().iter().any(|parameter| matches(pattern, &parameter.name));
        match frozen.iter().find(is_idle) {
            Some(pattern) => Err(GraphError::Request(format!("no parameter of the model is named `{pattern}`"))),
            None => Ok(()),
        }
    }

    /// Checks that the model uses no name that the training graph reserves.
    fn check_names(&self) -> Result<(), GraphError> {
        let is_reserved = |name: &&String| {
            matches!(name.as_str(), "labels" | "loss")
                || ["grad.", "new.", "noise."].iter().any(|prefix| name.starts_with(prefix))
        };
        let inputs = self.inputs.iter().map(|(name, _)| name);
        let tensors = self.parameters().iter().chain(self.buffers()).map(|tensor| &tensor.name);
        match inputs.chain(tensors).find(is_reserved) {
            Some(name) => Err(GraphError::Tensor {
                name: name.clone(),
                reason: "has a name that the training graph uses: rename it in the model".into(),
            }),
            None => Ok(()),
        }
    }
}

/// The value before its trailing reshapes.
fn unshaped(graph: &Graph, mut id: ValueId) -> ValueId {
    while let Some(node) = graph.producer(id).filter(|node| node.op == "Reshape")
        && let Some(source) = node.inputs[0].filter(|source| graph.producer(*source).is_some())
    {
        id = source;
    }
    id
}

fn find(names: &Names, name: &str) -> Result<ValueId, GraphError> {
    let missing = || GraphError::Malformed(format!("nothing computes the output `{name}`"));
    names.get(name).copied().ok_or_else(missing)
}

fn zeros_like(graph: &mut Graph, model: ValueId) -> Result<ValueId, String> {
    let sizes = graph.fixed_shape(model).ok_or("the sizes of a parameter are not known")?;
    let target = graph.integers(&sizes);
    let zero = Constant::floats(&[1], &[0.0]);
    graph.op_with("ConstantOfShape", &[target], Attributes::default().with("value", zero))
}

fn finish(mut graph: Graph, outputs: Vec<(String, ValueId)>) -> Graph {
    graph.outputs = outputs;
    graph.prune();
    graph
}

/// Whether one of the patterns freezes the parameter `name`.
pub fn is_frozen(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// Whether a name matches a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((front, rest)) => {
            let Some(tail) = name.strip_prefix(front) else { return false };
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_freeze_by_name() {
        for (pattern, name, fits) in [
            ("conv1.weight", "conv1.weight", true),
            ("conv1.weight", "conv1.weights", false),
            ("layer1.*", "layer1.0.bias", true),
            ("*.bias", "layer1.0.bias", true),
            ("layer*.weight", "layer2.0.bias", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
