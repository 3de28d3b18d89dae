//! The hash by which peers check that they are in step.

use skein_types::Digest;

/// BLAKE3 over the round's number and the hashes of the parameters and of every vector of optimizer state.
///
/// Its inputs are hashes, so values are hashed where they are stored, in a database too.
pub fn state_hash(round: u64, parameters: Digest, slots: &[Digest]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("skein 2026-11 state of a job");
    hasher.update(&round.to_le_bytes()).update(&parameters.0);
    for slot in slots {
        hasher.update(&slot.0);
    }
    Digest(*hasher.finalize().as_bytes())
}
