//! A peer's store in the peer's own Redis or Valkey.
//!
//! With Skein's module loaded, averages, rules and optimizer steps run inside the database. Without it, the same
//! kernels run here, on values that are fetched and stored again. Either way the bits are those of
//! [`skein_store::Embedded`]. The crate `redis` carries commands; a separate channel carries tensors without a copy.
//!
//! Every command may be repeated, and is while the database is out of reach: a batch counts by its index, a round by
//! its number, and records are signed.

pub mod provision;
pub mod queue;
pub mod secret;
pub mod transport;

mod greeting;
mod keys;
mod store;
mod vulnerabilities;

// Its own tests share a file with those that use it from outside.
#[cfg(test)]
extern crate self as skein_redis;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use skein_redis_command::VERSION;
use skein_store::{PeerStore, Ports, StoreError, blocking};
use skein_types::{Digest, PeerId};

use self::keys::Keys;
use self::queue::SCOPE_KEY;
use self::store::in_database::Module;
use self::store::plain::Plain;
use self::store::reader::{ModuleVersion, PeerReader};
use self::store::shared::RedisBase;
use self::transport::address::Place;
use self::transport::tls::PinnedCertificate;
use self::transport::{Client, ClientError};
use self::vulnerabilities::{Package, Server};

pub use greeting::Greeting;
pub use keys::FORMAT as KEYS_FORMAT;
pub use transport::address::{Address, AddressError};
pub use transport::invitation::{INVITATION_VERSION, Invitation, InvitationError};
pub use transport::loading::Startup;
pub use transport::options::{Compute, Options, PASSWORD_VARIABLE};
pub use transport::tls::{Tls, TlsError, fingerprint_of};

/// How long a database may be out of reach at the start; later [`Options::outage_max`] applies.
const START_WAIT: Duration = Duration::from_secs(5);

/// The run and the peer that keys belong to, and the size of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The run id, of which the names of keys contain the first digits.
    pub run: Digest,
    /// The peer that owns the keys.
    pub peer: PeerId,
    /// Number of values of the model.
    pub values: usize,
}

/// For clients that use no peer's keys.
const UNSCOPED: Scope = Scope { run: Digest([0; 32]), peer: PeerId([0; 32]), values: 0 };

/// Waits up to `wait` for the peer's own database to answer.
///
/// # Errors
/// The database does not answer, or denies access.
pub fn reach(options: &Options, wait: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
    Box::pin(async move { reached(options, UNSCOPED, wait).await.map(drop) })
}

async fn reached(options: &Options, scope: Scope, wait: Duration) -> Result<RedisBase, StoreError> {
    let shared = RedisBase::new(own(options, scope)?);
    shared.client().reach(wait).await.map_err(|failure| shared.failed(failure, ""))?;
    Ok(shared)
}

/// Asks a server once whether it is ready.
///
/// # Errors
/// The server does not answer, or denies access.
pub fn startup(options: &Options) -> BoxFuture<'_, Result<Startup, StoreError>> {
    Box::pin(async move {
        // Asked once: the caller decides whether to ask again.
        let options = Options { outage_max: Duration::ZERO, ..options.clone() };
        let shared = RedisBase::new(own(&options, UNSCOPED)?);
        transport::loading::ask(shared.client()).await.map_err(|failure| shared.failed(failure, ""))
    })
}

/// Opens a peer's own database.
///
/// # Errors
/// The database is out of reach, denies access, has a known vulnerability, or its module does not fit the options or
/// this program.
pub fn open(options: &Options, scope: Scope) -> BoxFuture<'_, Result<Ports, StoreError>> {
    Box::pin(async move {
        let shared = reached(options, scope, START_WAIT).await?;
        let client = shared.client();
        let info: String = client.control(redis::cmd("INFO").arg("server")).await.map_err(|f| shared.failed(f, ""))?;
        let is_local = client.address().is_local();
        let is_tls = client.address().is_tls;
        let unfit = |reason: String| StoreError::Unfit { address: client.address().to_string(), reason };
        let vulnerability = blocking(move || {
            Server::parse(&info).vulnerability(is_tls, |program| is_local.then(|| Package::of(program)).flatten())
        });
        if let Some(vulnerability) = vulnerability.await {
            if !options.allow_vulnerable {
                return Err(StoreError::Vulnerable { address: client.address().to_string(), reason: vulnerability });
            }
            tracing::warn!(address = %client.address(), vulnerability, "the server has a known vulnerability");
        }
        let module = shared.reader.module().await.map_err(|failure| shared.failed(failure, ""))?;
        match (module, options.compute) {
            (ModuleVersion::Absent, Compute::Database) => {
                Err(unfit("it has not loaded Skein's module: start it with `skein redis run`".into()))
            }
            (ModuleVersion::Absent, _) => {
                refuse_other_format(&shared).await?;
                Ok(Ports::of(Plain::new(shared)))
            }
            (ModuleVersion::Version(_), Compute::Host) => {
                Err(unfit("`compute = \"host\"` needs a database without Skein's module: use `auto`".into()))
            }
            (ModuleVersion::Version(theirs), _) if theirs != u64::from(VERSION) => Err(unfit(format!(
                "the commands of its module have version {theirs}, this program sends version {VERSION}: start it with \
                 this program's `skein redis run`"
            ))),
            (ModuleVersion::Version(_), _) => {
                refuse_other_format(&shared).await?;
                Ok(Ports::of(Module::new(shared)))
            }
        }
    })
}

/// Refuses a database that a host with another format of the keys has used: its run would begin anew, unnoticed.
async fn refuse_other_format(shared: &RedisBase) -> Result<(), StoreError> {
    // The nodes of a cluster share the key, and only one of them has it: no host of a cluster advertises its run.
    if matches!(shared.client().address().place, Place::Cluster { .. }) {
        return Ok(());
    }
    let text: Option<String> = shared.control(redis::cmd("GET").arg(SCOPE_KEY), SCOPE_KEY).await?;
    let Some(theirs) = text.and_then(|text| queue::other_format(&text)) else { return Ok(()) };
    let reason = format!(
        "it holds a run in format {theirs} of the keys, this program uses format {}: finish that run with the program that \
         began it, or use an empty database",
        keys::FORMAT
    );
    Err(StoreError::Unfit { address: shared.client().address().to_string(), reason })
}

/// Returns a reader of another peer's database. It does not connect yet.
///
/// # Errors
/// The options cannot be used: a file cannot be read, or the address and the certificates do not fit.
pub fn read(options: &Options, scope: Scope) -> Result<Arc<dyn PeerStore>, StoreError> {
    Ok(Arc::new(RedisBase::new(reader(options, scope, None)?)))
}

/// Returns a reader of the database that an invitation in the file `path` names, whose owner is the peer of `scope`. It
/// does not connect yet.
///
/// # Errors
/// The address and the certificate do not fit.
pub fn read_invited(invitation: &Invitation, path: &Path, scope: Scope) -> Result<Arc<dyn PeerStore>, StoreError> {
    let client = Client::invited(invitation, pin(invitation, path, scope.peer), Keys::new(scope).records());
    let client = client.map_err(|error| unusable(&invitation.url, error))?;
    Ok(Arc::new(RedisBase::new(reads(client, Keys::new(scope), scope.values))))
}

/// The certificate that an invitation names, for the database of `owner`.
fn pin(invitation: &Invitation, path: &Path, owner: PeerId) -> Option<PinnedCertificate> {
    invitation.certificate.map(|fingerprint| PinnedCertificate { owner, fingerprint, invitation: path.to_owned() })
}

/// A reader of the peer's own database, which may take its password from [`PASSWORD_VARIABLE`].
fn own(options: &Options, scope: Scope) -> Result<PeerReader, StoreError> {
    reader(options, scope, std::env::var(PASSWORD_VARIABLE).ok())
}

fn reader(options: &Options, scope: Scope, secret: Option<String>) -> Result<PeerReader, StoreError> {
    let keys = Keys::new(scope);
    let client = Client::new(options, secret, keys.records());
    let client = client.map_err(|error| unusable(&options.url, error))?;
    Ok(reads(client, keys, scope.values))
}

fn reads(client: Client, keys: Keys, values_max: usize) -> PeerReader {
    PeerReader { client, keys, values_max, module: Mutex::default() }
}

fn unusable(address: &Address, error: ClientError) -> StoreError {
    StoreError::Options { address: address.to_string(), source: error.into() }
}
