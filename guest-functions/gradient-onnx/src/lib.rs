//! The gradient of any ONNX model, by the graphs that the host has derived from it.
//!
//! The batch goes to the graph `<model>/train` as it came, and the gradients go back to the host as they came: no
//! parameter and no gradient enters this memory, only the loss does, and the logits of an evaluation. The setting
//! `model` names the graphs (`model` where it is not set), `loss` what an evaluation computes.

pub mod score;

#[cfg(target_arch = "wasm32")]
mod component;
