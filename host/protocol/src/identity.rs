//! Who a peer is: an Ed25519 key pair.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use skein_types::PeerId;

/// Whether `signature` is the peer's signature of `message`. Strict: signatures are not malleable, and keys of small
/// order never verify.
pub(crate) fn verifies(peer: PeerId, message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&peer.0) else { return false };
    key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

/// A peer's Ed25519 key pair.
pub struct Identity(SigningKey);

impl fmt::Debug for Identity {
    /// Shows the public key, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.id()).finish()
    }
}

impl Identity {
    /// The identity of a secret key.
    pub fn from_secret(secret: [u8; 32]) -> Identity {
        Identity(SigningKey::from_bytes(&secret))
    }

    /// Identity number `index` of a job that runs all its peers in one process.
    ///
    /// It is derived from the seed, so the same job has the same peers. Anyone who knows the seed knows the secret key.
    pub fn derived(seed: u64, index: u32) -> Identity {
        let mut hasher = blake3::Hasher::new_derive_key("skein 2026-11 identity of a peer in one process");
        hasher.update(&seed.to_le_bytes()).update(&index.to_le_bytes());
        Identity::from_secret(*hasher.finalize().as_bytes())
    }

    /// The public key, which names the peer.
    pub fn id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Signs a message that is no record. `purpose` names its kind and format, and is part of what is signed: the
    /// signature counts for no other purpose.
    pub fn sign_for(&self, purpose: &str, message: &[u8]) -> [u8; 64] {
        self.sign(&blake3::derive_key(purpose, message))
    }
}

/// Whether `signature` is what [`Identity::sign_for`] returned for the peer's key, the purpose and the message.
pub fn is_signed_for(peer: PeerId, purpose: &str, message: &[u8], signature: &[u8; 64]) -> bool {
    verifies(peer, &blake3::derive_key(purpose, message), signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_purpose_message_and_key_only() {
        let [own, other] = [0, 1].map(|index| Identity::derived(7, index));
        let signature = own.sign_for("one", b"message");
        assert!(is_signed_for(own.id(), "one", b"message", &signature));
        assert!(!is_signed_for(own.id(), "two", b"message", &signature));
        assert!(!is_signed_for(own.id(), "one", b"massage", &signature));
        assert!(!is_signed_for(other.id(), "one", b"message", &signature));
        assert!(!verifies(own.id(), b"message", &signature), "nor as that of a record");
    }
}
