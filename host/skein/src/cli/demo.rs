//! `skein demo`: four peers, the digits, nothing to set up.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;

use super::Host;
use crate::job::Job;
use crate::manifest::model::Network;
use crate::manifest::train::Optimizer;
use crate::manifest::{Application, Data, Manifest, Model, Train};
use crate::output::Output;
use crate::training::{self, Options};

/// Arguments of `skein demo`.
#[derive(clap::Args)]
pub(super) struct Demo {
    /// Peers that train together
    #[arg(long, default_value_t = 4)]
    peers: u32,
    /// What everything random is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds [default: 100, or 400 with `--model mlp`]
    #[arg(long)]
    rounds: Option<u64>,
    /// What is trained
    #[arg(long, value_enum, default_value = "convnet")]
    model: Network,
}

impl Demo {
    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let manifest = self.manifest();
        manifest.check().map_err(|(key, problem)| anyhow::anyhow!("`{key}` {problem}"))?;
        let job = Arc::new(output.during(&host.status, Job::prepare(&manifest, host.tools())).await?);
        output.note(&format!(
            "{} peers train {} of {} parameters on hand-written digits, functions in WebAssembly",
            self.peers,
            job.model,
            job.layout.trained()
        ));
        let summary = training::train(job.clone(), host.workers, Options::default(), output).await?;
        Ok(output.result(|| summary.to_table(&job, None), || summary.to_json(&job, None))?)
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            skein_manifest_version: crate::manifest::VERSION,
            application: Application { name: "demo".into(), version: None, description: None },
            model: match self.model {
                Network::Mlp => Model { hidden: vec![32], ..Model::default() },
                network => Model { network: Some(network), ..Model::default() },
            },
            data: Data::default(),
            train: Train {
                peers: self.peers,
                // As many as a trimmed mean bears, but one is what the demo is to show.
                faults: u32::from(self.peers > 2),
                seed: self.seed,
                rounds: self.rounds.unwrap_or(if self.model == Network::Mlp { 400 } else { 100 }),
                learning_rate: 0.1,
                optimizer: Optimizer::Momentum { momentum: 0.9, weight_decay: 0.0 },
                ..Train::default()
            },
            function: BTreeMap::new(),
        }
    }
}
