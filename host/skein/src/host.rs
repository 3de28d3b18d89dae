//! One peer of a job as a process of its own, with its own database: `skein host`.

pub mod config;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use skein_store::redis::queue::{Consumer, Queue, Role};
use skein_store::redis::{self, Scope};
use skein_store::{Head, Published, Store, StoreError};
use skein_workflow::identity::PeerId;
use tokio::sync::watch;

use self::config::Config;
use crate::checkpoint::{self, Checkpoint, decode_progress, hash_of};
use crate::job::{Job, Tools};
use crate::manifest::Manifest;
use crate::output::Output;
use crate::peer::Seat;
use crate::peer::log::Log;
use crate::report::Summary;
use crate::session::Run;
use crate::worker::desk::Desk;
use crate::worker::package::Package;
use crate::worker::{self, Worker};
use crate::workers::Workers;

/// Makes the job ready that a configuration names, for the peers of its roster.
///
/// # Errors
/// The manifest, the data or the roster does not fit.
pub async fn prepare(config: &Config, tools: Tools<'_>) -> Result<(Arc<Job>, Package)> {
    let manifest = Manifest::load(&config.job)?;
    let roster: Vec<PeerId> = config.roster.iter().map(|member| member.id).collect();
    ensure!(
        roster.len() == manifest.train.peers as usize,
        "the roster has {} peers where `{}` asks for {}",
        roster.len(),
        config.job.display(),
        manifest.train.peers
    );
    let job = Job::prepare_for(&manifest, &roster, tools).await?;
    let package = Package::new(&manifest, &job)?;
    Ok((Arc::new(job), package))
}

/// Runs the peer to the end of the job, from wherever it was ended before.
///
/// # Errors
/// A database can not be used, a function failed, or the peers are out of step.
pub async fn run(
    config: &Config,
    (job, package): (Arc<Job>, Package),
    workers: Arc<Workers>,
    output: &mut Output,
) -> Result<Summary> {
    let identity = config.identity.load(job.train.seed)?;
    let me = identity.id();
    ensure!(job.shares.contains_key(&me), "the roster does not have this peer: add a member with the id `{me}`");
    let saved = saved(config, &job)?;
    // The folder is locked from here on.
    let log = Log::open(&config.dir, me, job.digest, saved.as_ref().map_or(0, |saved| saved.state.round()))?;
    let scope = |peer: PeerId| Scope { job: job.digest, peer: peer.0, values: job.layout.len() };
    let mut others: BTreeMap<PeerId, Arc<dyn Published>> = BTreeMap::new();
    for member in config.roster.iter().filter(|member| member.id != me) {
        let store = member.store.as_ref();
        let store = store.with_context(|| format!("peer {:?} of the roster has no `store`", member.id))?;
        others.insert(member.id, redis::read(store, scope(member.id))?);
    }
    let store = redis::open(&config.store, scope(me)).await?;
    let start = settle(&*store, saved, &job).await?;
    output.note(&format!(
        "peer {me:?} of {}: round {}, {} parameters, {}",
        job.shares.len(),
        start.state.round(),
        job.layout.len(),
        if store.aggregates() { "computing in the database" } else { "computing in the host" }
    ));
    let desk = Desk::new(Queue::open(&config.store, scope(me)).await?, scope(me), package);
    desk.open().await?;
    let worker = Worker {
        workers: workers.clone(),
        gradient: job.gradient.clone(),
        layout: job.layout.clone(),
        store: store.clone(),
        consumer: Consumer::join(&config.store, scope(me), worker::place(Role::Host)?).await?,
    };
    let (stop, stopped) = watch::channel(false);
    let hint = ": start it again to go on".to_owned();
    let seats = vec![Seat { identity, store, desk: Some(desk), others, log }];
    let run = Run { job, workers, seats, start, out: Some(config.dir.clone()), hint };
    let run = async {
        let summary = run.to_end(output).await;
        // Its worker may be in the middle of a task that nobody waits for.
        stop.send_replace(true);
        summary
    };
    let work = async { worker.run(stopped).await.context("the host's own worker failed") };
    let (summary, _) = tokio::try_join!(run, work)?;
    Ok(summary)
}

/// The checkpoint in the peer's folder, if there is one.
fn saved(config: &Config, job: &Job) -> Result<Option<Checkpoint>> {
    let path = config.dir.join(checkpoint::FILE);
    let saved = if path.exists() { Some(Checkpoint::load(&job.layout, &path)?) } else { None };
    if let Some(other) = saved.as_ref().filter(|saved| saved.job != job.digest) {
        bail!(
            "`{}` is the checkpoint of another job ({}, this one is {}): choose another `dir`",
            path.display(),
            other.job,
            job.digest
        );
    }
    Ok(saved)
}

/// Finds out where the peer goes on: from the state of its database, or from the checkpoint if that is ahead of it.
async fn settle(store: &dyn Store, saved: Option<Checkpoint>, job: &Job) -> Result<Checkpoint> {
    let saved = saved.unwrap_or_else(|| Checkpoint::initial(job));
    let (head, note) = match store.head().await {
        Ok(head) => {
            let note = store.recall(head.round).await?;
            (head, note)
        }
        Err(StoreError::NoState | StoreError::Spoilt { .. }) => {
            saved.restore(store).await?;
            return Ok(saved);
        }
        Err(error) => return Err(error.into()),
    };
    match note {
        Some(note) if is_whole(&head, &saved) => {
            let state = store.state().await?;
            Ok(Checkpoint { job: job.digest, state, progress: decode_progress(&note)? })
        }
        _ => {
            tracing::warn!(
                database = head.round,
                checkpoint = saved.state.round(),
                "the database is behind: restoring it"
            );
            saved.restore(store).await?;
            Ok(saved)
        }
    }
}

/// Whether what the database holds is at least as far as the checkpoint, and no other state of the same round.
fn is_whole(head: &Head, saved: &Checkpoint) -> bool {
    head.round > saved.state.round() || hash_of(head) == saved.state_hash()
}
