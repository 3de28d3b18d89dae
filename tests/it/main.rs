//! End-to-end tests: the real program, real components, real files, real signals.

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

mod harness;

mod bad_input;
mod demo;
mod formats;
mod hosts;
mod liars;
mod losses;
mod manifests;
mod onnx;
mod peers;
mod tidy;
mod train;
