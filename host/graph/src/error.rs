//! Errors of models: the place, the reason and a fix.

/// A model that cannot be read or trained.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// The bytes are not an ONNX model, or the model contradicts itself.
    #[error("the file is not a usable ONNX model: {0}")]
    Malformed(String),
    /// A tensor of the file cannot be used.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Name of the initializer, input or output.
        name: String,
        /// The problem and a fix, in words.
        reason: String,
    },
    /// A node of the file cannot be used.
    #[error("node `{node}` (operator `{operator}`{}): {reason}", of_layer(layer.as_deref()))]
    Node {
        /// Name of the node, or of its first output if it has none.
        node: String,
        /// Operator, with its domain if that is not `ai.onnx`.
        operator: String,
        /// The layer that the exporter made the node from, and its class: `features.1: Dropout2d`. Not every exporter
        /// writes it.
        layer: Option<String>,
        /// The problem and a fix, in words.
        reason: String,
    },
    /// The request does not fit the model.
    #[error("{0}")]
    Request(String),
}

impl GraphError {
    /// An error at a node.
    pub(crate) fn node(node: &str, operator: &str, reason: Reason) -> GraphError {
        GraphError::Node { node: node.to_owned(), operator: operator.to_owned(), layer: None, reason }
    }

    /// The error with the layer that `find` returns for its node, if it is an error at a node without one.
    pub(crate) fn with_layer(mut self, find: impl FnOnce(&str) -> Option<String>) -> GraphError {
        if let GraphError::Node { node, layer: layer @ None, .. } = &mut self {
            *layer = find(node);
        }
        self
    }
}

fn of_layer(layer: Option<&str>) -> String {
    layer.map(|layer| format!(", layer `{layer}`")).unwrap_or_default()
}

/// Why a node cannot be built. The caller knows the node's name and turns this into a [`GraphError::Node`].
pub(crate) type Reason = String;
