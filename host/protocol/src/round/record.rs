//! Signed records: a header ties the payload to the run, the round, the state and the peer's previous record.
//!
//! Wire format, little endian: version (1 byte), run (32), round (8), peer (32), kind (1), state (32), previous (32),
//! payload hash (32), signature (64), payload (the rest). The signature covers a domain string and everything
//! before it. Two different records of one peer for one run, round and kind are proof that it equivocates.

use skein_types::Digest;
use skein_types::PeerId;

use crate::identity::{Identity, verifies};

/// Largest payload, in bytes: a vote over a thousand peers fits.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 16;

/// Version of the wire format. A program reads the version that it writes.
pub const VERSION: u8 = 2;
/// First bytes that a record of another version may have; anything else is no record of an honest peer.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=32;

const DOMAIN: &[u8] = b"skein record\0";
const HEADER_BYTES: usize = 1 + 32 + 8 + 32 + 1 + 32 + 32 + 32;
const SIGNATURE_BYTES: usize = 64;
/// Largest record, in bytes.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + SIGNATURE_BYTES + PAYLOAD_BYTES_MAX;

/// Kind of a record; a peer signs at most one of each in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The contribution that the peer has ready.
    Announcement,
    /// The contributions that the peer holds, and the peers that it accuses.
    Vote,
    /// The hash of the peer's state after the round.
    Check,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Announcement => 1,
            Kind::Vote => 2,
            Kind::Check => 3,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        [Kind::Announcement, Kind::Vote, Kind::Check].into_iter().find(|kind| kind.code() == code)
    }
}

/// Where a record belongs and what it builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The run id: a peer accepts no record of another run.
    pub run: Digest,
    /// Number of the round, from 1.
    pub round: u64,
    /// The peer that signs.
    pub peer: PeerId,
    /// Kind of the payload.
    pub kind: Kind,
    /// Hash of the state that the round builds on.
    pub state: Digest,
    /// Hash of the peer's previous record, zero for its first.
    pub previous: Digest,
}

/// A record whose signature was checked, or that this peer signed itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    header: Header,
    payload: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

/// The bytes are not a record of the peer that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a program whose records have another version.
    #[error("the record has version {0}, this program reads version {VERSION}: all peers need programs of one version")]
    Version(u8),
    /// Too short, too long, or of an unknown kind.
    #[error("the record is malformed")]
    Malformed,
    /// The signature or the payload's hash does not match.
    #[error("the record is not signed by the peer it names")]
    Signature,
}

impl Record {
    /// Signs `payload`; the header's peer is set to the signer.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`].
    pub fn sign(identity: &Identity, header: Header, payload: Vec<u8>) -> Record {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
        let header = Header { peer: identity.id(), ..header };
        let signature = identity.sign(&message(&header, &payload));
        Record { header, payload, signature }
    }

    /// The header that was signed.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The encoded payload; see [`crate::round::announcement`].
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Hash of what was signed: the next record's `previous`.
    pub fn hash(&self) -> Digest {
        Digest(*blake3::hash(&message(&self.header, &self.payload)).as_bytes())
    }

    /// Encodes the record in the wire format.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = encode_header(&self.header, &self.payload);
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Reads the wire format and checks the signature.
    ///
    /// # Errors
    /// [`RecordError`]. The source of the bytes is to blame, not necessarily the peer that they name.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut fields = Fields(bytes);
        let [version] = fields.take()?;
        if version != VERSION {
            let is_other = VERSIONS.contains(&version);
            return Err(if is_other { RecordError::Version(version) } else { RecordError::Malformed });
        }
        let header = Header {
            run: Digest(fields.take()?),
            round: u64::from_le_bytes(fields.take()?),
            peer: PeerId(fields.take()?),
            kind: Kind::from_code(fields.take::<1>()?[0]).ok_or(RecordError::Malformed)?,
            state: Digest(fields.take()?),
            previous: Digest(fields.take()?),
        };
        let payload_hash: [u8; 32] = fields.take()?;
        let signature = fields.take()?;
        let payload = fields.0;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(RecordError::Malformed);
        }
        let message = message(&header, payload);
        if *blake3::hash(payload).as_bytes() != payload_hash || !verifies(header.peer, &message, &signature) {
            return Err(RecordError::Signature);
        }
        Ok(Record { header, payload: payload.to_vec(), signature })
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(RecordError::Malformed)?;
        self.0 = rest;
        Ok(*field)
    }
}

fn encode_header(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + SIGNATURE_BYTES + payload.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&header.run.0);
    bytes.extend_from_slice(&header.round.to_le_bytes());
    bytes.extend_from_slice(&header.peer.0);
    bytes.push(header.kind.code());
    bytes.extend_from_slice(&header.state.0);
    bytes.extend_from_slice(&header.previous.0);
    bytes.extend_from_slice(blake3::hash(payload).as_bytes());
    bytes
}

fn message(header: &Header, payload: &[u8]) -> Vec<u8> {
    [DOMAIN, &encode_header(header, payload)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(payload: Vec<u8>, round: u64) -> Record {
        let identity = Identity::derived(1, 2);
        let header = Header {
            run: Digest([3; 32]),
            round,
            peer: identity.id(),
            kind: Kind::Vote,
            state: Digest([4; 32]),
            previous: Digest([5; 32]),
        };
        Record::sign(&identity, header, payload)
    }

    proptest! {
        #[test]
        fn encoding_round_trips(payload in prop::collection::vec(any::<u8>(), 0..200), round: u64) {
            let record = record(payload, round);
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Record::decode(&bytes).is_err());
        }

        #[test]
        fn one_flipped_bit_anywhere_is_noticed(at in 0usize..(HEADER_BYTES + 64 + 20) * 8) {
            let mut bytes = record(vec![7; 20], 9).encode();
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(Record::decode(&bytes).is_err());
        }

        #[test]
        fn truncation_is_noticed(keep in 0usize..HEADER_BYTES + 64 + 20) {
            prop_assert!(Record::decode(&record(vec![7; 20], 9).encode()[..keep]).is_err());
        }
    }

    #[test]
    fn a_record_of_another_version_is_refused_with_both() {
        let mut bytes = record(vec![7; 20], 9).encode();
        bytes[0] = 3;
        let error = Record::decode(&bytes).expect_err("another version");
        assert_eq!(error, RecordError::Version(3));
        assert!(error.to_string().contains("has version 3, this program reads version 2"), "{error}");
    }

    #[test]
    fn a_payload_beyond_the_bound_is_refused() {
        let mut bytes = record(vec![], 1).encode();
        bytes.resize(bytes.len() + PAYLOAD_BYTES_MAX + 1, 0);
        assert_eq!(Record::decode(&bytes), Err(RecordError::Malformed));
    }
}
