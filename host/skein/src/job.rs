//! A job made ready: manifest, data and functions checked against one another, every peer's share known.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use skein_kernels::Digest;
use skein_kernels::layout::Layout;
use skein_kernels::rule::Rule;
use skein_runtime::Runtime;
use skein_runtime::aggregate::AggregateFunction;
use skein_runtime::gradient::GradientFunction;
use skein_workflow::identity::{Identity, PeerId};

use crate::data::split::{Split, shares};
use crate::data::{Dataset, SampleKind};
use crate::engines::Choice;
use crate::manifest::{self, Manifest};
use crate::model::Model;
use crate::output::Status;

/// Bytes at the end of a job's digest that do not depend on the peers' keys. They tell a checkpoint of other peers from one
/// of other data or settings: a guard against mistakes, for which eight bytes are enough. Signatures rest on the 24 bytes
/// before them.
const TASK_BYTES: usize = 8;

/// What jobs are made ready with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Loads functions.
    pub runtime: &'a Runtime,
    /// Computes graphs.
    pub engine: &'a Choice,
    /// Told which function is being compiled.
    pub status: &'a Status,
}

/// Everything that peers of a job have in common.
pub struct Job {
    /// Identifies the job: whatever changes a bit of the result changes it. Its end depends on everything but who the
    /// peers are: see [`Job::differs_in_peers_only`].
    pub digest: Digest,
    /// The manifest's `[train]`.
    pub train: manifest::Train,
    /// Names and shapes of the parameters.
    pub layout: Arc<Layout>,
    /// Their values before the first round.
    pub initial: Vec<f32>,
    /// What is trained, in a few words.
    pub model: String,
    /// Whether the model is an ONNX graph.
    pub is_graph: bool,
    /// What the gradient function and its model were made from.
    pub sources: Sources,
    /// The gradient function.
    pub gradient: GradientFunction,
    /// The aggregation function.
    pub aggregate: AggregateFunction,
    /// What that function does, where it is one of the built-in ones: a store may do it instead.
    pub rule: Option<BuiltinRule>,
    /// What each peer has, in the order of the peers' keys.
    pub shares: BTreeMap<PeerId, Share>,
    /// Samples held out for the end.
    pub test: Option<Part>,
}

/// What a built-in aggregation function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinRule {
    /// The mean; `true`: weighted by the samples that peers claim.
    Mean(bool),
    /// The coordinate-wise median.
    Median,
    /// The coordinate-wise trimmed mean.
    TrimmedMean,
}

/// What a gradient function and its model are made from, for workers that make them again.
pub struct Sources {
    /// The component.
    pub gradient: Vec<u8>,
    /// What the samples are like.
    pub samples: SampleKind,
    /// Names of the model's files in its folder, the model itself first; none if it is no file.
    pub model_files: Vec<PathBuf>,
}

/// What one peer has.
pub struct Share {
    /// Number of the peer, from 0, in the order of the manifest.
    pub index: u32,
    /// The data set it reads.
    pub dataset: Dataset,
    /// Samples to train on, at least 1.
    pub train: Vec<u32>,
    /// Samples to validate on.
    pub validation: Vec<u32>,
}

/// Some samples of a data set.
pub struct Part {
    /// The data set.
    pub dataset: Dataset,
    /// Indices into it.
    pub samples: Vec<u32>,
}

impl Job {
    /// Reads the data, loads the functions and divides the samples.
    ///
    /// # Errors
    /// Whatever does not fit, with the name of the file, key or function.
    pub async fn prepare(manifest: &Manifest, tools: Tools<'_>) -> Result<Job> {
        let train = &manifest.train;
        let peers: Vec<PeerId> = (0..train.peers).map(|index| Identity::derived(train.seed, index).id()).collect();
        Job::prepare_for(manifest, &peers, tools).await
    }

    /// As [`Job::prepare`], for peers with keys of their own, in the order of the manifest.
    ///
    /// # Errors
    /// As [`Job::prepare`].
    pub async fn prepare_for(manifest: &Manifest, peers: &[PeerId], tools: Tools<'_>) -> Result<Job> {
        let Manifest { train, data, .. } = manifest;
        let (shares, test) = divide(data, train, peers)?;
        let first = &shares.values().next().context("a job has at least one peer")?.dataset;
        let samples = first.kind();
        let model = Model::prepare(manifest, &samples, tools.engine)?;
        let default = if model.graphs.named.is_empty() { "gradient-mlp" } else { "gradient-onnx" };
        let name = train.gradient.as_deref().unwrap_or(default);
        let (_, bytes) = read_function(manifest, name)?;
        let gradient = load_gradient(manifest, (name, &bytes), &model, tools).await?;
        let sources = Sources { gradient: bytes, samples, model_files: model.files };
        let (function, bytes) = read_function(manifest, &train.aggregate)?;
        let rule = BuiltinRule::of(&function, &bytes);
        let compiling = tools.status.begin(compiling(&train.aggregate));
        let aggregate = tools.runtime.aggregate_function(function, &bytes).await?;
        drop(compiling);

        let task = json!({
            "model": model.identity,
            "train": manifest::Train { rounds: 0, wait: manifest::train::Wait::default(), ..train.clone() },
            "functions": [
                [gradient.about().digest, json!(manifest.function(name).map(|f| f.settings))],
                [aggregate.about().digest, json!(manifest.function(&train.aggregate).map(|f| f.settings))],
            ],
        });
        Ok(Job {
            digest: digest(task, &shares),
            train: train.clone(),
            layout: Arc::new(model.layout),
            initial: model.initial,
            model: model.description,
            is_graph: !model.graphs.named.is_empty(),
            sources,
            gradient,
            aggregate,
            rule,
            shares,
            test,
        })
    }

    /// Whether `other` is the digest of a job with the same model, data, functions and settings, whose peers have other
    /// keys. Their samples are divided otherwise, so it is another run; what it ends with is a model of this job all the
    /// same.
    pub fn differs_in_peers_only(&self, other: Digest) -> bool {
        let task = |digest: Digest| digest.0.last_chunk::<TASK_BYTES>().copied();
        self.digest != other && task(self.digest) == task(other)
    }
}

/// Digest of a job: of everything, but for its last bytes, which do not depend on who has which samples.
fn digest(mut task: Value, shares: &BTreeMap<PeerId, Share>) -> Digest {
    task["shares"] = shares.values().map(Share::identity).collect();
    let Digest(mut whole) = Digest(blake3::derive_key("skein 2026-11 job", task.to_string().as_bytes()));
    task["shares"] = pooled(shares);
    let of_task = blake3::derive_key("skein 2026-11 job of any peers", task.to_string().as_bytes());
    whole[32 - TASK_BYTES..].copy_from_slice(&of_task[..TASK_BYTES]);
    Digest(whole)
}

/// The data of all peers: which set each number of the manifest reads, and what all who read a set do with its samples.
fn pooled(shares: &BTreeMap<PeerId, Share>) -> Value {
    let mut readers = BTreeMap::new();
    let mut sets: BTreeMap<String, [Vec<u32>; 2]> = BTreeMap::new();
    for Share { index, dataset, train, validation } in shares.values() {
        let hash = dataset.hash().to_string();
        let [all_train, all_validation] = sets.entry(hash.clone()).or_default();
        all_train.extend(train);
        all_validation.extend(validation);
        readers.insert(index, hash);
    }
    sets.values_mut().flatten().for_each(|samples| samples.sort_unstable());
    json!({ "readers": readers.values().collect::<Vec<_>>(), "sets": sets })
}

impl Share {
    /// What identifies a share among those of a job.
    fn identity(&self) -> Value {
        json!({
            "peer": self.index,
            "data": self.dataset.hash().to_string(),
            "train": self.train,
            "validation": self.validation,
        })
    }
}

impl BuiltinRule {
    /// What a function does that is a built-in one to the byte, with settings that it knows.
    fn of(function: &skein_runtime::Function, bytes: &[u8]) -> Option<BuiltinRule> {
        let (name, _) = manifest::function::BUILTINS.into_iter().find(|(_, builtin)| *builtin == bytes)?;
        match (name, function.settings.get("weighted").map(String::as_str)) {
            ("aggregate-mean", None | Some("false")) => Some(BuiltinRule::Mean(false)),
            ("aggregate-mean", Some("true")) => Some(BuiltinRule::Mean(true)),
            ("aggregate-median", _) => Some(BuiltinRule::Median),
            ("aggregate-trimmed-mean", _) => Some(BuiltinRule::TrimmedMean),
            _ => None,
        }
    }

    /// The kernel for contributions of peers that claim so many samples.
    pub fn kernel(self, faults: u32, samples: &[u64]) -> Rule {
        match self {
            BuiltinRule::Mean(false) => Rule::Mean,
            BuiltinRule::Mean(true) => Rule::WeightedMean(samples.iter().map(|samples| *samples as f32).collect()),
            BuiltinRule::Median => Rule::Median { faults },
            BuiltinRule::TrimmedMean => Rule::TrimmedMean { faults },
        }
    }
}

/// Lets the gradient function use the model's graphs, and hold what they give.
fn give_graphs(function: &mut skein_runtime::Function, manifest: &Manifest, model: &Model) {
    if model.graphs.named.is_empty() {
        return;
    }
    function.graphs = model.graphs.clone();
    function.settings.entry("loss".into()).or_insert_with(|| manifest.model.loss.clone());
    let own = manifest.function.get(&function.name).and_then(|function| function.limits.memory_mib);
    if own.is_none() {
        // The gradients of one call, and as much again while they are made.
        let mib = (2 * 4 * model.layout.len()).div_ceil(1 << 20);
        function.limits.memory_mib = function.limits.memory_mib.saturating_add(u32::try_from(mib).unwrap_or(u32::MAX));
    }
}

/// Loads the gradient function of that name, which has these bytes.
pub(crate) async fn load_gradient(
    manifest: &Manifest,
    (name, bytes): (&str, &[u8]),
    model: &Model,
    tools: Tools<'_>,
) -> Result<GradientFunction> {
    let described = manifest.function(name).with_context(|| format!("there is no function `{name}`"))?;
    let mut function = described.options(name);
    give_graphs(&mut function, manifest, model);
    if described.load_graphs {
        function.graphs.loader = Some((tools.engine.open()?, tools.engine.options));
    }
    let _compiling = tools.status.begin(compiling(name));
    Ok(tools.runtime.gradient_function(function, bytes).await?)
}

/// What is told while a function is loaded, which takes long only if it was never compiled here before.
fn compiling(name: &str) -> String {
    format!("compiling `{name}`")
}

/// Bytes of the function of that name, and its options for the runtime.
fn read_function(manifest: &Manifest, name: &str) -> Result<(skein_runtime::Function, Vec<u8>)> {
    let function = manifest.function(name).with_context(|| format!("there is no function `{name}`"))?;
    let bytes = function.read().with_context(|| {
        let hint = function.build.as_ref().map(|build| format!("; build it with `{}`", build.command));
        format!("failed to read function `{name}` from `{}`{}", function.source.display(), hint.unwrap_or_default())
    })?;
    if let Some(expected) = &function.digest {
        let actual = skein_runtime::digest(&bytes);
        let wanted = expected.trim_start_matches("sha256:").to_ascii_lowercase();
        if wanted != actual {
            bail!("function `{name}` has the digest {actual} where the manifest asks for {wanted}");
        }
    }
    Ok((function.options(name), bytes))
}

/// Reads the data sets and gives every peer its share.
fn divide(
    data: &manifest::Data,
    train: &manifest::Train,
    identities: &[PeerId],
) -> Result<(BTreeMap<PeerId, Share>, Option<Part>)> {
    let (local, sharing) = identities.split_at(data.local.len());
    let mut peers = BTreeMap::new();
    for (index, (peer, path)) in local.iter().zip(&data.local).enumerate() {
        let dataset = Dataset::load(path, data)?;
        let split = Split::new(dataset.len(), 0, data.validation, train.seed);
        let split = split.with_context(|| format!("`{}` leaves nothing to train on", path.display()))?;
        let (train, validation) = (split.train, split.validation);
        peers.insert(*peer, Share { index: index as u32, dataset, train, validation });
    }
    let mut test = None;
    if let Some(source) = data.source.as_ref().filter(|_| !sharing.is_empty()) {
        let dataset = Dataset::load(source, data)?;
        let split = Split::new(dataset.len(), data.test_samples, data.validation, train.seed);
        let Split { train, validation, test: held_out } = split.with_context(|| {
            let (samples, held_out) = (dataset.len(), data.test_samples);
            format!(
                "`{}` has {samples} samples, of which {held_out} are held out: nothing is left to train on",
                source.display()
            )
        })?;
        if train.len() < sharing.len() {
            let (peers, samples, source) = (sharing.len(), train.len(), source.display());
            bail!("{peers} peers share the {samples} training samples of `{source}`: each needs at least one");
        }
        let validation = shares(&validation, sharing);
        let parts = sharing.iter().zip(shares(&train, sharing)).zip(validation).enumerate();
        for (index, ((peer, train), validation)) in parts {
            let index = (local.len() + index) as u32;
            peers.insert(*peer, Share { index, dataset: dataset.clone(), train, validation });
        }
        test = (!held_out.is_empty()).then_some(Part { dataset, samples: held_out });
    }
    if let Some(path) = &data.test {
        let dataset = Dataset::load(path, &manifest::Data { labels: None, ..data.clone() })?;
        test = Some(Part { samples: (0..dataset.len() as u32).collect(), dataset });
    }
    check_alike(&peers, test.as_ref())?;
    Ok((peers, test))
}

/// All data sets of a job have samples of one shape and the same classes.
fn check_alike(peers: &BTreeMap<PeerId, Share>, test: Option<&Part>) -> Result<()> {
    let mut shares: Vec<&Share> = peers.values().collect();
    shares.sort_by_key(|share| share.index);
    let named = shares.iter().map(|share| (format!("the data of peer {}", share.index), &share.dataset));
    let mut named = named.chain(test.map(|part| ("the test data".to_owned(), &part.dataset)));
    let Some((first_name, first)) = named.next() else { return Ok(()) };
    for (name, dataset) in named {
        if dataset.shape() != first.shape() {
            let (shape, expected) = (dataset.shape(), first.shape());
            bail!("{name} has samples of shape {shape:?} where {first_name} has {expected:?}");
        }
        if dataset.classes() != first.classes() {
            let (classes, expected) = (dataset.classes(), first.classes());
            bail!("{name} has {classes} classes where {first_name} has {expected}: set `data.classes`");
        }
    }
    Ok(())
}
