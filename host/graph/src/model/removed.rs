//! What an exporter removed from a network of convolutions, as far as the file shows it.
//!
//! Exporters fold batch normalization into the convolution before it and drop dropout, since neither changes what a
//! model evaluates to. A model that is trained misses both. A file does not tell what the network once had, so these are
//! signs, not errors.

use std::collections::{BTreeMap, BTreeSet};

use super::{Model, SourceNode};

/// Signs in a file that an exporter removed parts of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The network has so many convolutions, but no normalization.
    Normalization {
        /// Number of convolutions in the network, transposed ones included; at least 1.
        convolutions: usize,
        /// Whether the network has no dropout either.
        no_dropout: bool,
    },
    /// After these convolutions stand a scale and a shift of each channel: a batch normalization whose running statistics
    /// were folded into them.
    Statistics {
        /// Names of the convolutions.
        convolutions: Vec<String>,
    },
}

impl Model {
    /// Signs that an exporter removed normalization or dropout.
    pub fn removed(&self) -> Vec<Removed> {
        let convolutions = self.nodes.iter().filter(|node| is_convolution(node)).count();
        let has = |part: &str| self.nodes.iter().any(|node| node.op.ends_with(part));
        let scaled = self.scaled_convolutions();
        if !scaled.is_empty() {
            return vec![Removed::Statistics { convolutions: scaled }];
        }
        if convolutions > 0 && !has("Normalization") {
            return vec![Removed::Normalization { convolutions, no_dropout: !has("Dropout") }];
        }
        Vec::new()
    }

    /// Names of the convolutions whose result is multiplied by one value for each channel, to which another is added.
    fn scaled_convolutions(&self) -> Vec<String> {
        let per_channel: BTreeSet<&str> = self
            .parameters()
            .iter()
            .filter(|tensor| tensor.initial.dims().iter().filter(|size| **size > 1).count() == 1)
            .map(|tensor| tensor.name.as_str())
            .collect();
        let mut readers: BTreeMap<&str, Vec<&SourceNode>> = BTreeMap::new();
        for node in &self.nodes {
            node.inputs.iter().for_each(|input| readers.entry(input).or_default().push(node));
        }
        let next = |node: &SourceNode, op: &str| {
            let [reader] = readers.get(node.outputs.first()?.as_str())?[..] else { return None };
            let takes_channels = reader.inputs.iter().any(|input| per_channel.contains(input.as_str()));
            (reader.op == op && takes_channels).then_some(reader)
        };
        let is_scaled = |node: &&SourceNode| next(node, "Mul").and_then(|scale| next(scale, "Add")).is_some();
        let scaled = self.nodes.iter().filter(|node| is_convolution(node)).filter(is_scaled);
        scaled.map(|node| node.name.to_string()).collect()
    }
}

fn is_convolution(node: &SourceNode) -> bool {
    matches!(node.op, "Conv" | "ConvTranspose")
}
