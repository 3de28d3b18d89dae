//! One peer's side of a round: does what the workflow decides, and tells it what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use skein_kernels::Digest;
use skein_kernels::optimizer::Step as OptimizerStep;
use skein_kernels::update::Change;
use skein_runtime::aggregate::Contribution;
use skein_runtime::gradient::{Batch, Gradient, Parameters};
use skein_store::{Aggregate, Average, Head, Leaf, State, Store, Update};
use skein_workflow::announcement::{Announcement, Evaluation};
use skein_workflow::convergence::Progress;
use skein_workflow::deadline::Deadline;
use skein_workflow::identity::{Identity, PeerId};
use skein_workflow::random::Stream;
use skein_workflow::record::{Kind, Record};
use skein_workflow::round::{Absence, Agreement, Charge, Context as RoundContext, Received, Round, Step};
use skein_workflow::shards::Order;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::checkpoint::hash_of;
use crate::evaluation::evaluate;
use crate::job::{Job, Share};
use crate::phases::{Phase, Phases};
use crate::workers::{Purpose, Workers};

/// Records that wait to be taken in. Readers of stores wait when it is full.
const INBOX_RECORDS: usize = 1024;
/// Longest single wait for a record in a store: how soon a reader notices that it is no longer needed.
const READ_WAIT: Duration = Duration::from_secs(5);
/// How soon contributions that could not be had are asked for again.
const FETCH_AGAIN: Duration = Duration::from_millis(50);

/// A peer of a job.
pub struct Peer {
    job: Arc<Job>,
    workers: Arc<Workers>,
    identity: Identity,
    stores: BTreeMap<PeerId, Arc<dyn Store>>,
    order: Order,
    progress: Progress,
    deadline: Deadline,
    heads: BTreeMap<PeerId, Digest>,
    early: Vec<(PeerId, Vec<u8>)>,
    inbox: mpsc::Receiver<(PeerId, Vec<u8>)>,
    clock: Instant,
    /// Tasks that read the other peers' stores; they end with the peer.
    _readers: JoinSet<()>,
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
    /// A peer that can read all `stores` and writes to its own.
    pub fn start(
        job: Arc<Job>,
        workers: Arc<Workers>,
        identity: Identity,
        stores: BTreeMap<PeerId, Arc<dyn Store>>,
        progress: Progress,
    ) -> Peer {
        let (sender, inbox) = mpsc::channel(INBOX_RECORDS);
        let mut readers = JoinSet::new();
        for (owner, store) in stores.iter().filter(|(owner, _)| **owner != identity.id()) {
            readers.spawn(read_records(*owner, store.clone(), sender.clone()));
        }
        let order = Order::new(job.train.seed, identity.id(), job.shares[&identity.id()].train.clone());
        let deadline = Deadline::new(job.train.deadline());
        let (heads, early, clock) = (BTreeMap::new(), Vec::new(), Instant::now());
        Peer {
            job,
            workers,
            identity,
            stores,
            order,
            progress,
            deadline,
            heads,
            early,
            inbox,
            clock,
            _readers: readers,
        }
    }

    fn me(&self) -> PeerId {
        self.identity.id()
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.stores[&self.me()]
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
        let head = self.store().head().await?;
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
                Step::Fetch(wanted) => self.fetch(&mut round, number, wanted).await?,
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
        self.heads = round.heads().clone();
        self.store().forget(number).await?;
        let report = applied.context("a round is applied before it is finished")?;
        Ok(RoundEnd::Applied(Box::new(RoundReport { phases, ..report })))
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
            roster: self.stores.keys().copied().collect(),
            faults: self.job.train.faults,
        };
        let heads = std::mem::take(&mut self.heads);
        let mut round = Round::new(self.me(), context, heads, self.clock.elapsed(), self.deadline.wait());
        let Average { hash, samples, loss } = average;
        let announcement = Announcement { values: hash, samples, loss, evaluation };
        self.publish(&mut round, Kind::Announcement, announcement.encode()).await?;
        round.hold(self.me());
        for (owner, bytes) in std::mem::take(&mut self.early) {
            self.take_in(&mut round, owner, bytes);
        }
        Ok(round)
    }

    /// Computes the batches of the round in parallel, and the evaluation if it is due; averages the batches.
    async fn contribute(&mut self, number: u64, phases: &mut Phases) -> Result<(Average, Option<Evaluation>)> {
        let begun = Instant::now();
        let (_, values) = self.store().parameters().await?;
        let parameters = Parameters { layout: self.job.layout.clone(), values: values.buffer() };
        let mut batches = self.spawn_batches(number, &parameters);
        let is_due = number > 1 && (number - 1).is_multiple_of(u64::from(self.job.train.evaluate_every));
        let evaluation = async {
            match is_due {
                true => {
                    let share = self.share();
                    evaluate(&self.workers, &self.job.gradient, parameters, &share.dataset, &share.validation).await
                }
                false => Ok(None),
            }
        };
        let batches = async {
            while let Some(batch) = batches.join_next().await {
                batch.map_err(|error| anyhow!("a batch was lost: {error}"))??;
            }
            Ok(())
        };
        let ((), evaluation) = tokio::try_join!(batches, evaluation)?;
        phases.add(Phase::Compute, begun);
        let begun = Instant::now();
        let average = self.store().average(number, self.me().0).await?;
        phases.add(Phase::Average, begun);
        Ok((average, evaluation))
    }

    fn spawn_batches(&mut self, number: u64, parameters: &Parameters) -> JoinSet<Result<()>> {
        let (leaves, size) = (self.job.train.batches_per_round, self.job.train.batch_size);
        let mut tasks = JoinSet::new();
        for index in 0..leaves {
            let position = ((number - 1) * u64::from(leaves) + u64::from(index)) * u64::from(size);
            let samples = self.order.take(position, size as usize);
            let (dataset, store) = (self.share().dataset.clone(), self.store().clone());
            let (parameters, function) = (parameters.clone(), self.job.gradient.clone());
            let parts = [&self.me().0[..], &position.to_le_bytes()];
            let noise_seed = Stream::new("skein 2026-11 noise of a batch", self.job.train.seed, &parts).next_u64();
            let account = self.workers.account(Purpose::Gradient);
            let task = async move {
                let batch = Batch { noise_seed, ..dataset.batch(&samples) };
                let call = function.compute(parameters, batch);
                let gradient = account.book(call).await?;
                let leaf = Leaf { index, leaves, samples: gradient.samples, loss: gradient.loss };
                store.accumulate(number, leaf, flatten(&gradient)).await?;
                Ok(())
            };
            self.workers.spawn(&mut tasks, task);
        }
        tasks
    }

    /// Aggregates what was agreed on and moves the state; none if training stops here.
    async fn apply(&mut self, number: u64, agreement: &Agreement, phases: &mut Phases) -> Result<Option<RoundReport>> {
        let evaluation = agreed_evaluation(agreement);
        let rules = self.job.train.convergence();
        if evaluation.is_some_and(|evaluation| self.progress.observe(&rules, evaluation.loss())) {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut contributions = Vec::with_capacity(agreement.peers.len());
        for (peer, announcement) in &agreement.peers {
            let values = self.store().contribution(number, peer.0).await?;
            let values = values.with_context(|| format!("the store lost the contribution of peer {peer:?}"))?;
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
        let aggregated = aggregated
            .with_context(|| format!("failed to aggregate round {number}{}", listed("absent", &agreement.absent)))?;
        phases.add(Phase::Aggregate, begun);

        let begun = Instant::now();
        let learning_rate = self.progress.learning_rate;
        let change = Change {
            trained: self.job.layout.trained(),
            clip_norm: self.job.train.clip_norm,
            clip_value: self.job.train.clip_value,
            optimizer: self.job.train.kernel(),
            step: OptimizerStep { number, learning_rate: learning_rate as f32 },
        };
        let aggregate = Aggregate::Values(aggregated.values.into());
        let head = self.store().apply(Update { round: number, aggregate, change }).await?;
        phases.add(Phase::Update, begun);
        let samples: u64 = agreement.peers.values().map(|announcement| announcement.samples).sum();
        let loss_sum: f64 = agreement.peers.values().map(|a| a.loss * a.samples as f64).sum();
        Ok(Some(RoundReport {
            round: number,
            peer: self.me(),
            state_hash: hash_of(&head),
            state: self.store().state().await?,
            progress: self.progress,
            learning_rate,
            loss: loss_sum / samples as f64,
            evaluation,
            present: agreement.peers.len(),
            absent: agreement.absent.clone(),
            phases: Phases::default(),
        }))
    }

    /// Signs a record, appends it to the own store and takes it in as every other peer will.
    async fn publish(&self, round: &mut Round, kind: Kind, payload: Vec<u8>) -> Result<()> {
        let record = Record::sign(&self.identity, round.header(kind), payload).encode();
        round.receive(self.me(), &record);
        Ok(self.store().publish(record).await?)
    }

    /// Takes in the next record, until then at the longest, and whatever else has come meanwhile.
    async fn wait(&mut self, round: &mut Round, until: Duration) -> Result<()> {
        let Ok(first) = tokio::time::timeout_at(self.clock + until, self.inbox.recv()).await else { return Ok(()) };
        let (owner, bytes) = first.context("the readers of the other peers' stores have ended")?;
        self.take_in(round, owner, bytes);
        while let Ok((owner, bytes)) = self.inbox.try_recv() {
            self.take_in(round, owner, bytes);
        }
        Ok(())
    }

    fn take_in(&mut self, round: &mut Round, owner: PeerId, bytes: Vec<u8>) {
        // A peer that is ahead has published its announcement at most, since it waits for this one's.
        if round.receive(owner, &bytes) == Received::Early && self.early.len() < INBOX_RECORDS {
            self.early.push((owner, bytes));
        }
    }

    /// Copies contributions into the own store and looks at them before they count.
    async fn fetch(&mut self, round: &mut Round, number: u64, wanted: BTreeMap<PeerId, Announcement>) -> Result<()> {
        let mut fetched = false;
        for (peer, announcement) in wanted {
            let Some(values) = self.stores[&peer].contribution(number, peer.0).await? else { continue };
            fetched = true;
            let expected = self.job.layout.len();
            if values.len() != expected {
                round.charge(peer, Charge::Shape);
                continue;
            }
            let statistics = self.store().put_contribution(number, peer.0, values).await?;
            if statistics.hash != announcement.values {
                round.charge(peer, Charge::Hash);
            } else if !statistics.finite {
                round.charge(peer, Charge::NonFinite);
            } else {
                round.hold(peer);
            }
        }
        if !fetched {
            self.wait(round, self.clock.elapsed() + FETCH_AGAIN).await?;
        }
        Ok(())
    }
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

/// Reads one peer's store for as long as anybody listens.
async fn read_records(owner: PeerId, store: Arc<dyn Store>, sender: mpsc::Sender<(PeerId, Vec<u8>)>) {
    let mut last = 0;
    loop {
        let records = match store.records(last, READ_WAIT).await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(?owner, %error, "failed to read a peer's records");
                return;
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

fn agreed_evaluation(agreement: &Agreement) -> Option<Evaluation> {
    Evaluation::total(agreement.peers.values().filter_map(|announcement| announcement.evaluation))
}

/// The gradient as one vector in the layout's order.
fn flatten(gradient: &Gradient) -> Vec<f32> {
    let parts: Vec<_> = gradient.tensors.iter().filter_map(|tensor| tensor.floats()).collect();
    let mut flat = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| flat.extend_from_slice(part));
    flat
}
