//! A job made ready: manifest, data and functions checked against one another, every peer's share known.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use skein_graph::Lowering;
use skein_protocol::identity::Identity;
use skein_types::{Digest, Layout, PeerId};

use crate::component::{BuiltinRule, Component};
use crate::data::SampleKind;
use crate::identity;
use crate::manifest::{self, Manifest};
use crate::model::{Graphs, Model};
use crate::shares::{Part, Share, divide};

/// Everything that peers of a job have in common.
pub struct Job {
    /// Identifies the job: whatever changes a bit of the result changes it. Its end depends on everything but who the
    /// peers are: see [`identity::differs_in_peers_only`].
    pub digest: Digest,
    /// The manifest's `[train]`.
    pub train: manifest::Train,
    /// Names and shapes of the parameters.
    pub layout: Arc<Layout>,
    /// Their values before the first round.
    pub initial: Vec<f32>,
    /// What is trained, in a few words.
    pub model: String,
    /// The model's graphs; none if the gradient function computes all by itself.
    pub graphs: Option<Graphs>,
    /// Names of the model's files in its folder, the model itself first; empty if it is not a file.
    pub model_files: Vec<PathBuf>,
    /// The gradient function.
    pub gradient: Component,
    /// The aggregation function.
    pub aggregate: Component,
    /// What that function does, where it is one of the built-in ones: a store may do it instead.
    pub rule: Option<BuiltinRule>,
    /// What the samples are like.
    pub samples: SampleKind,
    /// What each peer has, in the order of the peers' keys.
    pub shares: BTreeMap<PeerId, Share>,
    /// Samples held out for the end.
    pub test: Option<Part>,
}

impl Job {
    /// Reads the data and the functions, divides the samples and makes the model ready. A model of graphs asks which
    /// engine it is written for.
    ///
    /// # Errors
    /// Whatever does not fit, with the name of the file, key or function.
    pub fn prepare(manifest: &Manifest, lowering: impl FnOnce() -> Result<Lowering>) -> Result<Job> {
        let train = &manifest.train;
        let peers: Vec<PeerId> = (0..train.peers).map(|index| Identity::derived(train.seed, index).id()).collect();
        Job::prepare_for(manifest, &peers, lowering)
    }

    /// As [`Job::prepare`], for peers with keys of their own, in the order of the manifest.
    ///
    /// # Errors
    /// As [`Job::prepare`].
    pub fn prepare_for(
        manifest: &Manifest,
        peers: &[PeerId],
        lowering: impl FnOnce() -> Result<Lowering>,
    ) -> Result<Job> {
        let Manifest { train, data, .. } = manifest;
        let (shares, test) = divide(data, train, peers)?;
        let first = &shares.values().next().context("a job has at least one peer")?.dataset;
        let samples = first.kind();
        let model = Model::prepare(manifest, &samples, lowering)?;
        let default = if model.graphs.is_none() { "gradient-mlp" } else { "gradient-onnx" };
        let gradient = Component::read(manifest, train.gradient.as_deref().unwrap_or(default))?;
        let aggregate = Component::read(manifest, &train.aggregate)?;
        let rule = BuiltinRule::of(&aggregate, train)?;
        Ok(Job {
            digest: identity::digest(&model.identity, train, [&gradient, &aggregate], &shares),
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
            shares,
            test,
        })
    }
}
