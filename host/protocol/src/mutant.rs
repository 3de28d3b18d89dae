//! Nodes that are broken on purpose, to see that the simulator finds out. Without the feature `mutants` none exists.

/// A way to break the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A quorum is a bare majority, however many members may lie.
    MajorityQuorum,
    /// A precommit does not bind later votes.
    NoLock,
    /// Certificates count without votes, and votes in them without signatures.
    UncheckedCertificate,
    /// One member's check certifies a state.
    OneCheck,
    /// A member whose values are wrong lowers the bound that the rule has to tolerate.
    ChargeLowersBound,
    /// A member that skips a round is taken for a liar.
    GapIsLie,
}

#[cfg(feature = "mutants")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks all nodes of this thread from now on, or mends them.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

/// Whether nodes are broken in this way.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant)
}

/// Never: the feature is off.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
