//! One peer's side of a round: does what the protocol decides, and reports the results to it.

mod contribute;
mod failures;
mod folder;
pub mod log;
mod neighbours;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use skein_job::{Job, PeerData};
use skein_kernels::optimizer::Step as OptimizerStep;
use skein_kernels::update::Change;
use skein_protocol::convergence::Progress;
use skein_protocol::deadline::Deadline;
use skein_protocol::identity::Identity;
use skein_protocol::presence::Presence;
use skein_protocol::random::Stream;
use skein_protocol::round::announcement::{Announcement, Evaluation};
use skein_protocol::round::record::{Header, Kind, Record, RecordError};
use skein_protocol::round::{Absence, Agreement, Context as RoundContext, Ended, Received, Round, Step, Waits};
use skein_protocol::shards::EpochSampler;
use skein_runtime::aggregate::Contribution;
use skein_store::{Aggregate, Average, PeerStore, Ports, State, StateDigests, StoreError, Update};
use skein_types::Digest;
use skein_types::PeerId;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use self::folder::LOG_FILE as RECORDS_FILE;
use self::log::{Log, OwnContribution};
use self::neighbours::{Arrival, Fetched, INBOX_RECORDS, Neighbours, Read};
use crate::checkpoint::{decode_progress, encode_progress, hash_of};
use crate::compute::{Compute, state_before};
use crate::phases::{Phase, Phases};
use crate::pool::{FunctionPool, Purpose};
use crate::prepare::PreparedJob;

/// A peer of a job.
pub struct Peer {
    job: Arc<Job>,
    prepared: PreparedJob,
    pool: Arc<FunctionPool>,
    identity: Identity,
    store: Ports,
    compute: Arc<dyn Compute>,
    neighbours: Neighbours,
    order: EpochSampler,
    progress: Progress,
    deadline: Deadline,
    presence: Presence,
    log: Log,
    /// Records of the others that this round accepted, in case it is started again.
    taken: Vec<Read>,
    /// Records of the next rounds, from peers that are ahead.
    early: Vec<Read>,
    clock: Instant,
    awaited: watch::Sender<Option<Awaited>>,
    /// Training loss of the last round, for errors.
    last_loss: Option<f64>,
}

/// Whom a peer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Peers that it waits for.
    pub peers: BTreeSet<PeerId>,
    /// When it was ready itself.
    pub since: Instant,
    /// When it stops waiting at the latest.
    pub until: Instant,
    /// Until when peers were expected, judging by earlier rounds.
    pub expected: Instant,
    /// Those of them that may have ended.
    pub ended: Option<Ended>,
}

/// The parts that each peer has for itself.
pub struct PeerConfig {
    /// The peer's key pair.
    pub identity: Identity,
    /// The store with its state.
    pub store: Ports,
    /// How its batches are computed.
    pub compute: Arc<dyn Compute>,
    /// The stores of the others, read only.
    pub others: BTreeMap<PeerId, Arc<dyn PeerStore>>,
    /// The records that it has signed.
    pub log: Log,
}

/// How a round ended for one peer.
pub enum RoundEnd {
    /// The round was applied.
    Applied(Box<RoundReport>),
    /// The convergence rules end training: the state before the round is final.
    Stopped {
        /// The evaluation that ended training.
        evaluation: Evaluation,
    },
}

/// One applied round as one peer saw it.
pub struct RoundReport {
    /// Number of the round.
    pub round: u64,
    /// The peer that reports.
    pub peer: PeerId,
    /// The state after the round.
    pub state: State,
    /// Hash of that state.
    pub state_hash: Digest,
    /// The peer's contribution, if it has to be kept beside the checkpoint.
    pub contribution: Option<OwnContribution>,
    /// Memory of the convergence rules after the round.
    pub progress: Progress,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Mean training loss over the agreed contributions.
    pub loss: f64,
    /// Evaluation of the state before the round, if it was due.
    pub evaluation: Option<Evaluation>,
    /// Number of contributions that were aggregated.
    pub present: usize,
    /// Peers whose contribution was not aggregated, and why.
    pub absent: BTreeMap<PeerId, Absence>,
    /// Time that each phase took.
    pub phases: Phases,
}

impl Peer {
    /// A peer that continues from the state of its store, wherever it was stopped.
    ///
    /// # Errors
    /// The store fails, or does not hold a state of the job.
    pub async fn start(prepared: PreparedJob, pool: Arc<FunctionPool>, config: PeerConfig) -> Result<Peer> {
        let PeerConfig { identity, store, compute, others, log } = config;
        let job = prepared.job.clone();
        let me = identity.id();
        let digests = store.state.digests().await?;
        let share = &job.shares[&me];
        let order = EpochSampler::new(job.train.seed, share.index, share.train.clone());
        let deadline = Deadline::new(job.train.wait);
        let mut peer = Peer {
            progress: Progress::new(job.train.learning_rate),
            job,
            prepared,
            pool,
            identity,
            store,
            compute,
            neighbours: Neighbours::read(others),
            order,
            deadline,
            presence: Presence::default(),
            log,
            taken: Vec::new(),
            early: Vec::new(),
            clock: Instant::now(),
            awaited: watch::Sender::new(None),
            last_loss: None,
        };
        peer.recall(&digests).await?;
        Ok(peer)
    }

    /// Continues from the state of the store, which lost it and had it restored, and publishes again what it lost.
    ///
    /// # Errors
    /// As [`Peer::start`].
    pub async fn recover(&mut self) -> Result<()> {
        self.compute.open().await?;
        let digests = self.store.state.digests().await?;
        self.recall(&digests).await
    }

    /// Restores the progress kept beside a state, and publishes the records that are due.
    async fn recall(&mut self, digests: &StateDigests) -> Result<()> {
        let metadata = self.store.state.round_metadata(digests.round).await?;
        let metadata = metadata.with_context(|| format!("the store lost the metadata of round {}", digests.round))?;
        self.progress = decode_progress(&metadata, digests.round)?;
        let me = self.me();
        // Values before the records that announce them.
        for (round, values) in self.log.contributions().await? {
            self.store.contributions.put_contribution(round, me, values).await?;
        }
        self.log.reconcile(&*self.store.records, me, self.job.run_id, digests.round).await?;
        if let Some(vote) = self.log.unchecked_vote(digests.round) {
            let header = Header { kind: Kind::Check, previous: self.log.last(), ..vote };
            let check = self.log.sign_once(&self.identity, header, hash_of(digests).0.to_vec()).await?;
            self.store.records.publish(check.encode()).await?;
        }
        Ok(())
    }

    /// The peers that it waits for at the moment; `None` while it does not wait.
    pub fn awaited(&self) -> watch::Receiver<Option<Awaited>> {
        self.awaited.subscribe()
    }

    fn me(&self) -> PeerId {
        self.identity.id()
    }

    fn share(&self) -> &PeerData {
        &self.job.shares[&self.me()]
    }

    /// Takes part in one round, which follows the state of the peer's store.
    ///
    /// # Errors
    /// A function failed, the peers are out of step, or too few of them are left.
    #[tracing::instrument(level = "debug", name = "round", skip_all, fields(round = number))]
    pub async fn round(&mut self, number: u64) -> Result<RoundEnd> {
        let mut phases = Phases::default();
        let digests = state_before(&*self.store.state, number).await?;
        let (average, evaluation) = self.contribute(number, &mut phases).await?;
        tracing::debug!(samples = average.samples, loss = average.loss, "computed");

        let mut round = self.open_round(number, &digests, average, evaluation).await?;
        let mut applied = None;
        let mut phase = Phase::Gather;
        loop {
            let begun = Instant::now();
            let step = round.step(self.clock.elapsed()).with_context(|| round_context(number, &round))?;
            match step {
                Step::Wait { until } => self.wait(&mut round, until).await?,
                Step::Fetch { wanted, until } => {
                    self.neighbours.ask(number, wanted, self.job.layout.len(), self.clock + until);
                    self.wait(&mut round, until).await?;
                }
                Step::Vote(vote) => {
                    tracing::debug!(held = vote.held.len(), accused = vote.accused.len(), "votes");
                    // From here on, other holders are asked for values that their owners did not provide.
                    self.neighbours.stop_asking();
                    let is_new = !self.log.has(number, Kind::Vote);
                    let bytes = self.publish(&round, Kind::Vote, vote.encode()).await?.encode();
                    if !(is_new && round.is_decided()) {
                        round.receive(self.clock.elapsed(), self.me(), &bytes);
                    }
                    phases.add(std::mem::replace(&mut phase, Phase::Vote), begun);
                    continue;
                }
                Step::Aggregate(agreement) => {
                    self.awaited.send_replace(None);
                    let Some(report) = self.apply(number, &agreement, &mut phases).await? else {
                        let evaluation = self.agreed_evaluation(number, &agreement);
                        let evaluation = evaluation.context("training stops only after an evaluation")?;
                        return Ok(RoundEnd::Stopped { evaluation });
                    };
                    // Peers that read the check continue, and drop what this one would need to apply the previous round
                    // again.
                    tracing::debug!(state = %report.state_hash, absent = ?agreement.absent, "applied");
                    self.log.wait_for_checkpoint(number - 1).await;
                    self.publish(&round, Kind::Check, report.state_hash.0.to_vec()).await?;
                    round.applied(self.clock.elapsed(), report.state_hash);
                    applied = Some(report);
                    phase = Phase::Check;
                    continue;
                }
                Step::Finish { unconfirmed, differing } => {
                    if !unconfirmed.is_empty() || !differing.is_empty() {
                        tracing::warn!(round = number, ?unconfirmed, ?differing, "peers did not confirm the state");
                    }
                    break;
                }
            }
            phases.add(phase, begun);
        }
        self.awaited.send_replace(None);
        self.store.state.prune_before(number).await?;
        let report = applied.context("a round is applied before it is finished")?;
        self.progress = report.progress;
        self.last_loss = Some(report.loss);
        self.presence = round.presence();
        round.arrivals().into_iter().for_each(|arrival| self.deadline.observe(arrival));
        self.log.forget(number);
        self.taken.clear();
        self.neighbours.stop_asking();
        Ok(RoundEnd::Applied(Box::new(RoundReport { phases, ..report })))
    }

    /// Begins to gather: announces the peer's contribution, and passes on records that came early.
    async fn open_round(
        &mut self,
        number: u64,
        digests: &StateDigests,
        average: Average,
        evaluation: Option<Evaluation>,
    ) -> Result<Round> {
        // Values that an earlier attempt at the round fetched may have been lost with the store.
        self.neighbours.stop_asking();
        let context = RoundContext {
            run: self.job.run_id,
            round: number,
            state: hash_of(digests),
            roster: self.neighbours.ids().chain([self.me()]).collect(),
            faults: self.job.train.faults,
        };
        let wait_max = self.job.train.wait.max;
        let waits = Waits { opened: self.clock.elapsed(), wait: self.deadline.wait(), wait_max };
        let mut round = Round::new(self.me(), context, self.presence.clone(), waits);
        let Average { hash, samples, loss, .. } = average;
        let announcement = Announcement { values: hash, samples, loss, evaluation };
        let record = self.publish(&round, Kind::Announcement, announcement.encode()).await?;
        round.receive(self.clock.elapsed(), self.me(), &record.encode());
        if self.has_announced(number, &record, hash).await? {
            round.hold(self.clock.elapsed(), self.me());
        }
        let taken = std::mem::take(&mut self.taken);
        for record in taken.into_iter().chain(std::mem::take(&mut self.early)) {
            self.take_in(&mut round, record);
        }
        Ok(round)
    }

    /// Whether the peer's contribution has the hash it announced, possibly before a restart: a gradient function that
    /// is not reproducible then returns other values. In that case the contribution kept on disk is restored.
    async fn has_announced(&self, number: u64, record: &Record, computed: Digest) -> Result<bool> {
        let announced =
            Announcement::decode(record.payload()).context("this peer's own announcement is malformed")?.values;
        if announced == computed {
            return Ok(true);
        }
        let kept = self.log.contributions().await?.into_iter().find(|(round, _)| *round == number);
        let Some((_, values)) = kept else {
            tracing::warn!(round = number, "the gradients differ from those announced before a restart");
            return Ok(false);
        };
        self.store.contributions.put_contribution(number, self.me(), values).await?;
        Ok(true)
    }

    /// Aggregates the agreed contributions and updates the state; `None` if training stops here.
    async fn apply(&mut self, number: u64, agreement: &Agreement, phases: &mut Phases) -> Result<Option<RoundReport>> {
        let evaluation = self.agreed_evaluation(number, agreement);
        let rules = self.job.train.convergence();
        // `self.progress` changes only at the end of the round, which may be started again until then.
        let mut progress = self.progress;
        if evaluation.is_some_and(|evaluation| progress.observe(&rules, evaluation.loss())) {
            return Ok(None);
        }
        let begun = Instant::now();
        let aggregate = self.aggregate(number, agreement).await?;
        phases.add(Phase::Aggregate, begun);

        let begun = Instant::now();
        let learning_rate = progress.learning_rate;
        let change = Change {
            trained: self.job.layout.trained(),
            clip_norm: self.job.train.clip_norm,
            clip_value: self.job.train.clip_value,
            optimizer: self.job.train.optimizer,
            step: OptimizerStep { number: number - progress.optimizer_since, learning_rate: learning_rate as f32 },
        };
        // Before the state it belongs to: a state never lacks its metadata.
        self.store.state.put_round_metadata(number, encode_progress(&progress)).await?;
        let applied = self.store.state.apply(Update { round: number, aggregate, change }).await;
        let digests = applied.with_context(|| aggregation_context(number, agreement))?;
        phases.add(Phase::Update, begun);
        let samples: u64 = agreement.peers.values().map(|announcement| announcement.samples).sum();
        let loss_sum: f64 = agreement.peers.values().map(|a| a.loss * a.samples as f64).sum();
        Ok(Some(RoundReport {
            round: number,
            peer: self.me(),
            state_hash: hash_of(&digests),
            state: self.store.state.state().await?,
            contribution: self.log.own_contribution(&*self.store.contributions, self.me(), number).await?,
            progress,
            learning_rate,
            loss: loss_sum / samples as f64,
            evaluation,
            present: agreement.peers.len(),
            absent: agreement.absent.clone(),
            phases: Phases::default(),
        }))
    }

    /// The aggregate of the agreed contributions: a rule for a store that aggregates by itself, or the values that the
    /// aggregation function returns.
    async fn aggregate(&self, number: u64, agreement: &Agreement) -> Result<Aggregate> {
        if let Some(rule) = self.job.rule.as_ref().filter(|_| self.store.state.aggregates()) {
            let samples: Vec<u64> = agreement.peers.values().map(|announcement| announcement.samples).collect();
            let peers = agreement.peers.keys().copied().collect();
            return Ok(Aggregate::Contributions { rule: rule.kernel(&samples), peers });
        }
        let mut contributions = Vec::with_capacity(agreement.peers.len());
        for (peer, announcement) in &agreement.peers {
            let values = self.store.contributions.contribution(number, *peer).await?;
            let values = values.ok_or(StoreError::Missing { round: number, peer: *peer })?;
            contributions.push(Contribution {
                peer: peer.to_string(),
                samples: announcement.samples,
                values: values.buffer(),
            });
        }
        let function = self.prepared.aggregate.clone();
        let faults = self.job.train.faults;
        let parts = [&self.job.digest.0[..], &number.to_le_bytes()];
        let seed = Stream::new("skein 2026-11 random numbers of a rule", self.job.train.seed, &parts).next_u64();
        let account = self.pool.account(Purpose::Aggregate);
        let call = async move {
            let slot = function.slot().await;
            account.book(function.aggregate(&slot, contributions, faults, seed)).await
        };
        let aggregated = self.pool.run(call).await?;
        Ok(Aggregate::Values(aggregated.with_context(|| aggregation_context(number, agreement))?.values.into()))
    }

    /// Signs a record, or takes the one already signed for its round and kind, and appends it to the peer's store.
    async fn publish(&mut self, round: &Round, kind: Kind, payload: Vec<u8>) -> Result<Record> {
        // Kept before others can read it: whatever happens now, no other record is signed in its place.
        let record = self.log.sign_once(&self.identity, round.header(kind, self.log.last()), payload).await?;
        self.store.records.publish(record.encode()).await?;
        Ok(record)
    }

    /// Waits for the next arrival, until `until` at most, and processes it and the records already in the inbox.
    async fn wait(&mut self, round: &mut Round, until: Duration) -> Result<()> {
        let since = self.clock + round.opened();
        self.awaited.send_replace(Some(Awaited {
            peers: round.awaited(),
            since,
            until: self.clock + until,
            expected: since + self.deadline.wait(),
            ended: round.ended(),
        }));
        match self.neighbours.next(self.clock + until).await? {
            Some(Arrival::Record(record)) => self.take_in(round, record),
            Some(Arrival::Contribution(peer, fetched)) => self.keep(round, peer, fetched).await?,
            None => {}
        }
        // At most as many as fit the inbox: a peer that publishes without end does not hold up the round.
        for _ in 0..INBOX_RECORDS {
            let Some(record) = self.neighbours.waiting() else { break };
            self.take_in(round, record);
        }
        Ok(())
    }

    /// Passes a record to the round, and keeps it if it matters should the round be started again, or for a later
    /// round. A round accepts one of each kind from each peer.
    fn take_in(&mut self, round: &mut Round, record: Read) {
        let read = record.at.saturating_duration_since(self.clock);
        match round.receive(read, record.owner, &record.bytes) {
            Received::Taken => self.taken.push(record),
            Received::Early => self.early.push(record),
            Received::Ignored => {}
            Received::OtherVersion(version) => {
                let error = RecordError::Version(version);
                tracing::warn!(peer = ?record.owner, %error, "a peer cannot be understood");
            }
        }
    }

    /// Copies a verified contribution into the peer's store, and reports the outcome to the round.
    async fn keep(&mut self, round: &mut Round, peer: PeerId, fetched: Fetched) -> Result<()> {
        match fetched {
            Fetched::Verified(values) => {
                self.store.contributions.put_contribution(round.number(), peer, values).await?;
                round.hold(self.clock.elapsed(), peer);
            }
            Fetched::Wrong(misbehaviour) => round.accuse(self.clock.elapsed(), peer, misbehaviour),
            Fetched::Missing { asked } => round.miss(asked.saturating_duration_since(self.clock), peer),
            Fetched::Unreachable => {}
        }
        Ok(())
    }

    /// Evaluation of the state before the round, if it was due: the total of the peers' sums. A sum over more samples
    /// than the peer is known to have does not count.
    fn agreed_evaluation(&self, number: u64, agreement: &Agreement) -> Option<Evaluation> {
        if !self.is_evaluation_due(number) {
            return None;
        }
        let sound = agreement.peers.iter().filter_map(|(peer, announcement)| {
            let samples = self.job.shares.get(peer)?.validation.len() as u64;
            announcement.evaluation.filter(|evaluation| evaluation.samples <= samples)
        });
        // Sums that are finite may overflow when added up.
        Evaluation::total(sound).filter(|total| total.loss_sum.is_finite())
    }
}

/// Context of an error while the agreed contributions are aggregated or applied.
fn aggregation_context(number: u64, agreement: &Agreement) -> String {
    format!("failed to aggregate round {number}{}", listed("absent", &agreement.absent))
}

/// Context of the error of a refused round.
fn round_context(number: u64, round: &Round) -> String {
    format!("round {number} cannot be finished{}", listed("accused", round.accusations()))
}

/// Peers with a reason for each, in parentheses after `what`; empty without peers.
fn listed(what: &str, peers: &BTreeMap<PeerId, impl std::fmt::Display>) -> String {
    let peers: Vec<_> = peers.iter().map(|(peer, why)| format!("{peer:?}: {why}")).collect();
    if peers.is_empty() { String::new() } else { format!(" ({what}: {})", peers.join(", ")) }
}
