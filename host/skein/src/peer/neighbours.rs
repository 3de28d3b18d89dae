//! The other peers, as their stores show them: records as they appear, contributions when they are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skein_store::{Published, StoreError, Values};
use skein_workflow::identity::PeerId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Records that wait to be taken in. Readers of stores wait when it is full.
pub(super) const INBOX_RECORDS: usize = 1024;
/// Longest single wait for a record in a store: how soon a reader notices that it is no longer needed.
const READ_WAIT: Duration = Duration::from_secs(5);
/// How soon a store is read again after it failed: it belongs to somebody else, and nothing can be done from here.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The other peers of a job.
pub(super) struct Neighbours {
    stores: BTreeMap<PeerId, Arc<dyn Published>>,
    pub(super) inbox: mpsc::Receiver<(PeerId, Vec<u8>)>,
    /// Tasks that read the stores; they end with the peer.
    _readers: JoinSet<()>,
}

impl Neighbours {
    /// Begins to read the records of all stores.
    pub(super) fn read(stores: BTreeMap<PeerId, Arc<dyn Published>>) -> Neighbours {
        let (sender, inbox) = mpsc::channel(INBOX_RECORDS);
        let mut readers = JoinSet::new();
        for (owner, store) in &stores {
            readers.spawn(read_records(*owner, store.clone(), sender.clone()));
        }
        Neighbours { stores, inbox, _readers: readers }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> {
        self.stores.keys().copied()
    }

    /// Asks `peers` for their contributions, all at the same time, each until `wait` is over.
    pub(super) async fn contributions(
        &self,
        round: u64,
        peers: impl Iterator<Item = PeerId>,
        wait: Duration,
    ) -> Vec<(PeerId, Result<Option<Values>, StoreError>)> {
        let mut tasks = JoinSet::new();
        for peer in peers {
            let Some(store) = self.stores.get(&peer).cloned() else { continue };
            tasks.spawn(async move {
                let contribution = tokio::time::timeout(wait, store.contribution(round, peer.0)).await;
                (peer, contribution.unwrap_or(Ok(None)))
            });
        }
        tasks.join_all().await
    }
}

/// Reads one peer's store for as long as anybody listens.
async fn read_records(owner: PeerId, store: Arc<dyn Published>, sender: mpsc::Sender<(PeerId, Vec<u8>)>) {
    let mut last = 0;
    while !sender.is_closed() {
        let records = match store.records(last, READ_WAIT).await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(?owner, error = &error as &dyn std::error::Error, "failed to read a peer's records");
                // What is wrong there can not be waited for from here, but there may be nobody left to read for.
                let _ = tokio::time::timeout(READ_AGAIN, sender.closed()).await;
                continue;
            }
        };
        for (number, record) in records {
            last = number;
            if sender.send((owner, record)).await.is_err() {
                return;
            }
        }
    }
}
