//! What a round decides: whose contributions are aggregated, and who is removed.

use skein_types::{Digest, PeerId};

use crate::keys::Keys;
use crate::proof::Proof;
use crate::slot::View;
use crate::wire::{Fields, RecordError, Writer};

/// Most proofs in a selection: the others wait for the next round.
pub const PROOFS_MAX: usize = 32;

/// The announcements that a round aggregates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The view in which it was proposed first: the proposers of earlier views did not get theirs decided.
    pub view: View,
    /// Hashes of announcements, one for each member, sorted by member.
    pub announcements: Vec<(PeerId, Digest)>,
    /// Proofs against members that are to be removed, sorted by member.
    pub proofs: Vec<Proof>,
}

impl Selection {
    /// The hash that stands for the selection in votes.
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key("skein 2026-11 selection of announcements", &self.encode()))
    }

    /// The hash of a member's announcement, if it is selected.
    pub fn announcement(&self, peer: &PeerId) -> Option<Digest> {
        let index = self.announcements.binary_search_by_key(peer, |(peer, _)| *peer).ok()?;
        Some(self.announcements[index].1)
    }

    /// Encodes the selection.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::new();
        self.write(&mut bytes);
        bytes.finish()
    }

    /// Reads a selection of `run` and checks the signatures of its proofs.
    ///
    /// # Errors
    /// [`RecordError`]. The source of the bytes is to blame.
    pub fn decode(bytes: &[u8], run: Digest, keys: &impl Keys) -> Result<Selection, RecordError> {
        let mut fields = Fields::new(bytes);
        let selection = Selection::read(&mut fields).filter(|_| fields.is_empty()).ok_or(RecordError::Malformed)?;
        let is_signed = selection.proofs.iter().all(|proof| proof.is_signed(run, keys));
        if is_signed { Ok(selection) } else { Err(RecordError::Signature) }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.view);
        to.u16(self.announcements.len() as u16);
        for (peer, hash) in &self.announcements {
            to.bytes(&peer.0);
            to.bytes(&hash.0);
        }
        to.u16(self.proofs.len() as u16);
        self.proofs.iter().for_each(|proof| proof.write(to));
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Selection> {
        let view = fields.u32()?;
        let count = fields.u16()?;
        let announcements: Option<Vec<_>> = (0..count).map(|_| Some((fields.peer()?, fields.digest()?))).collect();
        let count = usize::from(fields.u16()?);
        if count > PROOFS_MAX {
            return None;
        }
        let proofs: Option<Vec<_>> = (0..count).map(|_| Proof::read(fields)).collect();
        let selection = Selection { view, announcements: announcements?, proofs: proofs? };
        let is_sorted = selection.announcements.is_sorted_by(|a, b| a.0 < b.0)
            && selection.proofs.is_sorted_by(|a, b| a.slot().peer < b.slot().peer);
        is_sorted.then_some(selection)
    }
}
