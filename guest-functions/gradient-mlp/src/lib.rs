//! A multilayer perceptron with softmax cross-entropy, forward and backward inside the sandbox.
//!
//! The parameters define the network: pairs of `weight` (shape `[out, in]`, as in PyTorch) and `bias` (shape `[out]`),
//! one pair per layer, with rectified linear units between. A single pair is softmax regression. The batch contains
//! `input` (FP32, shape `[samples, ...]`, flattened here) and `labels` (I64, shape `[samples]`).

pub mod network;

#[cfg(target_arch = "wasm32")]
mod component;
