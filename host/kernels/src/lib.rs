//! Deterministic kernels on plain `f32` slices: means, robust rules, optimizers, clipping.
//!
//! Peers agree bit for bit because every kernel computes the same bits wherever it runs: inside the host, inside a
//! database, or compiled to WebAssembly. Three rules ensure that. The order of every reduction is fixed by index
//! ([`tree`]), never by arrival or by the number of threads. Nothing is fused: Rust never contracts `a * b + c`, and no
//! intrinsic is used. Nothing is transcendental: only `+ - * /`, comparison and `sqrt`, which IEEE 754 defines exactly.
//! Loops are shaped so that the compiler vectorises them for any target.
//!
//! Non-finite input is refused, never averaged, so the bits of a NaN cannot matter.
//!
//! | module | what |
//! |---|---|
//! | [`tree`] | the fixed reduction tree, at once or as leaves arrive |
//! | [`mean`] | mean and weighted mean |
//! | [`order`] | coordinate-wise median and trimmed mean |
//! | [`multi_krum`] | Multi-Krum |
//! | [`rule`] | the description of a rule, and a rule chosen at run time |
//! | [`rules`] | the table of all rules |
//! | [`optimizer`] | SGD, momentum, Nesterov, Adam, AdamW, and the table of them |
//! | [`update`] | rule, clipping and optimizer as one pass over the state |
//! | [`norm`] | finiteness, norms, clipping |
//!
//! ```
//! use skein_kernels::order::trimmed_mean;
//!
//! let honest = [1.0f32, 2.0];
//! let liar = [1e9f32, -1e9];
//! let rows = [&honest[..], &honest[..], &liar[..]];
//! let mut out = [0.0; 2];
//! trimmed_mean(&rows, 1, &mut out)?;
//! assert_eq!(out, honest);
//! # Ok::<(), skein_kernels::Error>(())
//! ```

pub mod mean;
pub mod multi_krum;
pub mod norm;
pub mod optimizer;
pub mod order;
pub mod rule;
pub mod rules;
pub mod tree;
pub mod update;

mod error;
mod parallel;
mod text;

pub use error::Error;
pub use text::TextError;
