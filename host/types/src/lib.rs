//! Plain types that every crate of Skein shares. Nothing here waits, and nothing reads or writes a file.
//!
//! | module | what |
//! |---|---|
//! | [`digest`] | 256-bit digests, which identify functions, records and states |
//! | [`peer`] | public keys, which identify peers |
//! | [`layout`] | names and shapes of a model's parameters inside one flat vector |
//! | [`values`] | such a vector, immutable and shared |
//! | [`statistics`] | its length, its hash and whether it is finite |
//! | [`counted`](fn@counted) | numbers of things in words |
//! | [`status`] | the current activity of a command |
//!
//! Rules and optimizers are in `skein-kernels`, which also runs inside guests and inside databases.

mod counted;
pub mod digest;
pub mod layout;
pub mod peer;
pub mod statistics;
pub mod status;
pub mod values;

pub use counted::counted;
pub use digest::Digest;
pub use layout::{Layout, Parameter};
pub use peer::PeerId;
pub use statistics::Statistics;
pub use status::{Busy, Status};
pub use values::Values;
