//! The other peers, as their stores show them: records as they appear, contributions when they are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use skein_kernels::Digest;
use skein_store::{Published, StoreError, Values};
use skein_workflow::identity::PeerId;
use skein_workflow::round::{Charge, Wanted};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Records that wait to be taken in, and that are taken in at once. Readers of stores wait when it is full.
pub(super) const INBOX_RECORDS: usize = 1024;
/// Longest single wait for a record in a store: how soon a reader notices that it is no longer needed.
const READ_WAIT: Duration = Duration::from_secs(5);
/// How soon a store is read again after it failed: it belongs to somebody else, and nothing can be done from here.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How soon contributions that could not be had are asked for again.
const FETCH_AGAIN: Duration = Duration::from_millis(50);

/// The other peers of a job.
pub(super) struct Neighbours {
    stores: BTreeMap<PeerId, Arc<dyn Published>>,
    inbox: mpsc::Receiver<(PeerId, Vec<u8>)>,
    /// Tasks that read the stores; they end with the peer.
    _readers: JoinSet<()>,
    fetching: JoinSet<(PeerId, Fetched)>,
    /// Peers whose contributions are under way.
    fetched: BTreeSet<PeerId>,
}

/// What came from the other peers.
pub(super) enum Arrival {
    /// A record of the store of this peer.
    Record(PeerId, Vec<u8>),
    /// The contribution of this peer, or why it is not here.
    Contribution(PeerId, Fetched),
}

/// What became of a contribution that was asked for.
pub(super) enum Fetched {
    /// It is what was announced.
    Verified(Values),
    /// Its owner gives something else than it announced.
    Wrong(Charge),
    /// All who should have it say that they do not.
    Missing,
    /// Some who may have it could not be read.
    Unreachable,
}

impl Neighbours {
    /// Begins to read the records of all stores.
    pub(super) fn read(stores: BTreeMap<PeerId, Arc<dyn Published>>) -> Neighbours {
        let (sender, inbox) = mpsc::channel(INBOX_RECORDS);
        let mut readers = JoinSet::new();
        for (owner, store) in &stores {
            readers.spawn(read_records(*owner, store.clone(), sender.clone()));
        }
        Neighbours { stores, inbox, _readers: readers, fetching: JoinSet::new(), fetched: BTreeSet::new() }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> {
        self.stores.keys().copied()
    }

    /// Waits for what comes next, until then at the longest; none if nothing came.
    ///
    /// # Errors
    /// Nothing is read any more.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<Arrival>> {
        let next = async {
            tokio::select! {
                record = self.inbox.recv() => {
                    let (owner, bytes) = record.context("the readers of the other peers' stores have ended")?;
                    Ok(Arrival::Record(owner, bytes))
                }
                Some(fetched) = self.fetching.join_next() => {
                    let (peer, fetched) = fetched.context("a contribution was lost")?;
                    self.fetched.remove(&peer);
                    Ok(Arrival::Contribution(peer, fetched))
                }
            }
        };
        tokio::time::timeout_at(until, next).await.ok().transpose()
    }

    /// A record that is here already.
    pub(super) fn waiting(&mut self) -> Option<(PeerId, Vec<u8>)> {
        self.inbox.try_recv().ok()
    }

    /// Asks for contributions to `round` that are not under way yet, each on its own, until then at the longest. They have
    /// `len` values.
    pub(super) fn ask(&mut self, round: u64, wanted: BTreeMap<PeerId, Wanted>, len: usize, until: Instant) {
        for (peer, Wanted { announcement, holders }) in wanted {
            if !self.fetched.insert(peer) {
                continue;
            }
            let stores = holders.iter().filter_map(|holder| Some((*holder, self.stores.get(holder)?.clone())));
            let expected = Expected { round, peer, hash: announcement.values, len };
            let fetch = fetch(expected, stores.collect(), until);
            self.fetching.spawn(async move { (peer, fetch.await) });
        }
    }

    /// Asks for nothing any more.
    pub(super) fn stop_asking(&mut self) {
        self.fetching = JoinSet::new();
        self.fetched.clear();
    }
}

/// A contribution by what is known of it.
#[derive(Clone, Copy)]
struct Expected {
    round: u64,
    peer: PeerId,
    hash: Digest,
    len: usize,
}

/// Asks one holder after the other until one gives what was announced. Those that are left share the time that is left,
/// so that a slow one keeps nobody from asking the next.
async fn fetch(expected: Expected, holders: Vec<(PeerId, Arc<dyn Published>)>, until: Instant) -> Fetched {
    let Expected { round, peer, .. } = expected;
    let mut worst = Fetched::Missing;
    for (index, (holder, store)) in holders.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(holders.len() - index).unwrap_or(u32::MAX);
        let found = match tokio::time::timeout(share, store.contribution(round, peer.0)).await {
            Ok(Ok(None)) => continue,
            Ok(Ok(Some(values))) => verify(expected, values).await,
            // It has more values than the model, and was not read any further.
            Ok(Err(StoreError::Length { .. })) => Err(Charge::Shape),
            Ok(Err(error)) => {
                tracing::warn!(
                    ?peer,
                    ?holder,
                    error = &error as &dyn std::error::Error,
                    "failed to read a contribution"
                );
                worst = Fetched::Unreachable;
                continue;
            }
            Err(_) => {
                worst = Fetched::Unreachable;
                continue;
            }
        };
        match found {
            Ok(values) => return Fetched::Verified(values),
            // What others have of it may still be right.
            Err(charge) if *holder == peer => worst = Fetched::Wrong(charge),
            Err(charge) => tracing::warn!(?peer, ?holder, %charge, "a contribution is not what was announced"),
        }
    }
    if !matches!(worst, Fetched::Wrong(_)) {
        // A peer that has nothing yet tells nobody when it has: there is nothing to wait for but time.
        tokio::time::sleep(FETCH_AGAIN).await;
    }
    worst
}

/// Looks at values before they are stored, where blocking is allowed.
async fn verify(expected: Expected, values: Values) -> Result<Values, Charge> {
    if values.len() != expected.len {
        return Err(Charge::Shape);
    }
    let looked = tokio::task::spawn_blocking(move || {
        let statistics = values.statistics();
        (values, statistics)
    });
    let (values, statistics) = looked.await.expect("hashing does not panic");
    if statistics.hash != expected.hash {
        return Err(Charge::Hash);
    }
    if statistics.finite { Ok(values) } else { Err(Charge::NonFinite) }
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
