//! A prepared job: manifest, data and functions checked against one another, with every peer's share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use skein_graph::Lowering;
use skein_protocol::identity::Identity;
use skein_types::{Digest, Layout, PeerId};

use crate::component::{BuiltinRule, Component};
use crate::data::SampleKind;
use crate::identity::{self, Ancestor, Identifier};
use crate::manifest::{self, Manifest};
use crate::model::{Graphs, Model};
use crate::shares::{PeerData, Subset, check_batches, divide, warn_of_empty_classes};

/// Everything that peers of a job have in common.
#[derive(Clone)]
pub struct Job {
    /// What the result depends on, but for who the peers are.
    pub identifier: Identifier,
    /// The job identity: the digest of `identifier`.
    pub digest: Digest,
    /// The job, its members, the number of the run, and the run that it continues.
    pub run: Identifier,
    /// The run id, which records, database keys and checkpoints carry: the digest of `run`.
    pub run_id: Digest,
    /// The manifest as TOML.
    pub manifest: String,
    /// The manifest's `[train]` table, with all values within their bounds.
    pub train: manifest::Train,
    /// Names and shapes of the parameters.
    pub layout: Arc<Layout>,
    /// Values of the parameters before the first round.
    pub initial: Vec<f32>,
    /// Short description of the model, or its path.
    pub model: String,
    /// The model's graphs; `None` if the gradient function computes without any.
    pub graphs: Option<Graphs>,
    /// Names of the model's files in its folder, the model itself first; empty if it is not a file.
    pub model_files: Vec<PathBuf>,
    /// The gradient function, read and checked.
    pub gradient: Component,
    /// The aggregation function, read and checked.
    pub aggregate: Component,
    /// The rule of the aggregation function if it is a built-in one: a store may compute it instead.
    pub rule: Option<BuiltinRule>,
    /// Shape and number of classes of the samples.
    pub samples: SampleKind,
    /// Warns of classes of which no peer has a sample, with the fix; `None` if there are none.
    pub empty_classes: Option<String>,
    /// Each peer's share of the data, in the order of the peers' keys.
    pub shares: BTreeMap<PeerId, PeerData>,
    /// Samples held out for the accuracy at the end.
    pub test: Option<Subset>,
}

/// Who trains in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The peers' keys, in the order of the manifest: the first `data.local` of them have data of their own.
    pub peers: Vec<PeerId>,
    /// Number of the run. Runs of one job with the same peers have the same result, and nothing else in common.
    pub run: u64,
}

impl Members {
    /// Peers of one owner, whose keys are derived from the seed and keep no secret.
    pub fn derived(train: &manifest::Train, run: u64) -> Members {
        let peers = (0..train.peers).map(|index| Identity::derived(train.seed, index).id()).collect();
        Members { peers, run }
    }
}

impl Job {
    /// Reads the data and the functions, divides the samples and prepares the model. `lowering` is called only for a
    /// model that has graphs, and returns how they are written for an engine.
    ///
    /// # Errors
    /// Whatever does not fit, with the name of the file, key or function.
    pub fn prepare(manifest: &Manifest, members: &Members, lowering: impl FnOnce() -> Result<Lowering>) -> Result<Job> {
        let Manifest { train, data, .. } = manifest;
        let (shares, test) = divide(data, train, &members.peers)?;
        let first = &shares.values().next().context("a job has at least one peer")?.dataset;
        let samples = first.kind();
        let model = Model::prepare(manifest, &samples, lowering)?;
        check_batches(&shares, train)?;
        let default = if model.graphs.is_none() { "gradient-mlp" } else { "gradient-onnx" };
        let gradient = Component::read(manifest, train.gradient.as_deref().unwrap_or(default))?;
        let aggregate = Component::read(manifest, &train.aggregate)?;
        let rule = BuiltinRule::of(&aggregate, train)?;
        let identifier = identity::of_job(model.identifier, manifest, [&gradient, &aggregate], &shares);
        let digest = identifier.digest();
        let run = identity::of_run(digest, data, &shares, members.run);
        Ok(Job {
            identifier,
            digest,
            run_id: run.digest(),
            run,
            manifest: toml::to_string(manifest).context("failed to write the manifest")?,
            train: train.clone(),
            layout: Arc::new(model.layout),
            initial: model.initial,
            model: model.description,
            graphs: model.graphs,
            model_files: model.files,
            rule,
            gradient,
            aggregate,
            samples,
            empty_classes: warn_of_empty_classes(data, &shares),
            shares,
            test,
        })
    }

    /// The identifier of this run if it continues `ancestor`.
    pub fn run_after(&self, ancestor: Option<&Ancestor>) -> Identifier {
        ancestor.map_or_else(|| self.run.clone(), |ancestor| self.run.continuing(ancestor))
    }

    /// The job with the run that continues `ancestor`.
    pub fn continuing(&self, ancestor: &Ancestor) -> Job {
        let run = self.run.continuing(ancestor);
        Job { run_id: run.digest(), run, ..self.clone() }
    }
}
