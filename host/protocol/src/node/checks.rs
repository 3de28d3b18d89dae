//! States that members signed, and those that enough of them signed for one to be honest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skein_types::PeerId;

use crate::certificate::CertifiedState;
use crate::record::payload::{Body, Check};
use crate::record::{Position, Record};

/// Checks kept of each member: the last ones.
const CHECKS_MAX: usize = 8;

/// The last checks of all members.
#[derive(Debug)]
pub(super) struct Checks {
    /// Equal checks of so many members certify a state.
    certifying: usize,
    checks: BTreeMap<Position, BTreeMap<PeerId, Arc<Record>>>,
    positions: BTreeMap<PeerId, BTreeSet<Position>>,
    certified: BTreeMap<Position, CertifiedState>,
}

impl Checks {
    pub(super) fn new(certifying: u32) -> Checks {
        Checks {
            certifying: certifying as usize,
            checks: BTreeMap::new(),
            positions: BTreeMap::new(),
            certified: BTreeMap::new(),
        }
    }

    /// Adds a member's check; the first of a position counts. Returns the one that it contradicts.
    pub(super) fn add(&mut self, record: &Arc<Record>) -> Option<Arc<Record>> {
        let peer = record.peer();
        let position = record.slot().position;
        let checks = self.checks.entry(position).or_default();
        if let Some(first) = checks.get(&peer) {
            return Some(first.clone()).filter(|first| first.hash() != record.hash());
        }
        checks.insert(peer, record.clone());
        if let Some(check) = check_of(record).filter(|_| !self.certified.contains_key(&position)) {
            let equal = checks.iter().filter(|(_, other)| check_of(other) == Some(check));
            if equal.clone().count() >= self.certifying {
                let checks = equal.map(|(peer, other)| (*peer, other.signature())).collect();
                self.certified.insert(position, CertifiedState { position, check, checks });
                self.forget_some();
            }
        }
        let positions = self.positions.entry(peer).or_default();
        positions.insert(position);
        if positions.len() > CHECKS_MAX
            && let Some(oldest) = positions.pop_first()
        {
            self.remove(peer, oldest);
        }
        None
    }

    /// Drops certified states between the first, which may be that of the head, and the last ones.
    fn forget_some(&mut self) {
        let many = self.certified.len() > CHECKS_MAX;
        if let Some(second) = self.certified.keys().nth(1).copied().filter(|_| many) {
            self.certified.remove(&second);
        }
    }

    fn remove(&mut self, peer: PeerId, position: Position) {
        let Some(checks) = self.checks.get_mut(&position) else { return };
        checks.remove(&peer);
        if checks.is_empty() {
            self.checks.remove(&position);
        }
    }

    /// Drops what was certified before a position.
    pub(super) fn forget_before(&mut self, position: Position) {
        self.certified = self.certified.split_off(&position);
    }

    /// The state after a round that enough members signed.
    pub(super) fn certified(&self, position: Position) -> Option<Check> {
        self.certified.get(&position).map(|state| state.check)
    }

    /// The latest certified state.
    pub(super) fn latest(&self) -> Option<&CertifiedState> {
        self.certified.last_key_value().map(|(_, state)| state)
    }

    /// Members that signed this state.
    pub(super) fn signers(&self, position: Position, check: Check) -> Vec<PeerId> {
        let checks = self.checks.get(&position).into_iter().flatten();
        checks.filter(|(_, record)| check_of(record) == Some(check)).map(|(peer, _)| *peer).collect()
    }
}

fn check_of(record: &Record) -> Option<Check> {
    match record.body() {
        Body::Check(check) => Some(*check),
        _ => None,
    }
}
