//! A trained model on the command line: a job, and a checkpoint of it.

use std::path::PathBuf;

use anyhow::Result;
use skein_job::{Job, Manifest, Members};
use skein_peer::checkpoint::{Checkpoint, CheckpointFile, FILE, Relation};
use skein_peer::host::{self, config::Config};

use super::job::JobArguments;
use crate::output::Output;

/// A job, by its manifest or by the configuration of one of its hosts, and a checkpoint.
#[derive(clap::Args)]
pub(super) struct TrainedArguments {
    #[command(flatten)]
    job: JobArguments,
    /// A host's configuration, instead of the manifest: the checkpoint must be of the same peers as well
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "values", "peers", "seed", "rounds", "model"])]
    config: Option<PathBuf>,
    /// A checkpoint of the job, or the folder of its run
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
}

impl TrainedArguments {
    /// The manifest, and the peers as far as they are known.
    pub(super) fn job(&self) -> Result<(Manifest, Members)> {
        match &self.config {
            Some(path) => host::job(&Config::load(path)?),
            None => {
                let manifest = self.job.manifest()?;
                let members = Members::derived(&manifest.train, 0);
                Ok((manifest, members))
            }
        }
    }

    /// Reads the checkpoint of `job`, which was prepared from [`TrainedArguments::job`].
    ///
    /// A manifest does not name the keys of peers on other machines, and a model does not depend on who trained it: with the
    /// manifest alone the job must be the same, with a host's configuration the run too.
    pub(super) fn checkpoint(&self, job: &Job, output: &mut Output) -> Result<Checkpoint> {
        let path = if self.checkpoint.is_dir() { self.checkpoint.join(FILE) } else { self.checkpoint.clone() };
        let file = CheckpointFile::open(&path)?;
        if self.config.is_some() {
            file.check_run(job, "name the configuration of one of its hosts, or the manifest with `--from`")?;
        } else {
            file.check_job(
                job,
                "name the manifest of its run with `--from`: the run's folder has it as `manifest.toml`",
            )?;
            if let Relation::OtherRun(differences) = file.provenance().relation(job) {
                let keys: Vec<String> = differences.iter().map(|difference| format!("`{}`", difference.key)).collect();
                let keys = keys.join(", ");
                output.info(&format!("the checkpoint is of another run of this job, which differs in {keys}"));
            }
        }
        Ok(file.load(&job.layout)?)
    }
}
