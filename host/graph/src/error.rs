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
    #[error("node `{node}` (operator `{operator}`): {reason}")]
    Node {
        /// Name of the node, or of its first output if it has none.
        node: String,
        /// Operator, with its domain if that is not `ai.onnx`.
        operator: String,
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
        GraphError::Node { node: node.to_owned(), operator: operator.to_owned(), reason }
    }
}

/// Why a node cannot be built. The caller knows the node's name and turns this into a [`GraphError::Node`].
pub(crate) type Reason = String;
