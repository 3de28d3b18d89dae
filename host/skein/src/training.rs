//! A job with all its peers in this process: no database, no port.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use skein_store::{Embedded, Published};
use skein_workflow::identity::{Identity, PeerId};

use crate::checkpoint::{self, Checkpoint};
use crate::job::{Job, Share};
use crate::output::Output;
use crate::peer::Seat;
use crate::peer::log::Log;
use crate::report::Summary;
use crate::session::Run;
use crate::workers::Workers;

/// How a run is carried out; nothing here changes its result.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder for the checkpoint and the metrics.
    pub out: Option<PathBuf>,
    /// Go on from the checkpoint in `out`.
    pub resume: bool,
}

/// Runs a job to its end, all its peers in this process.
///
/// # Errors
/// A function failed, the peers are out of step, or a file can not be written. The last checkpoint stays.
pub async fn train(job: Arc<Job>, workers: Arc<Workers>, options: Options, output: &mut Output) -> Result<Summary> {
    let start = starting_point(&job, &options)?;
    let stores = new_stores(&job, &start).await?;
    let seat = |share: &Share| {
        let identity = Identity::derived(job.train.seed, share.index);
        let others = stores.iter().filter(|(peer, _)| **peer != identity.id());
        let others = others.map(|(peer, store)| (*peer, Arc::new(store.clone()) as Arc<dyn Published>)).collect();
        Seat { store: Arc::new(stores[&identity.id()].clone()), identity, desk: None, others, log: Log::volatile() }
    };
    let seats = job.shares.values().map(seat).collect();
    let hint = options.out.as_ref().map(|dir| format!(": go on with `--resume --out {}`", dir.display()));
    Run { job, workers, seats, start, out: options.out, hint: hint.unwrap_or_default() }.to_end(output).await
}

/// The state before the first round, or the checkpoint's.
fn starting_point(job: &Job, options: &Options) -> Result<Checkpoint> {
    let path = options.out.as_ref().map(|dir| dir.join(checkpoint::FILE));
    if !options.resume {
        if let Some(path) = path.filter(|path| path.exists()) {
            bail!("`{}` is there already: go on with `--resume`, or choose another folder", path.display());
        }
        return Ok(Checkpoint::initial(job));
    }
    let path = path.context("`--resume` needs the folder of the run: set `--out`")?;
    let checkpoint = Checkpoint::load(&job.layout, &path)?;
    ensure!(
        checkpoint.job == job.digest,
        "`{}` is the checkpoint of another job ({}, this one is {}): seed, peers, data, functions and settings have \
         to be the same",
        path.display(),
        checkpoint.job,
        job.digest
    );
    Ok(checkpoint)
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
