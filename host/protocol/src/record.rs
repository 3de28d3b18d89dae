//! Signed records: what a member says in one slot of a run, once.
//!
//! Wire format, little endian: version (1 byte), run (32), era (4), round (8), view (4), kind (1), peer (32), payload hash
//! (32), signature (64), payload (the rest). The signature covers a domain string and everything before it. Two records of
//! one slot with different payloads are a [`Proof`] that the member is Byzantine.
//!
//! Bytes become an [`Unverified`] record, which may be dropped for its slot or its [`Unverified::hash`] before any signature
//! is checked, and by [`Unverified::verify`] a [`Record`].

pub mod payload;

use std::fmt;

use skein_types::{Digest, PeerId};

use self::payload::Body;
use crate::keys::{Keys, Signature, Signer};
use crate::proof::{Proof, Said};
use crate::slot::SLOT_BYTES;
pub use crate::slot::{Kind, Position, Slot};
use crate::wire::{Fields, Writer, hash_of};
pub use crate::wire::{RecordError, VERSION};

/// Largest payload, in bytes: a proposal among 500 members, with a certificate, fits.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 17;

/// Bytes of a record without its payload.
pub const HEADER_BYTES: usize = 1 + SLOT_BYTES + 32 + 64;
/// Largest record, in bytes.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// What a member is about to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Where it belongs.
    pub slot: Slot,
    /// What it says.
    pub body: Body,
}

impl Statement {
    /// Signs the statement.
    ///
    /// # Panics
    /// If the key is of another peer, or the payload is longer than [`PAYLOAD_BYTES_MAX`].
    pub fn sign(self, signer: &impl Signer) -> Record {
        let Statement { slot, body } = self;
        assert_eq!(slot.peer, signer.id(), "a member signs its own slots");
        let payload = body.encode();
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
        let signature = signer.sign(&slot.message(hash_of(&payload)));
        Record::new(slot, body, payload, signature)
    }
}

/// A record whose signature was checked, or that this member signed itself.
#[derive(Clone)]
pub struct Record {
    slot: Slot,
    body: Body,
    payload: Vec<u8>,
    signature: Signature,
    /// Hash of what was signed.
    hash: Digest,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("slot", &self.slot).field("body", &self.body).finish()
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.hash == other.hash
    }
}

impl Record {
    fn new(slot: Slot, body: Body, payload: Vec<u8>, signature: Signature) -> Record {
        let hash = hash_of(&slot.message(hash_of(&payload)));
        Record { slot, body, payload, signature, hash }
    }

    /// The slot that it was signed for.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The member that signed it.
    pub fn peer(&self) -> PeerId {
        self.slot.peer
    }

    /// The decoded payload: what it says.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The signature of slot and payload hash.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// Hash of the payload.
    pub fn payload_hash(&self) -> Digest {
        hash_of(&self.payload)
    }

    /// Hash of what was signed, which names the record.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// That the peer has signed something in its slot, without what it says.
    pub fn said(&self) -> Said {
        Said { slot: self.slot, payload: self.payload_hash(), signature: self.signature }
    }

    /// The proof that its peer is Byzantine; `None` if both records together prove nothing.
    pub fn contradicts(&self, other: &Record) -> Option<Proof> {
        Proof::of(&self.said(), &other.said())
    }

    /// Bytes of its wire format.
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Always false: a record has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Encodes the record in the wire format.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::new();
        self.slot.write(&mut bytes);
        bytes.bytes(&self.payload_hash().0);
        bytes.bytes(&self.signature);
        bytes.bytes(&self.payload);
        bytes.finish()
    }
}

/// A record as it was read: nobody has checked yet that its peer signed it.
#[derive(Debug, Clone)]
pub struct Unverified {
    slot: Slot,
    payload: Vec<u8>,
    signature: Signature,
    hash: Digest,
}

impl Unverified {
    /// Reads the wire format. Costs a copy and a hash.
    ///
    /// # Errors
    /// [`RecordError`], but for [`RecordError::Signature`] of the signature itself. The source of the bytes is to blame, not
    /// necessarily the peer that they name.
    pub fn decode(bytes: &[u8]) -> Result<Unverified, RecordError> {
        let mut fields = Fields::new(bytes);
        let slot = Slot::read(&mut fields)?;
        let payload_hash = fields.digest().ok_or(RecordError::Malformed)?;
        let signature = fields.take().ok_or(RecordError::Malformed)?;
        let payload = fields.rest();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(RecordError::Malformed);
        }
        if hash_of(payload) != payload_hash {
            return Err(RecordError::Signature);
        }
        Ok(Unverified { slot, payload: payload.to_vec(), signature, hash: hash_of(&slot.message(payload_hash)) })
    }

    /// Where it claims to belong.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Hash of what was signed: equal to that of a verified record, it says the same.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Decodes the payload of a record whose signatures were checked before, when this member kept it; `None` if it is
    /// malformed.
    pub fn trusted(self) -> Option<Record> {
        let Unverified { slot, payload, signature, hash } = self;
        let body = Body::decode(&slot, &payload)?;
        Some(Record { slot, body, payload, signature, hash })
    }

    /// Checks the signature and those of the votes inside, and decodes the payload.
    ///
    /// # Errors
    /// [`RecordError::Signature`], [`RecordError::Malformed`]
    pub fn verify(self, keys: &impl Keys) -> Result<Record, RecordError> {
        let Unverified { slot, payload, signature, hash } = self;
        if !keys.is_signed(slot.peer, &slot.message(hash_of(&payload)), &signature) {
            return Err(RecordError::Signature);
        }
        let body = Body::decode(&slot, &payload).ok_or(RecordError::Malformed)?;
        if !body.is_verified(&slot, keys) {
            return Err(RecordError::Signature);
        }
        Ok(Record { slot, body, payload, signature, hash })
    }
}
