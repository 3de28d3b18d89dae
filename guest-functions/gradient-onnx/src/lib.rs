//! The gradient of any ONNX model, computed by graphs that the host derives from it.
//!
//! The batch passes to the graph `<model>/train` unread, and so do the gradients back to the host. No parameter and no
//! gradient enters the guest's memory, only the loss, and the logits and labels of an evaluation. The setting `model`
//! names the graphs (default `model`), `loss` the loss that an evaluation computes.

pub mod score;

#[cfg(target_arch = "wasm32")]
mod component;
