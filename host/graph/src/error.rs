//! What can be wrong with a model: the place, the reason and what would help.

/// A model that can not be read, or not be trained.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// The bytes are not an ONNX model, or one that contradicts itself.
    #[error("the file is no usable ONNX model: {0}")]
    Malformed(String),
    /// A tensor of the file can not be used.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Name of the initializer, input or output.
        name: String,
        /// What is wrong, and what would help.
        reason: String,
    },
    /// A node of the file can not be used.
    #[error("node `{node}` (operator `{operator}`): {reason}")]
    Node {
        /// Name of the node, or of its first output where it has none.
        node: String,
        /// Operator, with its domain where that is not `ai.onnx`.
        operator: String,
        /// What is wrong, and what would help.
        reason: String,
    },
    /// What was asked for does not fit the model.
    #[error("{0}")]
    Request(String),
}

impl GraphError {
    /// What is wrong with a node.
    pub(crate) fn node(node: &str, operator: &str, reason: Reason) -> GraphError {
        GraphError::Node { node: node.to_owned(), operator: operator.to_owned(), reason }
    }
}

/// Why a node can not be built. Who builds it knows its name and makes a [`GraphError::Node`] of it.
pub(crate) type Reason = String;
