//! The digest that identifies a job: anything that changes a bit of the result changes it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skein_protocol::deadline::WaitBounds;
use skein_types::{Digest, PeerId};

use crate::component::Component;
use crate::manifest;
use crate::shares::Share;

/// Bytes at the end of a job's digest that do not depend on the peers' keys. They distinguish a checkpoint of other
/// peers from one of other data or settings: a guard against mistakes, for which eight bytes are enough. Signatures
/// rely on the 24 bytes before them.
const TASK_BYTES: usize = 8;

/// Whether two digests are of jobs with the same model, data, functions and settings, whose peers have different keys.
/// Their samples are divided differently, so the runs differ, but the resulting model of one is also valid for the
/// other.
pub fn differs_in_peers_only(one: Digest, other: Digest) -> bool {
    let task = |digest: Digest| digest.0.last_chunk::<TASK_BYTES>().copied();
    one != other && task(one) == task(other)
}

/// Digest of a job: of everything, except that its last bytes do not depend on which peer has which samples.
pub(crate) fn digest(
    model: &Value,
    train: &manifest::Train,
    [gradient, aggregate]: [&Component; 2],
    shares: &BTreeMap<PeerId, Share>,
) -> Digest {
    let function = |component: &Component| json!([component.digest, component.function.settings]);
    let mut task = json!({
        "model": model,
        "train": manifest::Train { rounds: 0, wait: WaitBounds::default(), ..train.clone() },
        "functions": [function(gradient), function(aggregate)],
    });
    task["shares"] = shares.values().map(of_share).collect();
    let Digest(mut whole) = Digest(blake3::derive_key("skein 2026-11 job", task.to_string().as_bytes()));
    task["shares"] = pooled(shares);
    let of_task = blake3::derive_key("skein 2026-11 job of any peers", task.to_string().as_bytes());
    whole[32 - TASK_BYTES..].copy_from_slice(&of_task[..TASK_BYTES]);
    Digest(whole)
}

/// The data of all peers: which set each peer of the manifest reads, and how the readers of a set use its samples
/// together.
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

/// One share's part of the identity of a job.
fn of_share(share: &Share) -> Value {
    json!({
        "peer": share.index,
        "data": share.dataset.hash().to_string(),
        "train": share.train,
        "validation": share.validation,
    })
}
