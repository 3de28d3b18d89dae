//! What the identity of a job and of a run covers.

use std::collections::BTreeMap;

use skein_types::{Digest, PeerId};

use super::{Identifier, IdentityValue};
use crate::component::Component;
use crate::manifest;
use crate::shares::PeerData;

/// The identifier of a job.
pub(crate) fn of_job(
    mut model: Identifier,
    manifest: &manifest::Manifest,
    [gradient, aggregate]: [&Component; 2],
    shares: &BTreeMap<PeerId, PeerData>,
) -> Identifier {
    // The same whether they are set or left out.
    let faults = manifest.train.fault_model();
    let (byzantine, crashed) = (Some(faults.byzantine()), Some(faults.crashed()));
    model.insert_all("train", &manifest::Train { byzantine, crashed, ..manifest.train.clone() });
    // Members are in the run id, the length of training or waiting changes no round, and functions count by content.
    for key in ["train.rounds", "train.wait", "train.peers", "train.gradient", "train.aggregate"] {
        model.values.retain(|other, _| other != key && !other.starts_with(&format!("{key}.")));
    }
    for (key, component) in [("function.gradient", gradient), ("function.aggregate", aggregate)] {
        let digest = component.digest.parse().expect("a SHA-256 has 64 hexadecimal digits");
        model.insert_digest(&format!("{key}.digest"), digest);
        model.insert_all(&format!("{key}.settings"), &component.function.settings);
        // A function may compute something else with graphs of its own.
        model.insert_all(&format!("{key}.load_graphs"), &component.function.load_graphs);
    }
    let data = &manifest.data;
    model.insert_all("data.validation", &data.validation);
    // All peers beyond those with data of their own share one set.
    if let Some(share) = shares.values().find(|share| !is_private(share, data)) {
        model.insert_digest("data.source", share.dataset.hash());
        model.insert_all("data.test_samples", &data.test_samples);
    }
    if let Some(share) = shares.values().find(|share| is_private(share, data)) {
        let kind = share.dataset.kind();
        model.insert_all("data.local.shape", &kind.shape);
        model.insert_all("data.local.classes", &kind.classes);
    }
    model
}

/// The identifier of a run: of the job, the members in the order of the roster and the number of the run.
pub(crate) fn of_run(
    job: Digest,
    data: &manifest::Data,
    shares: &BTreeMap<PeerId, PeerData>,
    number: u64,
) -> Identifier {
    let mut run = Identifier::default();
    run.insert_digest("job", job);
    run.insert("run", IdentityValue::Whole(number));
    for (peer, share) in shares {
        let member = format!("roster.{}", share.index);
        run.insert_digest(&format!("{member}.id"), Digest(peer.0));
        if is_private(share, data) {
            run.insert_digest(&format!("{member}.data"), share.dataset.hash());
        }
    }
    run
}

/// Whether a peer trains on data of its own.
fn is_private(share: &PeerData, data: &manifest::Data) -> bool {
    (share.index as usize) < data.local.len()
}
