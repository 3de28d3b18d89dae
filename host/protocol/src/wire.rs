//! Wire formats: little-endian fields, and what is wrong with bytes that are none.

use skein_types::{Digest, PeerId};

/// Version of the wire format. A program reads the version that it writes.
pub const VERSION: u8 = 4;
/// First bytes that a record of another version may have; anything else is no record of an honest peer.
pub(crate) const VERSIONS: std::ops::RangeInclusive<u8> = 1..=32;

/// Bytes that are read field by field; `None` at their end.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn number(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes).filter(|number| number.is_finite())
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.take().map(Digest)
    }

    pub(crate) fn peer(&mut self) -> Option<PeerId> {
        self.take().map(PeerId)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes what [`Fields`] reads.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer(Vec::with_capacity(256))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn number(&mut self, number: f64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The bytes are not a record of the peer that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a program whose records have another version.
    #[error("the record has version {0}, this program reads version {VERSION}: all peers need programs of one version")]
    Version(u8),
    /// Too short, too long, of an unknown kind, or with a payload that no honest peer writes.
    #[error("the record is malformed")]
    Malformed,
    /// The signature or the payload's hash does not match, or that of a vote inside.
    #[error("the record is not signed by the peer it names")]
    Signature,
}

pub(crate) fn hash_of(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}
