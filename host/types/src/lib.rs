//! What every crate of Skein calls things by. Plain values: nothing here waits, and nothing reads or writes a file.
//!
//! | module | what |
//! |---|---|
//! | [`digest`] | 256-bit digests: what functions, records and states are known by |
//! | [`peer`] | the public keys by which peers are known |
//! | [`layout`] | names and shapes of a model's parameters inside one flat vector |
//! | [`values`] | such a vector, immutable and shared |
//! | [`statistics`] | its length, its hash and whether it is finite |
//! | [`status`] | what a command is busy with |
//!
//! Rules and optimizers are in `skein-kernels`, which also runs inside guests and inside databases.

pub mod digest;
pub mod layout;
pub mod peer;
pub mod statistics;
pub mod status;
pub mod values;

pub use digest::Digest;
pub use layout::{Layout, Parameter};
pub use peer::PeerId;
pub use statistics::Statistics;
pub use status::{Busy, Status};
pub use values::Values;
