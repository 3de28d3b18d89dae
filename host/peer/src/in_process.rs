//! A job with all its peers in this process: no database, no port.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use skein_job::{Job, PeerData};
use skein_protocol::identity::Identity;
use skein_protocol::pace::PaceOptions;
use skein_store::{Embedded, PeerStore, Ports, blocking};
use skein_types::PeerId;

use crate::checkpoint::{Checkpoint, CheckpointFile, Relation, RunFolder};
use crate::compute::Local;
use crate::driver::log::Log;
use crate::driver::{Exchange, PeerConfig};
use crate::events::Sink;
use crate::lock::lock;
use crate::pool::FunctionPool;
use crate::prepare::PreparedJob;
use crate::report::Summary;
use crate::run::Run;

/// Peers of one process wait for each other however long it takes: none of them can be lost alone.
const TOGETHER: PaceOptions = PaceOptions { silent: None, wait_min: FOREVER, wait_max: FOREVER };
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// Options of a run; none of them changes its result.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder for the manifest, the checkpoints and the metrics.
    pub out: Option<RunFolder>,
    /// Resume from the checkpoint in `out`.
    pub resume: Resume,
    /// End of the error of a run that is shut down: how to continue.
    pub hint: String,
}

/// Whether a run resumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resume {
    /// It starts from the initial values, in a folder without a checkpoint.
    #[default]
    No,
    /// It resumes its own checkpoint.
    Run,
    /// It continues whatever run the checkpoint belongs to, under other settings, as a new run. The checkpoint that it
    /// continues from is kept.
    WithChanges,
}

/// Runs a job with all its peers in this process, to its end or until `shutdown` completes.
///
/// # Errors
/// A function failed, the peers are out of step, a file cannot be written, or the run was shut down. The last
/// checkpoint stays.
pub fn train<'a>(
    prepared: PreparedJob,
    pool: Arc<FunctionPool>,
    options: Options,
    events: &'a mut Sink<'a>,
    shutdown: BoxFuture<'a, ()>,
) -> BoxFuture<'a, Result<Summary>> {
    Box::pin(async move {
        // Held to the end: two runs in one folder would overwrite each other's checkpoints.
        let _lock = match options.out.as_ref().map(|folder| folder.dir.clone()) {
            Some(dir) => blocking(move || hold(&dir, options.resume)).await?,
            None => None,
        };
        let (prepared, start) = starting_point(prepared, &options)?;
        let stores = new_stores(&prepared.job, &start).await?;
        let exchange = Arc::new(Exchange::default());
        let peers = prepared.job.shares.values();
        let peers = peers.map(|share| peer(&prepared, &pool, share, &stores, &start, &exchange)).collect();
        let run = Run { prepared, pool, peers, start, out: options.out, hint: options.hint, strangers: None };
        run.run(events, shutdown).await
    })
}

/// The peer of `share`, which reads the stores of the others.
fn peer(
    prepared: &PreparedJob,
    pool: &Arc<FunctionPool>,
    share: &PeerData,
    stores: &BTreeMap<PeerId, Embedded>,
    start: &Checkpoint,
    exchange: &Arc<Exchange>,
) -> PeerConfig {
    let identity = Identity::derived(prepared.job.train.seed, share.index);
    let others = stores.iter().filter(|(peer, _)| **peer != identity.id());
    let others = others.map(|(peer, store)| (*peer, Arc::new(store.clone()) as Arc<dyn PeerStore>)).collect();
    let store = Ports::of(stores[&identity.id()].clone());
    let compute = Arc::new(Local::new(prepared, pool, &store, share));
    let (log, start, exchange) = (Log::volatile(), start.clone(), Some(exchange.clone()));
    PeerConfig { identity, store, compute, others, log, start, pace: TOGETHER, exchange }
}

/// Locks the folder of the run, which is created for a new one.
fn hold(dir: &Path, resume: Resume) -> Result<Option<File>> {
    if resume == Resume::No {
        std::fs::create_dir_all(dir).with_context(|| format!("failed to create the folder `{}`", dir.display()))?;
    } else if !dir.exists() {
        // It has no checkpoint to resume either, which is the better error.
        return Ok(None);
    }
    let locked = lock(dir).with_context(|| format!("failed to open the folder `{}`", dir.display()))?;
    if locked.is_none() {
        bail!("another process trains in `{}`: wait for it to end, or choose another folder", dir.display());
    }
    Ok(locked)
}

/// The state before the first round, or the checkpoint's; and the job as part of the run that begins there.
fn starting_point(prepared: PreparedJob, options: &Options) -> Result<(PreparedJob, Checkpoint)> {
    let path = options.out.as_ref().map(RunFolder::last);
    if options.resume == Resume::No {
        if let Some(path) = path.filter(|path| path.exists()) {
            bail!("`{}` already exists: continue with `--resume`, or choose another folder", path.display());
        }
        let start = Checkpoint::initial(&prepared.job);
        return Ok((prepared, start));
    }
    let folder = options.out.as_ref().context("`--resume` needs the folder of the run: set `--out`")?;
    let file = CheckpointFile::open(&folder.last())?;
    if let (Resume::WithChanges, Relation::OtherRun(_) | Relation::OtherJob(_)) =
        (options.resume, file.provenance().relation(&prepared.job))
    {
        return continue_with_changes(prepared, file, folder);
    }
    file.check_run(&prepared.job, "undo the change, or continue it as a new run with `--with-changes`")?;
    let start = file.load(&prepared.job.layout)?;
    let prepared = match start.provenance.lineage.last() {
        Some(ancestor) => prepared.continuing(ancestor),
        None => prepared,
    };
    Ok((prepared, start))
}

/// Begins a run under other settings from a checkpoint of another run, which is kept.
fn continue_with_changes(
    prepared: PreparedJob,
    file: CheckpointFile,
    folder: &RunFolder,
) -> Result<(PreparedJob, Checkpoint)> {
    let round = file.round();
    let rounds = prepared.job.train.rounds;
    ensure!(
        round < rounds,
        "`{}` is of round {round}, and `train.rounds` is {rounds}, which counts from the beginning of the first run: \
         choose more than {round}",
        folder.last().display()
    );
    let before = file.load(&prepared.job.layout).context("`--with-changes` keeps the parameters")?;
    folder.keep_as_ancestor(before.as_ancestor().run)?;
    let start = before.continued(&prepared.job);
    Ok((prepared.continuing(&before.as_ancestor()), start))
}

async fn new_stores(job: &Job, checkpoint: &Checkpoint) -> Result<BTreeMap<PeerId, Embedded>> {
    let mut stores = BTreeMap::new();
    for peer in job.shares.keys() {
        let store = Embedded::default();
        checkpoint.restore(&store).await?;
        stores.insert(*peer, store);
    }
    Ok(stores)
}
