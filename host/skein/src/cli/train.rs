//! `skein train`: the job of a manifest, all its peers in this process.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::Host;
use crate::job::Job;
use crate::manifest::Manifest;
use crate::output::Output;
use crate::training::{self, Options};

/// Arguments of `skein train`.
#[derive(clap::Args)]
pub(super) struct Train {
    #[command(flatten)]
    job: JobArguments,
    /// Folder for the checkpoint (safetensors) and the metrics (JSON lines)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the checkpoint in the folder of `--out`
    #[arg(long, requires = "out")]
    resume: bool,
}

/// What names a job: a manifest, and what is to be different from it.
#[derive(clap::Args)]
pub(super) struct JobArguments {
    /// The manifest
    #[arg(short, long = "from", value_name = "FILE", default_value = "skein.toml")]
    from: PathBuf,
    /// Peers that train together, instead of `train.peers`
    #[arg(long)]
    peers: Option<u32>,
    /// What everything random is drawn from, instead of `train.seed`
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds, instead of `train.rounds`
    #[arg(long)]
    rounds: Option<u64>,
}

impl JobArguments {
    pub(super) fn manifest(&self) -> Result<Manifest> {
        let mut manifest = Manifest::load(&self.from)?;
        manifest.train.peers = self.peers.unwrap_or(manifest.train.peers);
        manifest.train.seed = self.seed.unwrap_or(manifest.train.seed);
        manifest.train.rounds = self.rounds.unwrap_or(manifest.train.rounds);
        let path = self.from.display();
        manifest
            .check()
            .map_err(|(key, problem)| anyhow::anyhow!("`{path}` with these arguments: `{key}` {problem}"))?;
        Ok(manifest)
    }
}

impl Train {
    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let manifest = self.job.manifest()?;
        let job = Arc::new(Job::prepare(&manifest, &host.runtime).await?);
        let samples: usize = job.shares.values().map(|share| share.train.len()).sum();
        output.note(&format!(
            "{}: {} peers, {samples} training samples, {} parameters, {} functions at a time",
            manifest.application.name,
            job.shares.len(),
            job.layout.len(),
            host.workers.concurrency()
        ));
        let options = Options { out: self.out, resume: self.resume };
        let summary = training::train(job.clone(), host.workers, options, output).await?;
        Ok(output.result(|| summary.to_table(&job), || summary.to_json(&job))?)
    }
}
