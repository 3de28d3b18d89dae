//! Reads the other peers' stores: records as they appear, contributions on request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use skein_protocol::round::record::RECORD_BYTES_MAX;
use skein_protocol::round::{Misbehaviour, Wanted};
use skein_store::{PeerStore, StoreError};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use super::failures::Failures;

/// Most records that wait in the inbox, and that are processed in one go. Readers of stores wait when it is full.
pub(super) const INBOX_RECORDS: usize = 1024;
/// Longest single wait for a record in a store, after which a reader notices that it is no longer needed.
const READ_WAIT: Duration = Duration::from_secs(5);
/// Pause before a store that failed is read again: it belongs to another peer, and cannot be repaired from here.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How long the last holder asked has to answer before the next one is asked too.
const ASK_NEXT: Duration = Duration::from_secs(2);
/// Pause before a contribution that could not be read is requested again.
const FETCH_AGAIN: Duration = Duration::from_millis(50);

/// The other peers of a job.
pub(super) struct Neighbours {
    stores: BTreeMap<PeerId, Arc<Neighbour>>,
    inbox: mpsc::Receiver<Read>,
    /// Tasks that read the stores; they end with the peer.
    _readers: JoinSet<()>,
    fetching: JoinSet<(PeerId, Fetched)>,
    /// Peers whose contributions are being fetched.
    fetched: BTreeSet<PeerId>,
}

/// Another peer, as far as it can be read.
struct Neighbour {
    id: PeerId,
    store: Arc<dyn PeerStore>,
    records: Reads,
    contributions: Reads,
}

impl Neighbour {
    fn new(id: PeerId, store: Arc<dyn PeerStore>) -> Neighbour {
        let reads = |what| Reads { id, what, failures: Mutex::default() };
        Neighbour { id, store, records: reads("records"), contributions: reads("contributions") }
    }
}

/// Reads of one kind from one peer's store, which fail and recover apart from those of the other kind.
struct Reads {
    id: PeerId,
    what: &'static str,
    failures: Mutex<Failures>,
}

impl Reads {
    /// Logs that a read failed, and rarely again as long as the reason stays.
    fn failed(&self, error: &StoreError) {
        let error: &dyn std::error::Error = error;
        let causes = std::iter::successors(Some(error), |error| error.source());
        let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        if let Some(times) = self.failures().failed(reason, Instant::now()) {
            tracing::warn!(peer = ?self.id, what = self.what, times, error, "failed to read the database of a peer");
        }
    }

    /// Logs that a read succeeded after failures.
    fn succeeded(&self) {
        if let Some(times) = self.failures().recovered() {
            tracing::info!(peer = ?self.id, what = self.what, times, "the database of a peer is read again");
        }
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record as it was read.
pub(super) struct Read {
    /// The peer whose store it was read from.
    pub(super) owner: PeerId,
    pub(super) bytes: Vec<u8>,
    /// When it was read.
    pub(super) at: Instant,
}

/// Something that arrived from the other peers.
pub(super) enum Arrival {
    /// A record that appeared in a peer's store.
    Record(Read),
    /// The contribution of this peer, or why it was not fetched.
    Contribution(PeerId, Fetched),
}

/// Outcome of a request for a contribution.
pub(super) enum Fetched {
    /// The values match the announcement.
    Verified(Values),
    /// Its owner provides other values than it announced.
    Wrong(Misbehaviour),
    /// No holder had it.
    Missing {
        /// When the first of them was asked.
        asked: Instant,
    },
    /// Some holder could not be read, and may have it.
    Unreachable,
}

impl Neighbours {
    /// Begins to read the records of all stores.
    pub(super) fn read(stores: BTreeMap<PeerId, Arc<dyn PeerStore>>) -> Neighbours {
        let (sender, inbox) = mpsc::channel(INBOX_RECORDS);
        let mut readers = JoinSet::new();
        let neighbour = |(id, store)| (id, Arc::new(Neighbour::new(id, store)));
        let stores: BTreeMap<PeerId, Arc<Neighbour>> = stores.into_iter().map(neighbour).collect();
        for neighbour in stores.values() {
            readers.spawn(read_records(neighbour.clone(), sender.clone()).in_current_span());
        }
        Neighbours { stores, inbox, _readers: readers, fetching: JoinSet::new(), fetched: BTreeSet::new() }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> {
        self.stores.keys().copied()
    }

    /// Waits for the next arrival, until `until` at most; `None` if nothing arrived.
    ///
    /// # Errors
    /// The tasks that read the stores have ended, or one that fetches panicked.
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

    /// A record that is already in the inbox.
    pub(super) fn waiting(&mut self) -> Option<Read> {
        self.inbox.try_recv().ok()
    }

    /// Requests contributions to `round` that are not being fetched yet, in parallel, until `until` at most. They have
    /// `len` values each.
    pub(super) fn ask(&mut self, round: u64, wanted: BTreeMap<PeerId, Wanted>, len: usize, until: Instant) {
        for (peer, Wanted { announcement, holders }) in wanted {
            if !self.fetched.insert(peer) {
                continue;
            }
            let holders = holders.iter().filter_map(|holder| self.stores.get(holder).cloned());
            let expected = Expected { round, peer, hash: announcement.values, len };
            let fetch = fetch(expected, holders.collect(), until);
            self.fetching.spawn(async move { (peer, fetch.await) }.in_current_span());
        }
    }

    /// Drops all requests for contributions.
    pub(super) fn stop_asking(&mut self) {
        self.fetching = JoinSet::new();
        self.fetched.clear();
    }
}

/// A contribution as it was announced.
#[derive(Clone, Copy)]
struct Expected {
    round: u64,
    peer: PeerId,
    hash: Digest,
    len: usize,
}

/// Asks the holders until one provides the announced values, until `until` at most. If one is slow, the next is asked
/// as well, so that no holder keeps the others from being asked.
async fn fetch(expected: Expected, holders: Vec<Arc<Neighbour>>, until: Instant) -> Fetched {
    let begun = Instant::now();
    let is_only = holders.len() == 1;
    let mut rest = holders.into_iter();
    let mut asked = JoinSet::new();
    let mut wrong = None;
    let mut is_missing = true;
    loop {
        if let Some(holder) = rest.next() {
            asked.spawn(ask(expected, holder).in_current_span());
        }
        let patience = if rest.len() == 0 { until } else { until.min(Instant::now() + ASK_NEXT) };
        let answer = match tokio::time::timeout_at(patience, asked.join_next()).await {
            Ok(Some(answer)) => answer.expect("a request does not panic"),
            Ok(None) => break,
            Err(_) if Instant::now() < until => continue,
            Err(_) => {
                is_missing = false;
                break;
            }
        };
        match answer {
            Fetched::Verified(values) => return Fetched::Verified(values),
            // Another holder may still have the right values.
            Fetched::Wrong(misbehaviour) => wrong = Some(misbehaviour),
            Fetched::Missing { .. } => {}
            Fetched::Unreachable => is_missing = false,
        }
    }
    // Nothing signals new values, so wait a while before the next attempt.
    tokio::time::sleep(FETCH_AGAIN).await;
    match wrong {
        Some(misbehaviour) if is_only => Fetched::Wrong(misbehaviour),
        _ if is_missing => Fetched::Missing { asked: begun },
        _ => Fetched::Unreachable,
    }
}

/// Asks one holder. Only the owner is accused for wrong values.
async fn ask(expected: Expected, holder: Arc<Neighbour>) -> Fetched {
    let asked = Instant::now();
    let Expected { round, peer, .. } = expected;
    let found = match holder.store.contribution(round, peer).await {
        Ok(None) => return Fetched::Missing { asked },
        Ok(Some(values)) => verify(expected, values).await,
        // It has more values than the model, and was not read further.
        Err(StoreError::Length { .. }) => Err(Misbehaviour::Shape),
        Err(error) => {
            holder.contributions.failed(&error);
            return Fetched::Unreachable;
        }
    };
    holder.contributions.succeeded();
    match found {
        Ok(values) => Fetched::Verified(values),
        Err(misbehaviour) if holder.id == peer => Fetched::Wrong(misbehaviour),
        Err(misbehaviour) => {
            tracing::warn!(?peer, holder = ?holder.id, %misbehaviour, "a contribution does not match its announcement");
            Fetched::Missing { asked }
        }
    }
}

/// Checks values before they are stored, on a thread that may block.
async fn verify(expected: Expected, values: Values) -> Result<Values, Misbehaviour> {
    if values.len() != expected.len {
        return Err(Misbehaviour::Shape);
    }
    let checked = tokio::task::spawn_blocking(move || {
        let statistics = values.statistics();
        (values, statistics)
    });
    let (values, statistics) = checked.await.expect("hashing does not panic");
    if statistics.hash != expected.hash {
        return Err(Misbehaviour::Hash);
    }
    if statistics.finite { Ok(values) } else { Err(Misbehaviour::NonFinite) }
}

/// Reads one peer's records until the inbox is closed.
async fn read_records(neighbour: Arc<Neighbour>, sender: mpsc::Sender<Read>) {
    let mut last = 0;
    while !sender.is_closed() {
        let records = match neighbour.store.records(last, READ_WAIT).await {
            Ok(records) => records,
            Err(error) => {
                neighbour.records.failed(&error);
                // The cause cannot be waited for from here, but the end of the peer can.
                let _ = tokio::time::timeout(READ_AGAIN, sender.closed()).await;
                continue;
            }
        };
        neighbour.records.succeeded();
        for (number, mut bytes) in records {
            last = number;
            // Longer bytes are not a record, and their first ones are enough to find that out.
            bytes.truncate(RECORD_BYTES_MAX + 1);
            bytes.shrink_to_fit();
            if sender.send(Read { owner: neighbour.id, bytes, at: Instant::now() }).await.is_err() {
                return;
            }
        }
    }
}
