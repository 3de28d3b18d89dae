//! A peer's store in a Redis or Valkey of its own.
//!
//! With Skein's module loaded, averages, rules and optimizer steps run inside of the database; without it the same
//! kernels run here, on values that are fetched and stored again. Either way the bits are those of
//! [`skein_store::Embedded`]. The crate `redis` carries commands, a channel of our own carries tensors without a copy.
//!
//! Everything here may be repeated, and is while the database is out of reach: a batch counts by its index, a round by
//! its number, and what a record says is signed.

pub mod provision;
pub mod queue;
pub mod transport;

mod keys;
mod store;
mod vulnerabilities;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use skein_redis_command::VERSION;
use skein_store::{PeerStore, Ports, StoreError, blocking};
use skein_types::{Digest, PeerId};

use self::keys::Keys;
use self::store::in_database::Module;
use self::store::plain::Plain;
use self::store::reader::{ModuleVersion, Reader};
use self::store::shared::Shared;
use self::transport::Link;
use self::vulnerabilities::{Package, Server};

pub use transport::address::{Address, AddressError};
pub use transport::loading::Startup;
pub use transport::options::{Compute, Options, PASSWORD_VARIABLE};
pub use transport::tls::Tls;

/// How long a database may take to come up at the start; later on [`Options::outage_max`] counts.
const START_WAIT: Duration = Duration::from_secs(5);

/// Whose values, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Digest of the job.
    pub job: Digest,
    /// The peer.
    pub peer: PeerId,
    /// Values of the model.
    pub values: usize,
}

/// Of nobody, for whoever asks a database nothing that is a peer's.
const NOBODY: Scope = Scope { job: Digest([0; 32]), peer: PeerId([0; 32]), values: 0 };

/// Waits until a database of one's own answers, until `wait` is over.
///
/// # Errors
/// It does not, or denies access.
pub fn reach(options: &Options, wait: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
    Box::pin(async move { reached(options, NOBODY, wait).await.map(drop) })
}

async fn reached(options: &Options, scope: Scope, wait: Duration) -> Result<Shared, StoreError> {
    let shared = Shared::new(own(options, scope)?);
    shared.link().reach(wait).await.map_err(|failure| shared.failed(failure, ""))?;
    Ok(shared)
}

/// Asks a server once whether it serves.
///
/// # Errors
/// It does not answer, or denies access.
pub fn startup(options: &Options) -> BoxFuture<'_, Result<Startup, StoreError>> {
    Box::pin(async move {
        // One question, one answer: the caller decides whether to ask again.
        let options = Options { outage_max: Duration::ZERO, ..options.clone() };
        let shared = Shared::new(own(&options, NOBODY)?);
        transport::loading::ask(shared.link()).await.map_err(|failure| shared.failed(failure, ""))
    })
}

/// Opens the own database of a peer.
///
/// # Errors
/// It is out of reach, denies access, has a known security hole, or lacks the module that the options ask for.
pub fn open(options: &Options, scope: Scope) -> BoxFuture<'_, Result<Ports, StoreError>> {
    Box::pin(async move {
        let shared = reached(options, scope, START_WAIT).await?;
        let link = shared.link();
        let info: String = link.control(redis::cmd("INFO").arg("server")).await.map_err(|f| shared.failed(f, ""))?;
        let (is_local, is_tls) = (link.address().is_local(), link.address().is_tls);
        let unfit = |reason: String| StoreError::Unfit { address: link.address().to_string(), reason };
        let hole = blocking(move || {
            Server::parse(&info).hole(is_tls, |program| is_local.then(|| Package::of(program)).flatten())
        });
        if let Some(hole) = hole.await {
            if !options.allow_vulnerable {
                return Err(unfit(format!("{hole}, or set `allow_vulnerable = true`")));
            }
            tracing::warn!(address = %link.address(), hole, "the server has a known security hole");
        }
        let module = shared.reader.module().await.map_err(|failure| shared.failed(failure, ""))?;
        match (module, options.compute) {
            (ModuleVersion::Absent, Compute::Database) => {
                Err(unfit("it does not have Skein's module: start it with `skein redis run`".into()))
            }
            (ModuleVersion::Absent, _) => Ok(Ports::of(Plain::new(shared))),
            (ModuleVersion::Version(_), Compute::Host) => {
                Err(unfit("it has Skein's module, whose tensors a host does not compute on".into()))
            }
            (ModuleVersion::Version(theirs), _) if theirs != u64::from(VERSION) => Err(unfit(format!(
                "the commands of its module have version {theirs}, this program sends version {VERSION}: start it with the \
                 `skein redis run` of this program"
            ))),
            (ModuleVersion::Version(_), _) => Ok(Ports::of(Module::new(shared))),
        }
    })
}

/// Reads what another peer publishes in its database. Nothing is asked of it yet.
///
/// # Errors
/// Files that the options name can not be read.
pub fn read(options: &Options, scope: Scope) -> Result<Arc<dyn PeerStore>, StoreError> {
    Ok(Arc::new(Shared::new(reader(options, scope, None)?)))
}

/// The way to a database of one's own.
fn own(options: &Options, scope: Scope) -> Result<Reader, StoreError> {
    reader(options, scope, std::env::var(PASSWORD_VARIABLE).ok())
}

fn reader(options: &Options, scope: Scope, secret: Option<String>) -> Result<Reader, StoreError> {
    let keys = Keys::new(scope.job, scope.peer);
    let link = Link::new(options, secret, keys.records());
    let link =
        link.map_err(|source| StoreError::Options { address: options.url.to_string(), source: source.into() })?;
    Ok(Reader { link, keys, values_max: scope.values, module: Mutex::default() })
}
