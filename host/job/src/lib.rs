//! A job: the manifest, the data, the model and the functions, checked against one another.
//!
//! Nothing here runs a function, computes a graph or waits: graphs and functions are plain values, from which a peer
//! creates what it runs.
//!
//! | module | what |
//! |---|---|
//! | [`manifest`] | `skein.toml` |
//! | [`data`] | formats, splits, batches |
//! | [`model`] | parameters, their initial values, and the model's graphs |
//! | [`component`] | the functions, read and checked |
//! | [`shares`] | who has which samples |
//! | [`job`] | all of that made ready |
//! | [`identity`] | what identifies a job and a run |

pub mod component;
pub mod data;
pub mod identity;
pub mod job;
pub mod manifest;
pub mod model;
pub mod shares;

pub use component::{BuiltinRule, Component};
pub use job::{Job, Members};
pub use manifest::Manifest;
pub use shares::{PeerData, Subset};
