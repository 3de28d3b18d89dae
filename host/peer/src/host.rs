//! One peer of a job in its own process, with its own database: `skein host`.

pub mod config;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use skein_job::manifest::WaitBounds;
use skein_job::{Job, Manifest, Members};
use skein_protocol::pace::PaceOptions;
use skein_protocol::record::Position;
use skein_redis::queue::{Consumer, Queue, Role};
use skein_redis::{Greeting, Invitation, Options, Scope};
use skein_store::{PeerStore, StateDigests, StateStore, StoreError, blocking};
use skein_types::{PeerId, counted};
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use self::config::{Config, Member};
use crate::bundle::JobBundle;
use crate::checkpoint::{self, Checkpoint, CheckpointFile, RunFolder, decode_metadata, hash_of};
use crate::compute::{Compute, Queued};
use crate::driver::PeerConfig;
use crate::driver::log::Log;
use crate::events::{Event, Sink};
use crate::greeting::Greetings;
use crate::pool::FunctionPool;
use crate::prepare::{PreparedJob, Tools};
use crate::report::Summary;
use crate::run::Run;
use crate::worker::{self, QueueWorker};

/// The manifest that a configuration names, and the peers of its roster.
///
/// # Errors
/// The manifest cannot be read, or asks for another number of peers.
pub fn job(config: &Config) -> Result<(Manifest, Members)> {
    let manifest = Manifest::load(&config.job)?;
    let peers: Vec<PeerId> = config.roster.iter().map(|member| member.id).collect();
    ensure!(
        peers.len() == manifest.train.peers as usize,
        "the roster has {}, but the job `{}` asks for {}",
        counted(peers.len(), "peer"),
        config.job.display(),
        manifest.train.peers
    );
    Ok((manifest, Members { peers, run: config.run }))
}

/// A job that a host can run.
pub struct HostedJob {
    /// The job, with its functions and graphs.
    pub prepared: PreparedJob,
    /// What the workers of the peer load.
    pub bundle: JobBundle,
}

/// Prepares the job that a configuration names, for the peers of its roster.
///
/// # Errors
/// The manifest, the data or the roster does not fit.
pub fn prepare<'a>(config: &'a Config, tools: Tools<'a>) -> BoxFuture<'a, Result<HostedJob>> {
    Box::pin(async move {
        let (manifest, members) = job(config)?;
        let tools = Tools { ceilings: config.ceilings, ..tools };
        let prepared = PreparedJob::new(&manifest, &members, tools).await?;
        let identity = config.identity.load(prepared.job.train.seed)?;
        let bundle = JobBundle::new(&manifest, &prepared.job, config.ceilings, &identity)?;
        Ok(HostedJob { prepared, bundle })
    })
}

/// Runs the peer from where it was stopped to the end of the job, or until `shutdown` completes.
///
/// # Errors
/// A database cannot be used, a function failed, the peers are out of step, or the run was shut down.
pub fn run<'a>(
    config: &'a Config,
    hosted: HostedJob,
    pool: Arc<FunctionPool>,
    events: &'a mut Sink<'a>,
    mut shutdown: BoxFuture<'a, ()>,
) -> BoxFuture<'a, Result<Summary>> {
    Box::pin(async move {
        let HostedJob { prepared, bundle } = hosted;
        let opened = tokio::select! {
            biased;
            () = &mut shutdown => bail!("interrupted while it opened its database{HINT}"),
            opened = open(config, &prepared, bundle, &pool) => opened?,
        };
        let Opened { peer, start, worker, greetings } = opened;
        let me = peer.identity.id();
        let job = prepared.job.clone();
        events(Event::Started {
            job: job.digest,
            run: job.run_id,
            peer: me,
            peers: job.shares.len(),
            round: start.state.round(),
            parameters: job.layout.len(),
            in_database: peer.store.state.aggregates(),
        });
        let (stop, stopped) = watch::channel(false);
        // The copy in the run's folder must not depend on where the host was started.
        let manifest = toml::to_string(&Manifest::load(&std::path::absolute(&config.job)?)?)?;
        let out = Some(RunFolder { dir: config.dir.clone(), keep: config.checkpoint.keep, manifest });
        let (found, strangers) = mpsc::unbounded_channel();
        let strangers = Some(strangers);
        let run = Run { prepared, pool, peers: vec![peer], start, out, hint: HINT.to_owned(), strangers };
        let run = async {
            let summary = run.run(events, shutdown).await;
            // Its worker may be in the middle of a task that the run no longer waits for.
            stop.send_replace(true);
            summary
        };
        let span = tracing::debug_span!("worker", job = %job.run_id, peer = ?me);
        let work = async { worker.run(stopped).instrument(span).await.context("the host's own worker failed") };
        let both = async { tokio::try_join!(run, work) };
        tokio::select! {
            biased;
            ended = both => Ok(ended?.0),
            refused = greetings.keep_up(found) => match refused? {},
        }
    })
}

/// How to continue after a host was shut down.
const HINT: &str = ": start it again to continue";

/// The parts of a host once its database is open.
struct Opened {
    peer: PeerConfig,
    /// State from which the peer continues.
    start: Checkpoint,
    worker: QueueWorker,
    greetings: Greetings,
}

/// Opens the peer's folder, its database and those of the others.
async fn open(config: &Config, prepared: &PreparedJob, bundle: JobBundle, pool: &Arc<FunctionPool>) -> Result<Opened> {
    let job = &prepared.job;
    let identity = config.identity.load(job.train.seed)?;
    let me = identity.id();
    let share = job.shares.get(&me);
    let share =
        share.with_context(|| format!("the roster does not have this peer: add a member with the id `{me}`"))?;
    let saved = saved(config, job)?;
    let scope = |peer: PeerId| Scope { run: job.run_id, peer, values: job.layout.len() };
    let others = others(config, me)?;
    let stores = others.iter().map(|(peer, access)| Ok((*peer, access.read(scope(*peer))?)));
    let stores = stores.collect::<Result<BTreeMap<_, _>, StoreError>>()?;
    let greetings = others.iter().map(|(peer, access)| Ok((*peer, access.greeting(*peer)?)));
    let greetings = greetings.collect::<Result<BTreeMap<_, _>, StoreError>>()?;
    tracing::debug!(address = %config.store.url, "opens its database");
    let store = skein_redis::open(&config.store, scope(me)).await?;
    let mut greetings = Greetings::new(job, Greeting::own(&config.store, me)?, greetings);
    greetings.open().await?;
    // Not before: a log that was begun for another run could not be used once the manifest is mended. The folder is locked
    // from here on, which may take a moment.
    let checkpointed = saved.as_ref().map_or(Position::default(), |saved| saved.position);
    let dir = config.dir.clone();
    let run = job.run_id;
    let log = blocking(move || Log::open(&dir, me, run, checkpointed)).await?;
    let start = reconcile(&*store.state, saved, job).await?;
    let queue = Queue::open(&config.store, scope(me)).await?;
    let compute =
        Queued { queue, scope: scope(me), bundle, dataset: share.dataset.clone(), state: store.state.clone() };
    compute.open().await?;
    let worker = QueueWorker {
        pool: pool.clone(),
        gradient: prepared.gradient.clone(),
        layout: job.layout.clone(),
        batch_size: job.train.batch_size,
        store: store.clone(),
        consumer: Consumer::join(&config.store, scope(me), worker::place(Role::Host)?).await?,
    };
    let WaitBounds { min, max, silent } = config.wait.unwrap_or(job.train.wait);
    let peer = PeerConfig {
        identity,
        store,
        compute: Arc::new(compute),
        others: stores,
        log,
        start: start.clone(),
        pace: PaceOptions { silent: Some(silent), wait_min: min, wait_max: max },
        exchange: None,
    };
    Ok(Opened { peer, start, worker, greetings })
}

/// The databases of the other peers, which the peer `me` reads.
fn others(config: &Config, me: PeerId) -> Result<BTreeMap<PeerId, Access>> {
    let members = config.roster.iter().filter(|member| member.id != me);
    members.map(|member| Ok((member.id, Access::of(member, me)?))).collect()
}

/// How the database of another peer is read.
enum Access {
    Store(Options),
    Invited(Box<Invitation>, PathBuf),
}

impl Access {
    fn of(member: &Member, me: PeerId) -> Result<Access> {
        match (&member.store, &member.invitation) {
            (Some(store), _) => Ok(Access::Store(store.clone())),
            (None, Some(path)) => {
                let invitation = Invitation::load(path)?;
                ensure!(
                    invitation.reader == me,
                    "the invitation `{}` is for peer {}, and this host is {me}: ask its owner for one of your own",
                    path.display(),
                    invitation.reader
                );
                Ok(Access::Invited(Box::new(invitation), path.clone()))
            }
            (None, None) => {
                bail!(
                    "peer {:?} of the roster has no `store` and no `invitation`: ask its owner for an invitation",
                    member.id
                )
            }
        }
    }

    fn read(&self, scope: Scope) -> Result<Arc<dyn PeerStore>, StoreError> {
        match self {
            Access::Store(options) => skein_redis::read(options, scope),
            Access::Invited(invitation, path) => skein_redis::read_invited(invitation, path, scope),
        }
    }

    fn greeting(&self, peer: PeerId) -> Result<Greeting, StoreError> {
        match self {
            Access::Store(options) => Greeting::of(options, peer),
            Access::Invited(invitation, path) => Greeting::invited(invitation, path, peer),
        }
    }
}

/// The checkpoint in the peer's folder, if one exists.
fn saved(config: &Config, job: &Job) -> Result<Option<Checkpoint>> {
    let path = config.dir.join(checkpoint::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let file = CheckpointFile::open(&path)?;
    file.check_run(job, "undo the change, or choose another `dir`")?;
    // The other hosts would not know what this run continues.
    ensure!(
        file.provenance().lineage.is_empty(),
        "`{}` is of a run that continues another one: only `skein train --resume` can resume it; choose another `dir`",
        path.display()
    );
    Ok(Some(file.load(&job.layout)?))
}

/// Whether the database is ahead of the checkpoint, or holds the same state.
fn is_current(position: Position, digests: &StateDigests, saved: &Checkpoint) -> bool {
    position > saved.position || (position == saved.position && hash_of(digests) == saved.state_hash())
}

/// Decides where the peer continues: from the state of its database, or from the checkpoint if that is ahead of it.
async fn reconcile(store: &dyn StateStore, saved: Option<Checkpoint>, job: &Job) -> Result<Checkpoint> {
    let saved = saved.unwrap_or_else(|| Checkpoint::initial(job));
    let (digests, metadata) = match store.digests().await {
        Ok(digests) => {
            let metadata = store.round_metadata(digests.round).await?;
            (digests, metadata)
        }
        Err(StoreError::NoState | StoreError::Corrupt { .. }) => {
            saved.restore(store).await?;
            return Ok(saved);
        }
        Err(error) => return Err(error.into()),
    };
    let metadata = metadata.and_then(|metadata| decode_metadata(&metadata, digests.round));
    match metadata {
        Some((position, standing)) if is_current(position, &digests, &saved) => {
            let state = store.state().await?;
            Ok(Checkpoint { provenance: saved.provenance, state, position, standing })
        }
        _ => {
            tracing::warn!(
                database = digests.round,
                checkpoint = saved.state.round(),
                "the database does not have the state on disk or a later one: restoring it"
            );
            saved.restore(store).await?;
            Ok(saved)
        }
    }
}
