//! `skein host` and `skein identity`: one peer as a separate process.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use skein_peer::events::Event;
use skein_peer::host::config::{Config, Key};
use skein_peer::host::{prepare, run};

use super::Interrupts;
use super::compute::Host;
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
    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let config = Config::load(&self.config)?;
        let hosted = output.during(&host.status, prepare(&config, host.tools())).await?;
        let job = hosted.prepared.clone();
        let mut interrupts = Interrupts::listen()?;
        let mut sink = |event: Event<'_>| output.event(event);
        let summary = run(&config, hosted, host.pool, &mut sink, Box::pin(interrupts.next())).await?;
        let summary = to_json(&summary, &job, kept(Some(&config.dir)).as_deref());
        Ok(output.result(|| to_table(&summary), || summary.clone())?)
    }
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
