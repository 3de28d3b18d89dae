//! A key of a peer whose name depends on no run and no format: hosts compare there whether they are about to share a run.

use std::time::Duration;

use skein_store::StoreError;
use skein_types::PeerId;

use crate::store::shared::RedisBase;
use crate::transport::options::Options;

/// The greeting of one peer in its database.
pub struct Greeting(pub(crate) RedisBase);

impl Greeting {
    /// The greeting in the peer's own database.
    ///
    /// # Errors
    /// The options cannot be used.
    pub fn own(options: &Options, peer: PeerId) -> Result<Greeting, StoreError> {
        let secret = std::env::var(crate::PASSWORD_VARIABLE).ok();
        Ok(Greeting(RedisBase::new(crate::greeter(options, peer, secret)?)))
    }

    /// The greeting in another peer's database.
    ///
    /// # Errors
    /// The options cannot be used.
    pub fn of(options: &Options, peer: PeerId) -> Result<Greeting, StoreError> {
        // Asked again soon in any case.
        let options = Options { outage_max: Duration::ZERO, ..options.clone() };
        Ok(Greeting(RedisBase::new(crate::greeter(&options, peer, None)?)))
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
