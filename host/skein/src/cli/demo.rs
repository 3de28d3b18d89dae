//! `skein demo`: four peers, the digits, nothing to set up.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use skein_job::Members;
use skein_job::manifest::model::Network;
use skein_job::manifest::{Application, Data, Manifest, Model, Train};
use skein_peer::events::Event;
use skein_peer::in_process::{self, Options};
use skein_peer::prepare::PreparedJob;
use skein_types::counted;

use super::Interrupts;
use super::compute::Host;
use crate::output::Output;
use crate::output::summary::{to_json, to_table};

/// Arguments of `skein demo`.
#[derive(clap::Args)]
pub(super) struct Demo {
    /// Peers that train together
    #[arg(long, default_value_t = 4)]
    peers: u32,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds [default: 100, or 400 with `--model mlp`]
    #[arg(long)]
    rounds: Option<u64>,
    /// Network to train: a convolutional one, or a multilayer perceptron
    #[arg(long, value_parser = networks(), default_value = "convnet")]
    model: Network,
}

impl Demo {
    pub(super) async fn run(self, host: Host, output: &mut Output) -> Result<()> {
        let manifest = self.manifest();
        manifest.check().map_err(|(key, problem)| anyhow::anyhow!("`{key}` {problem}"))?;
        let members = Members::derived(&manifest.train, 0);
        let prepared = output.during(&host.status, PreparedJob::new(&manifest, &members, host.tools())).await?;
        output.info(&format!(
            "{} train {} of {} on hand-written digits, functions in WebAssembly",
            counted(self.peers, "peer"),
            prepared.description(),
            counted(prepared.job.layout.trained(), "parameter")
        ));
        let mut interrupts = Interrupts::listen()?;
        let mut sink = |event: Event<'_>| output.event(event);
        let options = Options::default();
        let summary =
            in_process::train(prepared.clone(), host.pool, options, &mut sink, Box::pin(interrupts.next())).await?;
        let summary = to_json(&summary, &prepared, None);
        Ok(output.result(|| to_table(&summary), || summary.clone())?)
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            skein_manifest_version: skein_job::manifest::VERSION,
            application: Application { name: "demo".into(), version: None, description: None },
            model: match self.model {
                Network::Mlp => Model { hidden: vec![32], ..Model::default() },
                network => Model { network: Some(network), ..Model::default() },
            },
            data: Data::default(),
            train: Train {
                peers: self.peers,
                seed: self.seed,
                rounds: self.rounds.unwrap_or(if self.model == Network::Mlp { 400 } else { 100 }),
                learning_rate: 0.1,
                ..Train::default()
            },
            function: BTreeMap::new(),
        }
    }
}

/// Parses the name of a network.
fn networks() -> impl TypedValueParser<Value = Network> {
    PossibleValuesParser::new(["convnet", "mlp"]).try_map(|name| Network::named(&name).ok_or("unknown network"))
}
