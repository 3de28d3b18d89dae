//! Signing and verifying, apart from what is signed, so that a simulator may use cheaper keys than Ed25519.

use skein_types::PeerId;

use crate::identity::{Identity, verifies};

/// A signature: 64 bytes, as of Ed25519.
pub type Signature = [u8; 64];

/// Checks signatures of any peer.
pub trait Keys {
    /// Whether `signature` is the peer's signature of `message`.
    fn is_signed(&self, peer: PeerId, message: &[u8], signature: &Signature) -> bool;
}

/// Signs as one peer.
pub trait Signer {
    /// The peer whose key it is.
    fn id(&self) -> PeerId;

    /// Its signature of `message`, which is the same whenever the message is.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Ed25519 as in RFC 8032, with the strict verification of `ed25519-dalek`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ed25519;

impl Keys for Ed25519 {
    fn is_signed(&self, peer: PeerId, message: &[u8], signature: &Signature) -> bool {
        verifies(peer, message, signature)
    }
}

impl Signer for Identity {
    fn id(&self) -> PeerId {
        Identity::id(self)
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Identity::sign(self, message)
    }
}
