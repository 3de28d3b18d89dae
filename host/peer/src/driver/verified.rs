//! Records whose signatures were checked, by their hashes: relays, and logs that are read again, show the same ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use skein_protocol::keys::Ed25519;
use skein_protocol::record::{Record, RecordError, Unverified};
use skein_types::Digest;

/// Bytes of the younger half of the records, above which the older half is dropped.
const BYTES_MAX: usize = 8 << 20;

/// The last records that were verified.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<Digest, Arc<Record>>,
    old: HashMap<Digest, Arc<Record>>,
    /// Bytes of the young ones.
    bytes: usize,
}

impl Verified {
    /// The record with this content, which is verified unless an equal one was.
    ///
    /// # Errors
    /// [`RecordError`]. The source of the bytes is to blame.
    pub(super) fn verify(&self, record: Unverified) -> Result<Arc<Record>, RecordError> {
        if let Some(known) = self.get(&record.hash()) {
            return Ok(known);
        }
        let record = Arc::new(record.verify(&Ed25519)?);
        self.insert(&record);
        Ok(record)
    }

    /// Whether a record with this content was verified.
    pub(super) fn has(&self, hash: &Digest) -> bool {
        self.get(hash).is_some()
    }

    fn get(&self, hash: &Digest) -> Option<Arc<Record>> {
        let halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.young.get(hash).or_else(|| halves.old.get(hash)).cloned()
    }

    /// Adds a record that was verified, or signed here.
    pub(super) fn insert(&self, record: &Arc<Record>) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.bytes > BYTES_MAX {
            halves.old = std::mem::take(&mut halves.young);
            halves.bytes = 0;
        }
        halves.bytes += record.len();
        halves.young.insert(record.hash(), record.clone());
    }
}

#[cfg(test)]
mod tests {
    use skein_protocol::identity::Identity;
    use skein_protocol::record::payload::Body;
    use skein_protocol::record::{Kind, Position, Slot, Statement};

    use super::*;

    #[test]
    fn a_record_with_a_false_signature_is_refused_although_another_one_is_known() {
        let me = Identity::derived(1, 0);
        let slot =
            Slot { run: Digest([1; 32]), position: Position::default(), view: 0, kind: Kind::Inquiry, peer: me.id() };
        let signed = |number| Statement { slot, body: Body::Inquiry([number; 16]) }.sign(&me).encode();
        let verified = Verified::default();
        let read = |bytes: &[u8]| verified.verify(Unverified::decode(bytes).expect("a record"));
        let first = read(&signed(1)).expect("signed");
        assert!(Arc::ptr_eq(&first, &read(&signed(1)).expect("known")), "it is not verified again");
        let mut forged = signed(2);
        let signature = forged.len() - 16 - 64;
        forged[signature] ^= 1;
        assert_eq!(read(&forged).err(), Some(RecordError::Signature));
    }
}
