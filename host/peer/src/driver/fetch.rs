//! Gets what a node wants from the stores of the others, and verifies it before the node hears of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skein_job::Job;
use skein_protocol::decision::Decision;
use skein_protocol::keys::Ed25519;
use skein_protocol::node::{Found, Want};
use skein_protocol::record::Unverified;
use skein_protocol::record::payload::{Check, Selection};
use skein_protocol::standing::Standing;
use skein_store::{PeerStore, Ports, State, StoreError, blocking, statistics_of};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use super::failures::Failures;
use super::served;
use super::verified::Verified;
use crate::checkpoint::{decode_metadata, hash_of};

/// How long the last holder asked has to answer before the next one is asked too, and how long the last of all; each beside
/// what the transfer takes at so many bytes a second, which a link of some megabits has.
const ASK_NEXT: Duration = Duration::from_millis(250);
const GIVE_UP: Duration = Duration::from_secs(10);
const BYTES_PER_SECOND: usize = 1 << 20;
/// How many times faster than that a link is expected to be: until then, another holder is not asked too.
const USUAL: u32 = 16;

/// What came of a request, with values that are not in the store yet.
pub(super) enum Fetched {
    /// Values with the wanted hash, as many as the model has, all of them finite.
    Values(Values),
    /// A state with the wanted hashes.
    State(State, Box<Standing>),
    /// Anything else.
    Found(Found),
}

/// Another peer, as far as it can be read.
pub(super) struct Neighbour {
    pub(super) id: PeerId,
    pub(super) store: Arc<dyn PeerStore>,
    pub(super) records: Reads,
    pub(super) values: Reads,
}

/// Reads of one kind from one peer's store, which fail and recover apart from those of the other kind.
pub(super) struct Reads {
    id: PeerId,
    what: &'static str,
    failures: Mutex<Failures>,
}

impl Reads {
    /// Logs that a read failed, and rarely again as long as the reason stays.
    pub(super) fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        if let Some(times) = self.failures().failed(reason, Instant::now()) {
            tracing::warn!(peer = ?self.id, what = self.what, times, error, "failed to read the database of a peer");
        }
    }

    /// Logs that a read succeeded after failures.
    pub(super) fn succeeded(&self) {
        if let Some(times) = self.failures().recovered() {
            tracing::info!(peer = ?self.id, what = self.what, times, "the database of a peer is read again");
        }
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the stores of the other peers, and of this one.
pub(super) struct Fetcher {
    pub(super) run: Digest,
    /// Number of values of the model.
    len: usize,
    /// Vectors of optimizer state.
    slots: usize,
    me: PeerId,
    own: Ports,
    pub(super) others: BTreeMap<PeerId, Arc<Neighbour>>,
    pub(super) verified: Arc<Verified>,
}

/// Who may have what is wanted.
#[derive(Default)]
struct Holders {
    named: BTreeSet<PeerId>,
    /// Those that were not asked yet, in the order in which they are.
    rest: VecDeque<PeerId>,
}

impl Holders {
    fn add(&mut self, holders: &[PeerId]) {
        let new = holders.iter().filter(|peer| self.named.insert(**peer));
        self.rest.extend(new);
    }
}

/// What one holder has.
enum Answer {
    Fetched(Fetched),
    Missing,
    Unreachable,
    /// The owner itself has something else than it announced.
    Wrong,
}

impl Fetcher {
    pub(super) fn new(
        job: &Job,
        me: PeerId,
        own: Ports,
        others: BTreeMap<PeerId, Arc<dyn PeerStore>>,
        verified: Arc<Verified>,
    ) -> Fetcher {
        let neighbour = |(id, store)| {
            let reads = |what| Reads { id, what, failures: Mutex::default() };
            (id, Arc::new(Neighbour { id, store, records: reads("records"), values: reads("values") }))
        };
        let others = others.into_iter().map(neighbour).collect();
        let slots = job.train.optimizer.kind().slots;
        Fetcher { run: job.run_id, len: job.layout.len(), slots, me, own, others, verified }
    }

    /// Asks the holders until one has what is wanted. If one is slow, the next is asked as well, so that no holder keeps the
    /// others from being asked. Further holders may be named while the request is under way.
    pub(super) async fn fetch(
        self: &Arc<Fetcher>,
        want: &Want,
        mut named: mpsc::UnboundedReceiver<Vec<PeerId>>,
    ) -> Fetched {
        if let Some(fetched) = self.look_here(want).await {
            return fetched;
        }
        let mut holders = Holders::default();
        let mut asked = JoinSet::new();
        let mut found = Found::Missing;
        let transfer = self.transfer_of(want);
        let mut last = Instant::now();
        loop {
            while let Ok(new) = named.try_recv() {
                holders.add(&new);
            }
            let next = last + transfer / USUAL + ASK_NEXT;
            if (asked.is_empty() || Instant::now() >= next)
                && let Some(holder) = self.take_next(&mut holders)
            {
                let this = self.clone();
                let want = want.clone();
                asked.spawn(async move { this.ask(&want, &holder).await }.in_current_span());
                last = Instant::now();
            } else if asked.is_empty() {
                return Fetched::Found(found);
            }
            let is_last = holders.rest.is_empty();
            let until = last + if is_last { transfer + GIVE_UP } else { transfer / USUAL + ASK_NEXT };
            let answer = tokio::select! {
                answer = asked.join_next() => answer,
                Some(new) = named.recv() => {
                    holders.add(&new);
                    continue;
                }
                () = tokio::time::sleep_until(until) => {
                    if is_last {
                        // None of them may hold this up for ever. If it is still of use, the node asks again.
                        return Fetched::Found(Found::Unreachable);
                    }
                    continue;
                }
            };
            match answer.transpose().expect("a request does not panic") {
                Some(Answer::Fetched(fetched)) => return fetched,
                // Another holder may still have what is wanted.
                Some(Answer::Wrong) => found = Found::Wrong,
                Some(Answer::Unreachable) if !matches!(found, Found::Wrong) => found = Found::Unreachable,
                Some(Answer::Unreachable | Answer::Missing) | None => {}
            }
        }
    }

    fn take_next(&self, holders: &mut Holders) -> Option<Arc<Neighbour>> {
        std::iter::from_fn(|| holders.rest.pop_front()).find_map(|peer| self.others.get(&peer).cloned())
    }

    /// How long the bytes of an answer may take.
    fn transfer_of(&self, want: &Want) -> Duration {
        let vectors = match want {
            Want::Values(..) => 1,
            Want::State(..) => 1 + self.slots,
            Want::Announcement(..) | Want::Selection(..) | Want::Decision(_) => 0,
        };
        Duration::from_secs((vectors * self.len * size_of::<f32>() / BYTES_PER_SECOND) as u64)
    }

    /// Asks the holders one after the other, which are in this process.
    pub(super) async fn look_around(&self, want: &Want, holders: Vec<PeerId>) -> Fetched {
        let mut found = Found::Missing;
        for holder in holders.iter().filter_map(|peer| self.others.get(peer)) {
            match self.ask(want, holder).await {
                Answer::Fetched(fetched) => return fetched,
                Answer::Wrong => found = Found::Wrong,
                Answer::Unreachable | Answer::Missing => {}
            }
        }
        Fetched::Found(found)
    }

    /// A database that outlived its host holds what was fetched before.
    async fn look_here(&self, want: &Want) -> Option<Fetched> {
        let Want::Values(position, peer, hash) = want else { return None };
        let values = self.own.contributions.contribution(position.round, *peer).await.ok()??;
        self.check_values(values, *hash).await.map(Fetched::Values)
    }

    async fn ask(&self, want: &Want, holder: &Neighbour) -> Answer {
        let answer = match want {
            Want::Values(position, owner, hash) => self.ask_values(holder, position.round, *owner, *hash).await,
            Want::State(position, check) => {
                // A state with which training stopped early is that of the round before.
                let mut answer = self.ask_state(holder, position.round, *check).await;
                if matches!(answer, Ok(Answer::Missing)) && position.round > 0 {
                    answer = self.ask_state(holder, position.round - 1, *check).await;
                }
                answer
            }
            Want::Announcement(_, _, hash) => self.ask_served(holder, &served::announcement(hash), want).await,
            Want::Selection(_, digest) => self.ask_served(holder, &served::selection(digest), want).await,
            Want::Decision(position) => self.ask_served(holder, &served::decision(*position), want).await,
        };
        match answer {
            Ok(answer) => {
                holder.values.succeeded();
                answer
            }
            Err(error) => {
                holder.values.failed(&error);
                Answer::Unreachable
            }
        }
    }

    async fn ask_served(&self, holder: &Neighbour, name: &str, want: &Want) -> Result<Answer, StoreError> {
        let Some(bytes) = holder.store.served(name).await? else { return Ok(Answer::Missing) };
        let found = match want {
            Want::Selection(..) => Selection::decode(&bytes, self.run, &Ed25519).map(Found::Selection),
            Want::Decision(_) => {
                let decision = Decision::decode(&bytes, self.run, &Ed25519);
                decision.map(|decision| Found::Decision(Arc::new(decision)))
            }
            _ => Unverified::decode(&bytes).and_then(|record| self.verified.verify(record)).map(Found::Announcement),
        };
        Ok(match found {
            Ok(found) => Answer::Fetched(Fetched::Found(found)),
            Err(error) => {
                tracing::warn!(peer = ?holder.id, name, %error, "a peer serves something that is not what it says");
                Answer::Missing
            }
        })
    }

    async fn ask_values(
        &self,
        holder: &Neighbour,
        round: u64,
        owner: PeerId,
        hash: Digest,
    ) -> Result<Answer, StoreError> {
        let values = match holder.store.contribution(round, owner).await {
            Ok(None) => return Ok(Answer::Missing),
            Ok(Some(values)) => self.check_values(values, hash).await,
            // It has more values than the model, and was not read further.
            Err(StoreError::Length { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(match values {
            Some(values) => Answer::Fetched(Fetched::Values(values)),
            None if holder.id == owner => {
                tracing::warn!(peer = ?owner, round, "a peer provides other values than it announced, or unusable ones");
                Answer::Wrong
            }
            None => {
                tracing::warn!(?owner, holder = ?holder.id, "a contribution does not match its announcement");
                Answer::Missing
            }
        })
    }

    async fn check_values(&self, values: Values, hash: Digest) -> Option<Values> {
        if values.len() != self.len {
            return None;
        }
        let statistics = statistics_of(&values).await;
        (statistics.hash == hash && statistics.finite).then_some(values)
    }

    async fn ask_state(&self, holder: &Neighbour, round: u64, check: Check) -> Result<Answer, StoreError> {
        let Some((state, metadata)) = holder.store.state_after(round).await? else { return Ok(Answer::Missing) };
        let standing = decode_metadata(&metadata, round).map(|(_, standing)| standing);
        let Some(standing) = standing.filter(|standing| standing.digest() == check.standing) else {
            return Ok(Answer::Missing);
        };
        let (state, hash) = blocking(move || {
            let hash = hash_of(&state.digests());
            (state, hash)
        })
        .await;
        Ok(if hash == check.state {
            Answer::Fetched(Fetched::State(state, Box::new(standing)))
        } else {
            Answer::Missing
        })
    }

    /// The peer that reads.
    pub(super) fn me(&self) -> PeerId {
        self.me
    }
}
