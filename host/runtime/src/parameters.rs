//! A model's parameters, as calls see them.

use std::sync::Arc;

use skein_types::Layout;

/// A model's parameters as one call sees them. Cloning shares the values.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Names and shapes, in the model's order.
    pub layout: Arc<Layout>,
    /// The values of all parameters as one vector, as long as the layout.
    pub values: Arc<Vec<f32>>,
}
