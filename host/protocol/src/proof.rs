//! Two records that one member signed for one slot: the only thing that removes a member.

use std::fmt;

use skein_types::Digest;

use crate::keys::{Keys, Signature};
use crate::slot::Slot;
use crate::wire::{Fields, RecordError, Writer};

/// That a peer has signed something in a slot, without what it says: the hash of the payload is what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The slot that was signed.
    pub slot: Slot,
    /// Hash of the payload.
    pub payload: Digest,
    /// Signature of the slot's peer.
    pub signature: Signature,
}

impl Said {
    pub(crate) fn is_signed(&self, keys: &impl Keys) -> bool {
        keys.is_signed(self.slot.peer, &self.slot.message(self.payload), &self.signature)
    }
}

/// Two records of one slot that say different things, without their payloads: the hashes are what was signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    slot: Slot,
    /// Hashes of both payloads with their signatures, the smaller hash first.
    records: [(Digest, Signature); 2],
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proof").field(&self.slot).finish()
    }
}

impl Proof {
    /// The proof by two records; `None` if they prove nothing.
    pub fn of(one: &Said, other: &Said) -> Option<Proof> {
        let is_one_slot = one.slot == other.slot && one.slot.kind.is_signed_once();
        let mut records = [one, other].map(|said| (said.payload, said.signature));
        records.sort_by_key(|(hash, _)| *hash);
        (is_one_slot && records[0].0 != records[1].0).then_some(Proof { slot: one.slot, records })
    }

    /// The slot that was signed twice; its peer is the member that is removed.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Encodes the proof.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::new();
        self.write(&mut bytes);
        bytes.finish()
    }

    /// Reads a proof of `run` and checks both signatures.
    ///
    /// # Errors
    /// [`RecordError`]. The source of the bytes is to blame, not the peer that they name.
    pub fn decode(bytes: &[u8], run: Digest, keys: &impl Keys) -> Result<Proof, RecordError> {
        let mut fields = Fields::new(bytes);
        let proof = Proof::read(&mut fields).filter(|_| fields.is_empty()).ok_or(RecordError::Malformed)?;
        if proof.is_signed(run, keys) { Ok(proof) } else { Err(RecordError::Signature) }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.slot.write(to);
        for (hash, signature) in &self.records {
            to.bytes(&hash.0);
            to.bytes(signature);
        }
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Proof> {
        let slot = Slot::read(fields).ok()?;
        let mut record = || Some((fields.digest()?, fields.take()?));
        let records = [record()?, record()?];
        (slot.kind.is_signed_once() && records[0].0 < records[1].0).then_some(Proof { slot, records })
    }

    pub(crate) fn is_signed(&self, run: Digest, keys: &impl Keys) -> bool {
        let is_signed = |(hash, signature): &(Digest, Signature)| {
            keys.is_signed(self.slot.peer, &self.slot.message(*hash), signature)
        };
        self.slot.run == run && self.records.iter().all(is_signed)
    }
}
