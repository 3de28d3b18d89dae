//! The votes of a quorum, which show everybody what the quorum wanted.

use std::collections::BTreeMap;

use skein_types::{Digest, PeerId};

use crate::keys::{Keys, Signature};
use crate::mutant::{self, Mutant};
use crate::slot::{Kind, Position, Slot, View};
use crate::wire::{Fields, Writer, hash_of};

/// The two votes of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BallotKind {
    /// The proposed value is acceptable.
    Prevote,
    /// A quorum has prevoted the value.
    Precommit,
}

/// Votes of a quorum for one value. The caller has verified all signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Which of the two votes.
    pub kind: BallotKind,
    /// The view in which all of them were cast.
    pub view: View,
    /// The value that all of them are for.
    pub value: Digest,
    /// The signatures of those who voted for it.
    pub votes: BTreeMap<PeerId, Signature>,
}

impl From<BallotKind> for Kind {
    fn from(kind: BallotKind) -> Kind {
        match kind {
            BallotKind::Prevote => Kind::Prevote,
            BallotKind::Precommit => Kind::Precommit,
        }
    }
}

impl Certificate {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.view);
        to.bytes(&self.value.0);
        to.u16(self.votes.len() as u16);
        for (peer, signature) in &self.votes {
            to.bytes(&peer.0);
            to.bytes(signature);
        }
    }

    pub(crate) fn read(fields: &mut Fields<'_>, kind: BallotKind) -> Option<Certificate> {
        let view: View = fields.u32()?;
        let value = fields.digest()?;
        let count = usize::from(fields.u16()?);
        let mut votes = BTreeMap::new();
        for _ in 0..count {
            let (peer, signature) = (fields.peer()?, fields.take()?);
            // Sorted, so that the same certificate has one form.
            if votes.last_key_value().is_some_and(|(last, _)| *last >= peer) {
                return None;
            }
            votes.insert(peer, signature);
        }
        Some(Certificate { kind, view, value, votes })
    }

    /// Whether all its votes are signed.
    pub(crate) fn is_signed(&self, run: Digest, position: Position, keys: &impl Keys) -> bool {
        if mutant::is(Mutant::UncheckedCertificate) {
            return true;
        }
        let payload = hash_of(&self.value.0);
        let kind = Kind::from(self.kind);
        self.votes.iter().all(|(peer, signature)| {
            let slot = Slot { run, position, view: self.view, kind, peer: *peer };
            keys.is_signed(*peer, &slot.message(payload), signature)
        })
    }
}
