//! What the members of a run agree on, as pure decisions: no clock, no network, no store, no task.
//!
//! Time comes in as an argument, records and contributions as values; what to do comes out. So the protocol runs the same in
//! one process, in many, and in a simulator.
//!
//! It assumes partial synchrony: messages may be late for as long as they like, but not for ever. Of `n` members, `b` may be
//! Byzantine and `c` more crashed or cut off, with `n ≥ 3b + 2c + 1`. Decisions need a quorum of `q = ⌊(n + b) / 2⌋ + 1`; no
//! round aggregates fewer than `w = n − b − c` contributions; what `b + 1` members say, an honest one says. If more members
//! fail, nothing is decided wrongly as long as at most `b` of them lie: the others wait, and go on when enough are back.
//!
//! | module | decides |
//! |---|---|
//! | [`identity`], [`keys`] | who a peer is, and whether it signed something |
//! | [`fault_model`] | how many members may fail, and how large a quorum is |
//! | [`slot`], [`record`] | what a member signs, and whether a record is what it claims |
//! | [`proof`] | that a member is Byzantine |
//! | [`agreement`] | which one value all members decide, whatever some of them do |
//! | [`selection`], [`certificate`], [`decision`] | what was decided, for those that are late |
//! | [`node`] | everything that one member does: announce, gather, agree, apply, catch up, recover |
//! | [`parts`] | whether bytes are part of an announced contribution |
//! | [`pace`] | whom to wait for, and how long |
//! | [`standing`] | what members share after a round besides tensors |
//! | [`convergence`] | when to lower the learning rate, when to stop |
//! | [`shards`] | who trains on which samples, in which order |
//! | [`random`] | numbers that every peer draws alike |
//! | [`state`] | the hash by which peers check that they are in step |
//! | [`mutant`] | how tests break all this |
//!
//! Apart from `std` and `skein-types` it needs BLAKE3 and Ed25519, which are pure functions too.

pub mod agreement;
pub mod certificate;
pub mod convergence;
pub mod decision;
pub mod fault_model;
pub mod identity;
pub mod keys;
pub mod mutant;
pub mod node;
pub mod pace;
pub mod parts;
pub mod proof;
pub mod random;
pub mod record;
pub mod selection;
pub mod shards;
pub mod slot;
pub mod standing;
pub mod state;
mod wire;
