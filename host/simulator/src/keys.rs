//! Keys for the simulator: a signature is a keyed hash, which costs a thousandth of Ed25519. Those who verify know all secrets.

use std::collections::BTreeMap;

use skein_protocol::keys::{Keys, Signature, Signer};
use skein_types::PeerId;

/// The secret of one member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secret {
    id: PeerId,
    key: [u8; 32],
}

impl Secret {
    /// The secret number `index` of a schedule.
    pub(crate) fn derived(seed: u64, index: usize) -> Secret {
        let mut hasher = blake3::Hasher::new_derive_key("skein 2026-11 secret of a simulated member");
        hasher.update(&seed.to_le_bytes()).update(&(index as u64).to_le_bytes());
        let key = *hasher.finalize().as_bytes();
        Secret { id: PeerId(blake3::derive_key("skein 2026-11 identity of a simulated member", &key)), key }
    }
}

impl Signer for Secret {
    fn id(&self) -> PeerId {
        self.id
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(blake3::keyed_hash(&self.key, message).as_bytes());
        signature
    }
}

/// The secrets of all members.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets(BTreeMap<PeerId, Secret>);

impl Secrets {
    /// The secrets of these members.
    pub(crate) fn of(secrets: impl IntoIterator<Item = Secret>) -> Secrets {
        Secrets(secrets.into_iter().map(|secret| (secret.id, secret)).collect())
    }
}

impl Keys for Secrets {
    fn is_signed(&self, peer: PeerId, message: &[u8], signature: &Signature) -> bool {
        self.0.get(&peer).is_some_and(|secret| secret.sign(message) == *signature)
    }
}
