//! A trained model on the command line: a job, and a checkpoint of it.

use std::path::PathBuf;

use anyhow::Result;
use skein_job::{Manifest, Members};
use skein_peer::checkpoint::{Checkpoint, CheckpointFile, FILE, Relation};
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
    /// A manifest does not name the keys of peers on other machines, and a model does not depend on who trained it: with the
    /// manifest alone the job must be the same, with a host's configuration the run too.
    pub(super) async fn load(self, host: &Host, output: &mut Output) -> Result<Trained> {
        let (manifest, prepared) = match &self.config {
            Some(path) => {
                let config = Config::load(path)?;
                let prepared = output.during(&host.status, host::prepare(&config, host.tools())).await;
                (Manifest::load(&config.job)?, prepared?.0)
            }
            None => {
                let manifest = self.job.manifest()?;
                let members = Members::derived(&manifest.train, 0);
                let prepared = output.during(&host.status, PreparedJob::new(&manifest, &members, host.tools())).await;
                (manifest, prepared?)
            }
        };
        let job = &prepared.job;
        let path = if self.checkpoint.is_dir() { self.checkpoint.join(FILE) } else { self.checkpoint };
        let file = CheckpointFile::open(&path)?;
        if self.config.is_some() {
            file.check_run(job, "name the configuration of one of its hosts, or the manifest with `--from`")?;
        } else {
            file.check_job(job, "name the manifest of its run with `--from`")?;
            if let Relation::OtherRun(differences) = file.provenance().relation(job) {
                let keys: Vec<String> = differences.iter().map(|difference| format!("`{}`", difference.key)).collect();
                let keys = keys.join(", ");
                output.note(&format!("the checkpoint is of another run of this job, which differs in {keys}"));
            }
        }
        let checkpoint = file.load(&job.layout)?;
        Ok(Trained { manifest, prepared, checkpoint })
    }
}
