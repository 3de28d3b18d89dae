//! `skein host` and `skein identity`: one peer as a separate process.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use skein_peer::events::Event;
use skein_peer::host::config::{Config, Key};
use skein_peer::host::{prepare, run};

use super::Interrupts;
use super::compute::{ComputeOptions, Host, in_host};
use super::train::kept;
use crate::output::Output;
use crate::output::summary::{to_json, to_table};

/// Arguments of `skein host`.
#[derive(clap::Args)]
pub(super) struct HostArguments {
    /// The peer's configuration, a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl HostArguments {
    pub(super) fn run(self, mut options: ComputeOptions, output: &mut Output) -> Result<()> {
        let config = Config::load(&self.config)?;
        options.memory_mib = config.ceilings.total.memory_mib;
        in_host(&options, async |host| train(&config, host, output).await)
    }
}

async fn train(config: &Config, host: Host, output: &mut Output) -> Result<()> {
    let hosted = output.during(&host.status, prepare(config, host.tools())).await?;
    let job = hosted.prepared.clone();
    // Not if it is quiet: of the hosts that `skein up` starts, all but one are.
    job.job.empty_classes.iter().for_each(|warning| output.info(&format!("warning: {warning}")));
    let mut interrupts = Interrupts::listen()?;
    let mut sink = |event: Event<'_>| output.event(event);
    let summary = run(config, hosted, host.pool, &mut sink, Box::pin(interrupts.next())).await?;
    let summary = to_json(&summary, &job, kept(Some(&config.dir)).as_deref());
    Ok(output.result(|| to_table(&summary), || summary.clone())?)
}

/// Arguments of `skein identity`.
#[derive(clap::Args)]
pub(super) struct IdentityArguments {
    /// File with the secret key; a new key is written if it does not exist
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
}

impl IdentityArguments {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        let identity =
            if self.key_file.exists() { Key::KeyFile(self.key_file).load(0)? } else { Key::create(&self.key_file)? };
        let id = identity.id();
        Ok(output.result(|| format!("{id}\n"), || json!({ "id": id.to_string() }))?)
    }
}
