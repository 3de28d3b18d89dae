//! `skein train`: the job of a manifest, all its peers in this process.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use skein_job::Members;
use skein_job::manifest::quoted;
use skein_peer::checkpoint::{self, KEEP_DEFAULT, RunFolder};
use skein_peer::events::Event;
use skein_peer::in_process::{self, Options, Resume};
use skein_peer::prepare::PreparedJob;
use skein_types::counted;

use super::Interrupts;
use super::compute::Host;
use super::job::JobArguments;
use super::model::warn_of_removed_parts;
use crate::output::summary::{to_json, to_table};
use crate::output::{Output, complain};

/// Arguments of `skein train`.
#[derive(clap::Args)]
pub(super) struct Train {
    #[command(flatten)]
    job: JobArguments,
    /// Folder for the manifest, the checkpoints (safetensors) and the metrics (JSON lines)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resume from the checkpoint in the folder of `--out`
    #[arg(long, requires = "out")]
    resume: bool,
    /// With `--resume`: continue the checkpoint of another job or run as a new run, which remembers where it comes from
    #[arg(long, requires = "resume")]
    with_changes: bool,
    /// Number of the run: another number trains the same job once more as a run of its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    run: u64,
    /// Checkpoints of the last rounds to keep, beside the best one
    #[arg(long, value_name = "N", default_value_t = KEEP_DEFAULT, requires = "out")]
    keep: NonZeroU32,
    /// The option that would keep the trained model, named in a note if it is not set.
    #[arg(skip = "`--out DIR`")]
    hint: &'static str,
}

impl Train {
    /// A run that keeps nothing, for a command with which `hint` would keep the model.
    pub(super) fn of(job: JobArguments, run: u64, hint: &'static str) -> Train {
        Train { job, out: None, resume: false, with_changes: false, run, keep: KEEP_DEFAULT, hint }
    }

    /// The folder for what the run keeps.
    fn folder(&self) -> Result<Option<RunFolder>> {
        let Some(dir) = &self.out else { return Ok(None) };
        let manifest = toml::to_string(&self.job.manifest_in_place()?).context("failed to write the manifest")?;
        Ok(Some(RunFolder { dir: dir.clone(), keep: self.keep, manifest }))
    }

    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let manifest = self.job.manifest()?;
        let members = Members::derived(&manifest.train, self.run);
        let prepared = output.during(&host.status, PreparedJob::new(&manifest, &members, host.tools())).await?;
        let job = &prepared.job;
        let samples: usize = job.shares.values().map(|share| share.train.len()).sum();
        output.info(&format!(
            "{}: {}, {}, {}, {}, {} at a time",
            manifest.application.name,
            prepared.description(),
            counted(job.shares.len(), "peer"),
            counted(samples, "training sample"),
            counted(job.layout.trained(), "parameter"),
            counted(host.pool.concurrency(), "function")
        ));
        warn_of_removed_parts(&manifest)?;
        job.empty_classes.iter().for_each(|warning| complain(&format!("warning: {warning}")));
        if self.out.is_none() {
            output.info(&nothing_is_kept(self.hint));
        }
        let resume = match (self.resume, self.with_changes) {
            (false, _) => Resume::No,
            (true, false) => Resume::Run,
            (true, true) => Resume::WithChanges,
        };
        let run = if self.run == 0 { String::new() } else { format!(" --run {}", self.run) };
        let job = self.job.repeated() + &run;
        let resumed =
            |dir: &PathBuf| format!(": continue with `--resume --out {}{job}`", quoted(&dir.to_string_lossy()));
        let hint = self.out.as_ref().map(resumed);
        let options = Options { out: self.folder()?, resume, hint: hint.unwrap_or_default() };
        let mut interrupts = Interrupts::listen()?;
        let mut sink = |event: Event<'_>| output.event(event);
        let summary =
            in_process::train(prepared.clone(), host.pool, options, &mut sink, Box::pin(interrupts.next())).await?;
        let summary = to_json(&summary, &prepared, kept(self.out.as_deref()).as_deref());
        Ok(output.result(|| to_table(&summary), || summary.clone())?)
    }
}

/// The note before a run that does not keep the trained model.
pub(super) fn nothing_is_kept(hint: &str) -> String {
    format!("the trained model is not kept: {hint} keeps it")
}

/// The checkpoint that a run wrote to its folder; `None` if it applied no round.
pub(super) fn kept(dir: Option<&Path>) -> Option<PathBuf> {
    dir.map(|dir| dir.join(checkpoint::FILE)).filter(|path| path.exists())
}
