//! The dropout of whole channels as one node.
//!
//! `nn.Dropout1d` to `nn.Dropout3d` multiply every channel by `Bernoulli(p) / p`. PyTorch's newer exporter writes the steps
//! of that: uniform random numbers, `Less` than `p`, converted to floats, divided by `p`. Such steps would draw in
//! evaluation as well, and from an engine's own generator. Here they become what they mean, a `Dropout` of ones, whose
//! noise follows from the job's seed and which is removed for evaluation. Other uses of random numbers stay as they are,
//! and are refused later.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::decode::{self, is_standard};
use crate::constant::ElementType;
use crate::proto::{Attribute, Graph, Node, Tensor, attribute_type};

/// Since this operator set the ratio of a dropout is an input.
const RATIO_IS_INPUT: i64 = 12;

/// Replaces the steps of each dropout of channels by one node.
pub(super) fn restore(graph: &mut Graph, opset: i64) {
    let draws = |node: &Node| is_standard(&node.domain) && node.op_type == "RandomUniformLike";
    if opset < RATIO_IS_INPUT || !graph.node.iter().any(draws) {
        return;
    }
    let steps = Steps::of(graph);
    let found: Vec<Found> =
        (0..graph.node.len()).filter(|at| draws(&graph.node[*at])).filter_map(|at| steps.dropout(at)).collect();
    let mut replacements = HashMap::new();
    let mut removed = BTreeSet::new();
    let mut left = Vec::new();
    for Found { draw, steps, keep } in found {
        let Some(last) = steps.last().map(|last| graph.node[*last].clone()) else { continue };
        let Some(factors) = last.output.first().cloned() else { continue };
        let ratio = format!("{factors}.ratio");
        graph.initializer.push(scalar(ratio.clone(), 1.0 - keep));
        left.extend(steps.iter().flat_map(|at| graph.node[*at].input.clone()));
        removed.extend(steps);
        replacements.insert(draw, dropout_of_ones(&graph.node[draw], &last, [factors, ratio]));
    }
    let nodes = std::mem::take(&mut graph.node).into_iter().enumerate();
    let kept = nodes.filter(|(at, _)| !removed.contains(at));
    graph.node = kept.flat_map(|(at, node)| replacements.remove(&at).unwrap_or_else(|| vec![node])).collect();
    graph.drop_unused(left);
}

/// One dropout of channels in a graph.
struct Found {
    /// The node that draws the numbers.
    draw: usize,
    /// The other nodes, of which the last computes the factors.
    steps: Vec<usize>,
    /// Probability with which a channel is kept.
    keep: f32,
}

/// A graph, and the nodes that make and read each value.
struct Steps<'a> {
    graph: &'a Graph,
    makers: HashMap<&'a str, usize>,
    readers: HashMap<&'a str, Vec<usize>>,
}

impl Steps<'_> {
    fn of(graph: &Graph) -> Steps<'_> {
        let mut makers = HashMap::new();
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            makers.extend(node.output.iter().map(|name| (name.as_str(), at)));
            node.input.iter().for_each(|name| readers.entry(name).or_default().push(at));
        }
        Steps { graph, makers, readers }
    }

    /// The dropout that begins with the random numbers of node `draw`.
    fn dropout(&self, draw: usize) -> Option<Found> {
        let numbers = self.graph.node[draw].output.first()?;
        let is_plain = |attribute: &Attribute| match &*attribute.name {
            "low" => attribute.f == Some(0.0),
            "high" => attribute.f == Some(1.0),
            other => other == "dtype",
        };
        // `p` may be converted to the type of the numbers before.
        let (converted, compared): (Vec<usize>, Vec<usize>) =
            self.readers.get(numbers.as_str())?.iter().partition(|at| self.graph.node[**at].op_type == "CastLike");
        let [less] = compared[..] else { return None };
        let [left, right] = &self.graph.node[less].input[..] else { return None };
        let is_plain = self.graph.node[draw].attribute.iter().all(is_plain);
        let is_own = converted.iter().all(|at| self.graph.node[*at].output == [right.clone()])
            && self.readers[right.as_str()] == [less];
        if !is_plain || !(converted.is_empty() || is_own) || self.graph.node[less].op_type != "Less" || left != numbers
        {
            return None;
        }
        let keep = self.number(right)?;
        let floats = self.only_reader(less, &["Cast", "CastLike"])?;
        let factors = self.only_reader(floats, &["Div"])?;
        let divisor = self.number(self.graph.node[factors].input.get(1)?)?;
        let steps = [converted, vec![less, floats, factors]].concat();
        (divisor == keep && 0.0 < keep && keep <= 1.0).then_some(Found { draw, steps, keep })
    }

    /// The node that alone reads the result of node `at`, as its first input, if it has one of the operators.
    fn only_reader(&self, at: usize, operators: &[&str]) -> Option<usize> {
        let name = self.graph.node[at].output.first()?;
        let [reader] = self.readers.get(name.as_str())?[..] else { return None };
        let is_output = self.graph.output.iter().any(|output| output.name == *name);
        let node = &self.graph.node[reader];
        (!is_output && operators.contains(&&*node.op_type) && node.input.first() == Some(name)).then_some(reader)
    }

    /// The value of a constant that is one number, possibly converted.
    fn number(&self, name: &str) -> Option<f32> {
        let maker = self.makers.get(name).map(|at| &self.graph.node[*at]);
        match maker.filter(|node| node.op_type == "CastLike") {
            Some(conversion) => self.constant(conversion.input.first()?),
            None => self.constant(name),
        }
    }

    fn constant(&self, name: &str) -> Option<f32> {
        if let Some(tensor) = self.graph.initializer.iter().find(|tensor| tensor.name == name) {
            return value(tensor);
        }
        let node = &self.graph.node[*self.makers.get(name)?];
        let attribute = node.attribute.first().filter(|_| node.op_type == "Constant")?;
        attribute.f.or_else(|| value(attribute.t.as_ref()?))
    }
}

fn value(tensor: &Tensor) -> Option<f32> {
    let is_number = tensor.dims.iter().all(|size| *size == 1);
    let constant = is_number.then(|| decode::tensor(tensor.clone(), &|_| Err("not a number".into())))?.ok()?;
    constant.to_floats()?.first().copied()
}

fn scalar(name: String, value: f32) -> Tensor {
    let raw_data = Bytes::copy_from_slice(&value.to_le_bytes());
    Tensor { name, data_type: ElementType::F32.code(), raw_data, ..Tensor::default() }
}

/// Nodes that compute `factors` as `last` does: ones in the shape of the input of `draw`, of which some are dropped.
fn dropout_of_ones(draw: &Node, last: &Node, [factors, ratio]: [String; 2]) -> Vec<Node> {
    let shape = format!("{factors}.shape");
    let ones = format!("{factors}.ones");
    let one = Attribute {
        name: "value".into(),
        t: Some(Tensor { dims: vec![1], ..scalar(String::new(), 1.0) }),
        r#type: attribute_type::TENSOR,
        ..Attribute::default()
    };
    let node = |op: &str, inputs: Vec<String>, output: String| Node {
        op_type: op.into(),
        name: output.clone(),
        input: inputs,
        output: vec![output],
        metadata_props: last.metadata_props.clone(),
        ..Node::default()
    };
    vec![
        node("Shape", draw.input.clone(), shape.clone()),
        Node { attribute: vec![one], ..node("ConstantOfShape", vec![shape], ones.clone()) },
        node("Dropout", vec![ones, ratio], factors),
    ]
}
