//! The round as pure decisions: no clock, no network, no store, no task.
//!
//! Time comes in as an argument, records and contributions as values. The next step comes out, with its reason. So
//! the protocol runs the same in one process, in many, and in a simulator.
//!
//! | module | decides |
//! |---|---|
//! | [`identity`] | who a peer is |
//! | [`record`] | what a peer signs, and whether a record is what it claims |
//! | [`announcement`] | the payloads of a round's records |
//! | [`fault_model`] | how many members may fail, and how large a quorum is |
//! | [`agreement`] | which one value all members decide, whatever some of them do |
//! | [`round`] | whom to wait for, what to vote, what to aggregate, whether peers are in step |
//! | [`presence`] | which peers are suspects, and which are ahead |
//! | [`deadline`] | how long to wait, learned from arrivals |
//! | [`convergence`] | when to lower the learning rate, when to stop |
//! | [`shards`] | who trains on which samples, in which order |
//! | [`random`] | numbers that every peer draws alike |
//! | [`state`] | the hash by which peers check that they are in step |
//!
//! Apart from `std` and `skein-types` it needs BLAKE3 and Ed25519, which are pure functions too.

pub mod agreement;
pub mod announcement;
pub mod convergence;
pub mod deadline;
pub mod fault_model;
pub mod identity;
pub mod presence;
pub mod random;
pub mod record;
pub mod round;
pub mod shards;
pub mod state;
