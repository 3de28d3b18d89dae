//! A trained model on the command line: a job, and a checkpoint of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use skein_job::Job;
use skein_job::Manifest;
use skein_job::identity::differs_in_peers_only;
use skein_peer::checkpoint::{Checkpoint, FILE};
use skein_peer::host::{self, config::Config};
use skein_peer::prepare::PreparedJob;

use super::Host;
use super::train::JobArguments;
use crate::output::Output;

/// A job, by its manifest or by the configuration of one of its hosts, and a checkpoint.
#[derive(clap::Args)]
pub(super) struct TrainedArguments {
    #[command(flatten)]
    job: JobArguments,
    /// A host's configuration, instead of the manifest: the checkpoint must be of the same peers as well
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "peers", "seed", "rounds", "model"])]
    config: Option<PathBuf>,
    /// A checkpoint of the job, or the folder of its run
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
}

/// A prepared job and one of its checkpoints.
pub(super) struct Trained {
    pub(super) manifest: Manifest,
    pub(super) prepared: PreparedJob,
    pub(super) checkpoint: Checkpoint,
}

impl TrainedArguments {
    /// Prepares the job and reads the checkpoint.
    ///
    /// The digest in a checkpoint covers the keys of the peers, which a manifest does not name. A model does not depend on
    /// who trained it: with the manifest alone, everything but the keys must be the same.
    pub(super) async fn load(self, host: &Host, output: &mut Output) -> Result<Trained> {
        let (manifest, prepared) = match &self.config {
            Some(path) => {
                let config = Config::load(path)?;
                let prepared = output.during(&host.status, host::prepare(&config, host.tools())).await;
                (Manifest::load(&config.job)?, prepared?.0)
            }
            None => {
                let manifest = self.job.manifest()?;
                let prepared = output.during(&host.status, PreparedJob::new(&manifest, host.tools())).await;
                (manifest, prepared?)
            }
        };
        let job = &prepared.job;
        let path = if self.checkpoint.is_dir() { self.checkpoint.join(FILE) } else { self.checkpoint };
        let checkpoint = Checkpoint::load(&job.layout, &path);
        let checkpoint = checkpoint.with_context(|| format!("`{}` is not a checkpoint of this job", path.display()))?;
        if self.config.is_none() && differs_in_peers_only(job.digest, checkpoint.job) {
            output.note("the peers of the checkpoint have their own keys; everything else is the same as in the job");
        } else {
            check(job, &checkpoint, &path)?;
        }
        Ok(Trained { manifest, prepared, checkpoint })
    }
}

fn check(job: &Job, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    let found = checkpoint.job;
    let expected = job.digest;
    let path = path.display();
    ensure!(
        !differs_in_peers_only(expected, found),
        "`{path}` is the checkpoint of another roster ({found}, this one is {expected}): pass the configuration of one \
         of its hosts, or the manifest with `--from`"
    );
    ensure!(
        found == expected,
        "`{path}` is the checkpoint of another job ({found}, this one is {expected}): model, data, seed, number of \
         peers, functions and settings must be the same"
    );
    Ok(())
}
