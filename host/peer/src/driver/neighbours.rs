//! The other peers, as their stores show them: records as they appear, contributions when they are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use skein_protocol::record::RECORD_BYTES_MAX;
use skein_protocol::round::{Charge, Wanted};
use skein_store::{PeerStore, StoreError};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

/// Records that wait to be taken in, and that are taken in at once. Readers of stores wait when it is full.
pub(super) const INBOX_RECORDS: usize = 1024;
/// Longest single wait for a record in a store: how soon a reader notices that it is no longer needed.
const READ_WAIT: Duration = Duration::from_secs(5);
/// How soon a store is read again after it failed: it belongs to somebody else, and nothing can be done from here.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How long one holder of a contribution is asked alone.
const ASK_NEXT: Duration = Duration::from_secs(2);
/// How soon contributions that could not be had are asked for again.
const FETCH_AGAIN: Duration = Duration::from_millis(50);

/// The other peers of a job.
pub(super) struct Neighbours {
    stores: BTreeMap<PeerId, Arc<dyn PeerStore>>,
    inbox: mpsc::Receiver<Read>,
    /// Tasks that read the stores; they end with the peer.
    _readers: JoinSet<()>,
    fetching: JoinSet<(PeerId, Fetched)>,
    /// Peers whose contributions are under way.
    fetched: BTreeSet<PeerId>,
}

/// A record as it was read.
pub(super) struct Read {
    /// Whose store it is in.
    pub(super) owner: PeerId,
    pub(super) bytes: Vec<u8>,
    /// When it was read.
    pub(super) at: Instant,
}

/// What came from the other peers.
pub(super) enum Arrival {
    /// A record.
    Record(Read),
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
    pub(super) fn read(stores: BTreeMap<PeerId, Arc<dyn PeerStore>>) -> Neighbours {
        let (sender, inbox) = mpsc::channel(INBOX_RECORDS);
        let mut readers = JoinSet::new();
        for (owner, store) in &stores {
            readers.spawn(read_records(*owner, store.clone(), sender.clone()).in_current_span());
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
                    Ok(Arrival::Record(record.context("the readers of the other peers' stores have ended")?))
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
    pub(super) fn waiting(&mut self) -> Option<Read> {
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
            self.fetching.spawn(async move { (peer, fetch.await) }.in_current_span());
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

/// Asks the holders until one gives what was announced, until then at the longest. While one takes its time, the next is
/// asked as well, so that none keeps the others from being asked.
async fn fetch(expected: Expected, holders: Vec<(PeerId, Arc<dyn PeerStore>)>, until: Instant) -> Fetched {
    let is_only = holders.len() == 1;
    let mut rest = holders.into_iter();
    let mut asked = JoinSet::new();
    let mut wrong = None;
    let mut is_missing = true;
    loop {
        if let Some((holder, store)) = rest.next() {
            asked.spawn(ask(expected, holder, store).in_current_span());
        }
        let patience = if rest.len() == 0 { until } else { until.min(Instant::now() + ASK_NEXT) };
        let answer = match tokio::time::timeout_at(patience, asked.join_next()).await {
            Ok(Some(answer)) => answer.expect("asking does not panic"),
            Ok(None) => break,
            Err(_) if Instant::now() < until => continue,
            Err(_) => {
                is_missing = false;
                break;
            }
        };
        match answer {
            Fetched::Verified(values) => return Fetched::Verified(values),
            // What others have of it may still be right.
            Fetched::Wrong(charge) => wrong = Some(charge),
            Fetched::Missing => {}
            Fetched::Unreachable => is_missing = false,
        }
    }
    // Nobody tells when there is something new to get: there is nothing to wait for but time.
    tokio::time::sleep(FETCH_AGAIN).await;
    match wrong {
        Some(charge) if is_only => Fetched::Wrong(charge),
        _ if is_missing => Fetched::Missing,
        _ => Fetched::Unreachable,
    }
}

/// Asks one holder. Only an owner is to blame for what it has.
async fn ask(expected: Expected, holder: PeerId, store: Arc<dyn PeerStore>) -> Fetched {
    let Expected { round, peer, .. } = expected;
    let found = match store.contribution(round, peer).await {
        Ok(None) => return Fetched::Missing,
        Ok(Some(values)) => verify(expected, values).await,
        // It has more values than the model, and was not read any further.
        Err(StoreError::Length { .. }) => Err(Charge::Shape),
        Err(error) => {
            tracing::warn!(?peer, ?holder, error = &error as &dyn std::error::Error, "failed to read a contribution");
            return Fetched::Unreachable;
        }
    };
    match found {
        Ok(values) => Fetched::Verified(values),
        Err(charge) if holder == peer => Fetched::Wrong(charge),
        Err(charge) => {
            tracing::warn!(?peer, ?holder, %charge, "a contribution is not what was announced");
            Fetched::Missing
        }
    }
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
async fn read_records(owner: PeerId, store: Arc<dyn PeerStore>, sender: mpsc::Sender<Read>) {
    let mut last = 0;
    while !sender.is_closed() {
        let records = match store.records(last, READ_WAIT).await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(?owner, error = &error as &dyn std::error::Error, "failed to read a peer's records");
                // What is wrong there cannot be waited for from here, but there may be nobody left to read for.
                let _ = tokio::time::timeout(READ_AGAIN, sender.closed()).await;
                continue;
            }
        };
        for (number, mut bytes) in records {
            last = number;
            // What is longer is no record. The first bytes of it are enough to find that out.
            bytes.truncate(RECORD_BYTES_MAX + 1);
            bytes.shrink_to_fit();
            if sender.send(Read { owner, bytes, at: Instant::now() }).await.is_err() {
                return;
            }
        }
    }
}
