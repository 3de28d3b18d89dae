//! One peer's side of a round: does what the workflow decides, and tells it what came of it.

mod compute;
mod history;
mod neighbours;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use skein_kernels::Digest;
use skein_kernels::optimizer::Step as OptimizerStep;
use skein_kernels::update::Change;
use skein_runtime::aggregate::Contribution;
use skein_store::{Aggregate, Average, Head, Published, State, Store, StoreError, Update};
use skein_workflow::announcement::{Announcement, Evaluation};
use skein_workflow::convergence::Progress;
use skein_workflow::deadline::Deadline;
use skein_workflow::identity::{Identity, PeerId};
use skein_workflow::record::Kind;
use skein_workflow::round::{Absence, Agreement, Charge, Context as RoundContext, Received, Round, Step};
use skein_workflow::shards::Order;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::history::History;
use self::neighbours::{INBOX_RECORDS, Neighbours};
use crate::checkpoint::{decode_progress, encode_progress, hash_of};
use crate::job::{Job, Share};
use crate::phases::{Phase, Phases};
use crate::worker::desk::Desk;
use crate::workers::{Purpose, Workers};

/// How soon contributions that could not be had are asked for again.
const FETCH_AGAIN: Duration = Duration::from_millis(50);

/// A peer of a job.
pub struct Peer {
    job: Arc<Job>,
    workers: Arc<Workers>,
    identity: Identity,
    store: Arc<dyn Store>,
    desk: Option<Desk>,
    neighbours: Neighbours,
    order: Order,
    progress: Progress,
    deadline: Deadline,
    heads: BTreeMap<PeerId, Digest>,
    history: History,
    /// Records of the others that this round has taken in, for the case that it is begun anew.
    taken: Vec<(PeerId, Vec<u8>)>,
    /// Those of the next round, from peers that are ahead.
    early: Vec<(PeerId, Vec<u8>)>,
    clock: Instant,
}

/// What is one peer's own.
pub struct Seat {
    /// Who it is.
    pub identity: Identity,
    /// Where it keeps its state.
    pub store: Arc<dyn Store>,
    /// Where it lays out its batches for workers; without one it computes them itself.
    pub desk: Option<Desk>,
    /// What the others publish.
    pub others: BTreeMap<PeerId, Arc<dyn Published>>,
}

/// How a round ended for one peer.
pub enum RoundEnd {
    /// It was applied.
    Applied(Box<RoundReport>),
    /// The state before it is final: the convergence rules say so.
    Stopped {
        /// What they decided on.
        evaluation: Evaluation,
    },
}

/// One applied round as one peer saw it.
pub struct RoundReport {
    /// Number of the round.
    pub round: u64,
    /// Who reports.
    pub peer: PeerId,
    /// The state after it.
    pub state: State,
    /// Its hash.
    pub state_hash: Digest,
    /// What the convergence rules remember after it.
    pub progress: Progress,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Mean training loss over the agreed contributions.
    pub loss: f64,
    /// How the state before the round did, if that was due.
    pub evaluation: Option<Evaluation>,
    /// Contributions that were aggregated.
    pub present: usize,
    /// Who was missing, and why.
    pub absent: BTreeMap<PeerId, Absence>,
    /// Where the time went.
    pub phases: Phases,
}

impl Peer {
    /// A peer that goes on from the state of its store, wherever it was ended.
    ///
    /// # Errors
    /// The store fails, or does not hold a state of the job.
    pub async fn start(job: Arc<Job>, workers: Arc<Workers>, seat: Seat) -> Result<Peer> {
        let Seat { identity, store, desk, others } = seat;
        let me = identity.id();
        let head = store.head().await?;
        let history = History::read(&*store, me, job.digest, head.round).await?;
        let order = Order::new(job.train.seed, me, job.shares[&me].train.clone());
        let deadline = Deadline::new(job.train.deadline());
        let mut peer = Peer {
            progress: Progress::new(job.train.learning_rate),
            job,
            workers,
            identity,
            store,
            desk,
            neighbours: Neighbours::read(others),
            order,
            deadline,
            heads: BTreeMap::new(),
            history,
            taken: Vec::new(),
            early: Vec::new(),
            clock: Instant::now(),
        };
        peer.recall(&head).await?;
        Ok(peer)
    }

    /// Goes on from the state of the store, which had lost it and got it back, and says again what it has lost.
    ///
    /// # Errors
    /// As [`Peer::start`].
    pub async fn recover(&mut self) -> Result<()> {
        if let Some(desk) = &self.desk {
            desk.open().await?;
        }
        for record in self.history.records() {
            self.store.publish(record.encode()).await?;
        }
        let head = self.store.head().await?;
        self.recall(&head).await
    }

    /// Takes up what was kept beside a state, and says what was left unsaid.
    async fn recall(&mut self, head: &Head) -> Result<()> {
        let note = self.store.recall(head.round).await?;
        let note = note.with_context(|| format!("the store lost what belongs to the state of round {}", head.round))?;
        self.progress = decode_progress(&note)?;
        if let Some(check) = self.history.owed(&self.identity, head.round, hash_of(head)) {
            self.store.publish(check.encode()).await?;
            self.history.add(check);
        }
        if let Some(last) = self.history.before(head.round + 1) {
            self.heads.insert(self.me(), last);
        }
        Ok(())
    }

    fn me(&self) -> PeerId {
        self.identity.id()
    }

    fn share(&self) -> &Share {
        &self.job.shares[&self.me()]
    }

    /// Takes part in one round, which follows the state of the peer's store.
    ///
    /// # Errors
    /// A function failed, the peers are out of step, or too few of them are left.
    pub async fn round(&mut self, number: u64) -> Result<RoundEnd> {
        let mut phases = Phases::default();
        let head = self.state_before(number).await?;
        let (average, evaluation) = self.contribute(number, &mut phases).await?;

        let ready = self.clock.elapsed();
        let mut round = self.open_round(number, &head, average, evaluation).await?;
        let mut applied = None;
        let mut phase = Phase::Gather;
        loop {
            let begun = Instant::now();
            let step = round.step(self.clock.elapsed()).with_context(|| refusal(number, &round))?;
            match step {
                Step::Wait { until } => self.wait(&mut round, until).await?,
                Step::Fetch { wanted, until } => self.fetch(&mut round, number, wanted, until).await?,
                Step::Vote(vote) => {
                    self.deadline.observe(self.clock.elapsed() - ready);
                    self.publish(&mut round, Kind::Vote, vote.encode()).await?;
                    phases.add(std::mem::replace(&mut phase, Phase::Vote), begun);
                    continue;
                }
                Step::Aggregate(agreement) => {
                    let Some(report) = self.apply(number, &agreement, &mut phases).await? else {
                        let evaluation = agreed_evaluation(&agreement);
                        let evaluation = evaluation.context("training stops on an evaluation only")?;
                        return Ok(RoundEnd::Stopped { evaluation });
                    };
                    round.applied(self.clock.elapsed(), report.state_hash);
                    self.publish(&mut round, Kind::Check, report.state_hash.0.to_vec()).await?;
                    applied = Some(report);
                    phase = Phase::Check;
                    continue;
                }
                Step::Finish { unconfirmed } if unconfirmed.is_empty() => break,
                Step::Finish { unconfirmed } => {
                    tracing::warn!(round = number, ?unconfirmed, "peers did not confirm their state in time");
                    break;
                }
            }
            phases.add(phase, begun);
        }
        self.store.forget(number).await?;
        let report = applied.context("a round is applied before it is finished")?;
        self.progress = report.progress;
        self.heads = round.heads().clone();
        self.history.forget(number);
        self.taken.clear();
        Ok(RoundEnd::Applied(Box::new(RoundReport { phases, ..report })))
    }

    /// The state that a round builds on; a database that came back empty or older than it was does not hold it.
    async fn state_before(&self, number: u64) -> Result<Head, StoreError> {
        match self.store.head().await? {
            head if head.round + 1 == number => Ok(head),
            head => Err(StoreError::OutOfOrder { round: number, state: head.round }),
        }
    }

    /// Begins to gather: announces the own contribution and takes in what came early.
    async fn open_round(
        &mut self,
        number: u64,
        head: &Head,
        average: Average,
        evaluation: Option<Evaluation>,
    ) -> Result<Round> {
        let context = RoundContext {
            job: self.job.digest,
            round: number,
            state: hash_of(head),
            roster: self.neighbours.ids().chain([self.me()]).collect(),
            faults: self.job.train.faults,
        };
        let heads = self.heads.clone();
        let mut round = Round::new(self.me(), context, heads, self.clock.elapsed(), self.deadline.wait());
        let Average { hash, samples, loss } = average;
        let announcement = Announcement { values: hash, samples, loss, evaluation };
        self.publish(&mut round, Kind::Announcement, announcement.encode()).await?;
        round.hold(self.me());
        let taken = std::mem::take(&mut self.taken);
        for (owner, bytes) in taken.into_iter().chain(std::mem::take(&mut self.early)) {
            self.take_in(&mut round, owner, bytes);
        }
        Ok(round)
    }

    /// Aggregates what was agreed on and moves the state; none if training stops here.
    async fn apply(&mut self, number: u64, agreement: &Agreement, phases: &mut Phases) -> Result<Option<RoundReport>> {
        let evaluation = agreed_evaluation(agreement);
        let rules = self.job.train.convergence();
        // The peer's own is changed with the end of the round, which may be begun anew until then.
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
            optimizer: self.job.train.kernel(),
            step: OptimizerStep { number, learning_rate: learning_rate as f32 },
        };
        // Before the state it belongs to: there is no state without its note.
        self.store.remember(number, encode_progress(&progress)).await?;
        let applied = self.store.apply(Update { round: number, aggregate, change }).await;
        let head = applied.with_context(|| refused(number, agreement))?;
        phases.add(Phase::Update, begun);
        let samples: u64 = agreement.peers.values().map(|announcement| announcement.samples).sum();
        let loss_sum: f64 = agreement.peers.values().map(|a| a.loss * a.samples as f64).sum();
        Ok(Some(RoundReport {
            round: number,
            peer: self.me(),
            state_hash: hash_of(&head),
            state: self.store.state().await?,
            progress,
            learning_rate,
            loss: loss_sum / samples as f64,
            evaluation,
            present: agreement.peers.len(),
            absent: agreement.absent.clone(),
            phases: Phases::default(),
        }))
    }

    /// What the agreed contributions come to: a rule for a store that aggregates by itself, or what the aggregation
    /// function makes of them.
    async fn aggregate(&self, number: u64, agreement: &Agreement) -> Result<Aggregate> {
        if let Some(rule) = self.job.rule.as_ref().filter(|_| self.store.aggregates()) {
            let samples: Vec<u64> = agreement.peers.values().map(|announcement| announcement.samples).collect();
            let peers = agreement.peers.keys().map(|peer| peer.0).collect();
            return Ok(Aggregate::Contributions { rule: rule.kernel(agreement.faults, &samples), peers });
        }
        let mut contributions = Vec::with_capacity(agreement.peers.len());
        for (peer, announcement) in &agreement.peers {
            let values = self.store.contribution(number, peer.0).await?;
            let values = values.ok_or(StoreError::Missing { round: number, peer: peer.0 })?;
            contributions.push(Contribution {
                peer: peer.to_string(),
                samples: announcement.samples,
                values: values.buffer(),
            });
        }
        let (function, faults) = (self.job.aggregate.clone(), agreement.faults);
        let account = self.workers.account(Purpose::Aggregate);
        let mut task = JoinSet::new();
        let call = async move { account.book(function.aggregate(contributions, faults)).await };
        self.workers.spawn(&mut task, call);
        let aggregated = task.join_next().await.context("one task was spawned")??;
        Ok(Aggregate::Values(aggregated.with_context(|| refused(number, agreement))?.values.into()))
    }

    /// Signs a record, or takes the one that says so already, appends it to the own store and takes it in as every other
    /// peer will.
    async fn publish(&mut self, round: &mut Round, kind: Kind, payload: Vec<u8>) -> Result<()> {
        // Remembered before it is known to others: whatever happens now, nothing else will be said.
        let record = self.history.say(&self.identity, round.header(kind), payload);
        let bytes = record.encode();
        round.receive(self.me(), &bytes);
        Ok(self.store.publish(bytes).await?)
    }

    /// Takes in the next record, until then at the longest, and whatever else has come meanwhile.
    async fn wait(&mut self, round: &mut Round, until: Duration) -> Result<()> {
        let inbox = &mut self.neighbours.inbox;
        let Ok(first) = tokio::time::timeout_at(self.clock + until, inbox.recv()).await else { return Ok(()) };
        let mut next = Some(first.context("the readers of the other peers' stores have ended")?);
        while let Some((owner, bytes)) = next {
            self.take_in(round, owner, bytes);
            next = self.neighbours.inbox.try_recv().ok();
        }
        Ok(())
    }

    fn take_in(&mut self, round: &mut Round, owner: PeerId, bytes: Vec<u8>) {
        let kept = match round.receive(owner, &bytes) {
            Received::Done => &mut self.taken,
            // A peer that is ahead has published its announcement at most, since it waits for this one's.
            Received::Early => &mut self.early,
        };
        if kept.len() < INBOX_RECORDS {
            kept.push((owner, bytes));
        }
    }

    /// Copies contributions into the own store and looks at them before they count.
    async fn fetch(
        &mut self,
        round: &mut Round,
        number: u64,
        wanted: BTreeMap<PeerId, Announcement>,
        until: Duration,
    ) -> Result<()> {
        let wait = until.saturating_sub(self.clock.elapsed());
        let mut fetched = false;
        for (peer, values) in self.neighbours.contributions(number, wanted.keys().copied(), wait).await {
            let values = match values {
                Ok(Some(values)) => values,
                Ok(None) => continue,
                // It has more values than the model, and was not read any further.
                Err(StoreError::Length { .. }) => {
                    fetched = true;
                    round.charge(peer, Charge::Shape);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(?peer, error = &error as &dyn std::error::Error, "failed to read a contribution");
                    continue;
                }
            };
            fetched = true;
            let expected = self.job.layout.len();
            if values.len() != expected {
                round.charge(peer, Charge::Shape);
                continue;
            }
            let statistics = self.store.put_contribution(number, peer.0, values).await?;
            if statistics.hash != wanted[&peer].values {
                round.charge(peer, Charge::Hash);
            } else if !statistics.finite {
                round.charge(peer, Charge::NonFinite);
            } else {
                round.hold(peer);
            }
        }
        if !fetched {
            self.wait(round, until.min(self.clock.elapsed() + FETCH_AGAIN)).await?;
        }
        Ok(())
    }
}

/// What goes before the reason why the agreed contributions did not become a state.
fn refused(number: u64, agreement: &Agreement) -> String {
    format!("failed to aggregate round {number}{}", listed("absent", &agreement.absent))
}

/// What goes before the reason of a refused round.
fn refusal(number: u64, round: &Round) -> String {
    format!("round {number} can not be finished{}", listed("charged", round.charges()))
}

/// Peers with what is said of each; nothing where there is none.
fn listed(what: &str, peers: &BTreeMap<PeerId, impl std::fmt::Display>) -> String {
    let peers: Vec<_> = peers.iter().map(|(peer, why)| format!("{peer:?}: {why}")).collect();
    if peers.is_empty() { String::new() } else { format!(" ({what}: {})", peers.join(", ")) }
}

fn agreed_evaluation(agreement: &Agreement) -> Option<Evaluation> {
    Evaluation::total(agreement.peers.values().filter_map(|announcement| announcement.evaluation))
}
