//! A key of a peer whose name depends on no run and no format: hosts compare there whether they are about to share a run.

use std::path::Path;
use std::time::Duration;

use skein_store::StoreError;
use skein_types::PeerId;

use crate::keys::Keys;
use crate::store::shared::RedisBase;
use crate::transport::Client;
use crate::transport::invitation::Invitation;
use crate::transport::options::Options;

/// The greeting of one peer in its database.
pub struct Greeting(RedisBase);

impl Greeting {
    /// The greeting in the peer's own database.
    ///
    /// # Errors
    /// The options cannot be used.
    pub fn own(options: &Options, peer: PeerId) -> Result<Greeting, StoreError> {
        greeting(options, peer, std::env::var(crate::PASSWORD_VARIABLE).ok())
    }

    /// The greeting in another peer's database.
    ///
    /// # Errors
    /// The options cannot be used.
    pub fn of(options: &Options, peer: PeerId) -> Result<Greeting, StoreError> {
        // Asked again soon in any case.
        let options = Options { outage_max: Duration::ZERO, ..options.clone() };
        greeting(&options, peer, None)
    }

    /// The greeting in the database that an invitation in the file `path` names.
    ///
    /// # Errors
    /// The address and the certificate do not fit.
    pub fn invited(invitation: &Invitation, path: &Path, peer: PeerId) -> Result<Greeting, StoreError> {
        let keys = Keys::of_every_run(peer);
        let client = Client::invited(invitation, crate::pin(invitation, path, peer), keys.records());
        let client = client.map_err(|error| crate::unusable(&invitation.url, error))?;
        Ok(Greeting(RedisBase::new(crate::reads(client, keys, 0))))
    }

    /// Replaces what the peer says.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn say(&self, text: String) -> Result<(), StoreError> {
        let key = self.0.keys().greeting();
        self.0.control(redis::cmd("SET").arg(&key).arg(text), &key).await
    }

    /// What the peer says; `None` if it says nothing.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn hear(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.0.keys().greeting();
        self.0.reader.bytes(&key).await.map_err(|failure| self.0.failed(failure, &key))
    }
}

fn greeting(options: &Options, peer: PeerId, secret: Option<String>) -> Result<Greeting, StoreError> {
    let keys = Keys::of_every_run(peer);
    let client = Client::new(options, secret, keys.records());
    let client = client.map_err(|error| crate::unusable(&options.url, error))?;
    Ok(Greeting(RedisBase::new(crate::reads(client, keys, 0))))
}
