//! Divides the samples among the peers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use skein_types::{Digest, PeerId, counted};

use crate::data::split::{Split, shares};
use crate::data::{DataError, Dataset, labels};
use crate::manifest;

/// Data sets that a warning names.
const NAMED_MAX: usize = 3;

/// The samples of one peer.
#[derive(Clone)]
pub struct PeerData {
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
#[derive(Clone)]
pub struct Subset {
    /// The data set that they belong to.
    pub dataset: Dataset,
    /// Indices into the data set.
    pub samples: Vec<u32>,
}

/// Reads the data sets and assigns every peer its samples; the subset holds the samples to test on, if any.
pub(crate) fn divide(
    data: &manifest::Data,
    train: &manifest::Train,
    identities: &[PeerId],
) -> Result<(BTreeMap<PeerId, PeerData>, Option<Subset>)> {
    let (local, sharing) = identities.split_at(data.local.len());
    let mut peers = BTreeMap::new();
    for (index, (peer, path)) in local.iter().zip(&data.local).enumerate() {
        let dataset = load(path, data, "data.local")?;
        let split = Split::new(dataset.len(), 0, data.validation, train.seed);
        let split = split.with_context(|| format!("`{}` leaves nothing to train on", path.display()))?;
        let Split { train, validation, .. } = split;
        peers.insert(*peer, PeerData { index: index as u32, dataset, train, validation });
    }
    let mut test = None;
    if let Some(source) = data.source.as_ref().filter(|_| !sharing.is_empty()) {
        let dataset = load(source, data, "data.source")?;
        let split = Split::new(dataset.len(), data.test_samples, data.validation, train.seed);
        let Split { train, validation, test: held_out } = split.with_context(|| {
            let samples = dataset.len();
            let held_out = data.test_samples;
            let samples = counted(samples, "sample");
            let source = source.display();
            format!(
                "`{source}` has {samples}, `data.test_samples` holds out {held_out} and `data.validation` a share of {}: \
                 nothing is left to train on",
                data.validation
            )
        })?;
        if train.len() < sharing.len() {
            let peers = counted(sharing.len(), "peer");
            let samples = counted(train.len(), "training sample");
            let source = source.display();
            bail!("{peers} share the {samples} of `{source}`: each needs at least one");
        }
        let members: Vec<u32> = (local.len() as u32..identities.len() as u32).collect();
        let parts = shares(&train, &members).into_iter().zip(shares(&validation, &members));
        for ((index, peer), (train, validation)) in members.iter().copied().zip(sharing).zip(parts) {
            peers.insert(*peer, PeerData { index, dataset: dataset.clone(), train, validation });
        }
        test = (!held_out.is_empty()).then_some(Subset { dataset, samples: held_out });
    }
    if let Some(path) = &data.test {
        let dataset = load(path, &data.of_test(), "data.test")?;
        test = Some(Subset { samples: (0..dataset.len() as u32).collect(), dataset });
    }
    check_alike(&peers, test.as_ref())?;
    Ok((peers, test))
}

/// Reads the data set that `key` names.
fn load(path: &Path, data: &manifest::Data, key: &str) -> Result<Dataset> {
    Dataset::load(path, data).map_err(|error| match error {
        DataError::Read { path, source } => {
            let key = if data.labels.as_ref() == Some(&path) { "data.labels" } else { key };
            anyhow::Error::new(source).context(data.unreadable(key, &path))
        }
        other => other.into(),
    })
}

/// Checks that every peer has a whole batch of samples: in a smaller share, every batch would repeat samples.
pub(crate) fn check_batches(peers: &BTreeMap<PeerId, PeerData>, train: &manifest::Train) -> Result<()> {
    let smallest = peers.values().min_by_key(|share| (share.train.len(), share.index));
    let Some(PeerData { index, train: samples, .. }) = smallest else { return Ok(()) };
    if samples.len() < train.batch_size as usize {
        let batch = train.batch_size;
        let samples = samples.len();
        bail!(
            "`train.batch_size` is {batch}, and peer {index} has only {}: choose at most {samples}, or fewer peers",
            counted(samples, "training sample")
        );
    }
    Ok(())
}

/// A warning about classes of which no peer has a sample, with the fix; `None` if every class has one, or if the manifest
/// says how many there are.
pub(crate) fn warn_of_empty_classes(data: &manifest::Data, peers: &BTreeMap<PeerId, PeerData>) -> Option<String> {
    if data.classes.is_some() {
        return None;
    }
    let datasets: BTreeMap<Digest, &Dataset> =
        peers.values().map(|share| (share.dataset.hash(), &share.dataset)).collect();
    let counts = datasets.values().map(|dataset| dataset.samples_of_classes());
    let sums = counts.reduce(|sums, counts| sums.iter().zip(counts).map(|(sum, count)| sum + count).collect())?;
    let shared = data.source.as_ref().filter(|_| peers.len() > data.local.len());
    let names: Vec<String> = data.local.iter().chain(shared).map(|path| format!("`{}`", path.display())).collect();
    let more = if names.len() > NAMED_MAX { ", …" } else { "" };
    Some(format!("{}{more}: {}", names[..names.len().min(NAMED_MAX)].join(", "), labels::warning(&sums)?))
}

/// Checks that all data sets of a job have samples of one shape and the same number of classes.
fn check_alike(peers: &BTreeMap<PeerId, PeerData>, test: Option<&Subset>) -> Result<()> {
    let mut shares: Vec<&PeerData> = peers.values().collect();
    shares.sort_by_key(|share| share.index);
    let named = shares.iter().map(|share| (format!("the data of peer {}", share.index), &share.dataset));
    let mut named = named.chain(test.map(|part| ("the test data".to_owned(), &part.dataset)));
    let Some((first_name, first)) = named.next() else { return Ok(()) };
    for (name, dataset) in named {
        if dataset.shape() != first.shape() {
            let shape = dataset.shape();
            let expected = first.shape();
            bail!("{name} has samples of shape {shape:?}, {first_name} has {expected:?}");
        }
        if dataset.classes() != first.classes() {
            let classes = dataset.classes();
            let expected = first.classes();
            let most = classes.max(expected);
            bail!(
                "{name} has {}, {first_name} has {expected}: set `data.classes = {most}`, or more if none of them has all",
                counted(classes, "class")
            );
        }
    }
    Ok(())
}
