//! One peer of a run: does what its node asks for, and tells the node what came of it. It decides nothing.
//!
//! ```text
//! inbox (records, beats) ─┐                     ┌─ log, store: what the node signs and serves
//! tasks (done)           ─┼─→ Node::handle_all ─┤
//! timer, checkpoints     ─┘                     └─ tasks: compute, fetch, apply
//! ```

mod apply;
mod contribute;
mod exchange;
mod failures;
mod fetch;
mod folder;
mod inbox;
pub mod log;
mod report;
mod served;
mod tasks;
mod verified;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use skein_job::Job;
use skein_protocol::identity::Identity;
use skein_protocol::node::{Absence, Action, Event, Kept, Node, RunTerms, Served, Want};
use skein_protocol::pace::PaceOptions;
use skein_protocol::record::{Position, Record};
use skein_protocol::shards::EpochSampler;
use skein_protocol::standing::Head;
use skein_store::{PeerStore, Ports};
use skein_types::{Digest, PeerId, Values};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

pub use self::exchange::Exchange;
use self::fetch::Fetcher;
pub(crate) use self::folder::LOG_FILE as RECORDS_FILE;
use self::inbox::Inbox;
use self::log::Log;
use self::report::Timing;
pub use self::report::{Awaited, PeerEvent, RoundReport};
use self::tasks::{Applying, Computing, Done, Fetching};
use self::verified::Verified;
use crate::checkpoint::Checkpoint;
use crate::compute::Compute;
use crate::evaluation::Evaluation;
use crate::phases::{Phase, Phases};
use crate::pool::FunctionPool;
use crate::prepare::PreparedJob;

/// Most messages of the inbox that are handled in one go.
const INBOX_TURN: usize = 64;
/// How often a peer looks whether its store still has its state.
const LOOK: Duration = Duration::from_secs(1);
/// How often in a row a peer restores its state to a store that lost it, before the run fails.
const RECOVERIES_MAX: u32 = 5;

/// A peer of a run.
pub struct Peer {
    node: Node,
    work: Arc<Work>,
    identity: Identity,
    order: EpochSampler,
    log: Log,
    verified: Arc<Verified>,
    exchange: Option<Arc<Exchange>>,
    fetcher: Arc<Fetcher>,
    inbox: Inbox,
    tasks: JoinSet<Done>,
    computing: Computing,
    fetching: BTreeMap<Want, Fetching>,
    applying: Option<Applying>,
    /// Values of this round that the store holds, by their peers, and others of the same peers, which a liar announced too.
    held: BTreeMap<PeerId, Digest>,
    spare: BTreeMap<Digest, Values>,
    /// The last state that this peer applied or took over.
    last: Checkpoint,
    recoveries: u32,
    /// Which start of the store's server this peer has seen.
    instance: Option<String>,
    pruned: u64,
    /// Why peers are not in the last decision.
    absent: BTreeMap<PeerId, Absence>,
    timing: Timing,
    report: Option<Box<RoundReport>>,
    stopped: Option<Evaluation>,
    is_finished: bool,
    clock: Instant,
    awaited: watch::Sender<Option<Awaited>>,
    horizon: watch::Sender<Position>,
    is_stuck: Arc<AtomicBool>,
    shows_waits: bool,
    /// Training loss of the last round, for errors.
    last_loss: Option<f64>,
}

/// What the tasks of a peer share.
struct Work {
    job: Arc<Job>,
    prepared: PreparedJob,
    pool: Arc<FunctionPool>,
    store: Ports,
    compute: Arc<dyn Compute>,
    me: PeerId,
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
    /// What it keeps besides its state.
    pub log: Log,
    /// The state in its store.
    pub start: Checkpoint,
    /// How long it waits for the others.
    pub pace: PaceOptions,
    /// Where all others are heard, if they are in this process; otherwise their stores are read.
    pub exchange: Option<Arc<Exchange>>,
}

impl Peer {
    /// A peer that goes on from what it kept.
    ///
    /// # Errors
    /// The operating system provides no random bytes.
    pub fn start(prepared: PreparedJob, pool: Arc<FunctionPool>, config: PeerConfig) -> Result<Peer> {
        let PeerConfig { identity, store, compute, others, log, start, pace, exchange } = config;
        let job = prepared.job.clone();
        let me = identity.id();
        let share = &job.shares[&me];
        let order = EpochSampler::new(job.train.seed, share.index, share.train.clone());
        let kept = Kept { head: start.head(), saved: log.saved(), log: log.kept().clone(), inquiry: log.inquiry()? };
        let node = Node::new(terms(&job, me), pace, kept, Duration::ZERO);
        let horizon = watch::Sender::new(start.position);
        let is_stuck = Arc::new(AtomicBool::new(false));
        let verified = Arc::new(Verified::default());
        let beats = pace.silent.is_some().then(|| (store.records.clone(), is_stuck.clone()));
        let fetcher = Fetcher::new(&job, me, store.clone(), others, verified.clone());
        let inbox = match &exchange {
            Some(exchange) => Inbox::join(exchange, me),
            None => Inbox::read(&fetcher, horizon.subscribe(), beats),
        };
        Ok(Peer {
            node,
            work: Arc::new(Work { job, prepared, pool, store, compute, me }),
            identity,
            order,
            log,
            verified,
            exchange,
            fetcher: Arc::new(fetcher),
            inbox,
            tasks: JoinSet::new(),
            computing: Computing::default(),
            fetching: BTreeMap::new(),
            applying: None,
            held: BTreeMap::new(),
            spare: BTreeMap::new(),
            last: start,
            recoveries: 0,
            instance: None,
            pruned: 0,
            absent: BTreeMap::new(),
            timing: Timing { phases: Phases::default(), begun: Instant::now(), phase: None },
            report: None,
            stopped: None,
            is_finished: false,
            clock: Instant::now(),
            awaited: watch::Sender::new(None),
            horizon,
            is_stuck,
            shows_waits: pace.silent.is_some(),
            last_loss: None,
        })
    }

    /// The peers that it waits for at the moment; `None` while it does not wait.
    pub fn awaited(&self) -> watch::Receiver<Option<Awaited>> {
        self.awaited.subscribe()
    }

    /// Takes part in all rounds that are left.
    ///
    /// # Errors
    /// A function failed, or the peer's own store or folder cannot be used.
    pub async fn run(mut self, events: &mpsc::Sender<PeerEvent>) -> Result<()> {
        for (round, values) in self.log.contributions().await? {
            self.work.store.contributions.put_contribution(round, self.work.me, values).await?;
        }
        let mut saved = self.log.checkpointed();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let actions = self.node.start(Duration::ZERO);
        let signed = self.carry_out(actions, events).await?;
        self.pass(signed, events).await?;
        while !self.is_finished {
            let wake = self.node.wake_at().map(|at| self.clock + at);
            let turn = tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => self.done(done).await?,
                position = next(&mut saved) => vec![Event::Saved(position)],
                read = self.inbox.next(INBOX_TURN) => read?,
                () = at(wake) => vec![Event::Tick],
                _ = looks.tick() => self.check_store().await?,
            };
            self.pass(turn, events).await?;
        }
        if self.node.is_stopped() {
            let _ = events.send(PeerEvent::Stopped(self.stopped.take())).await;
        }
        Ok(())
    }

    /// Tells the node what happened, and does what it asks for, until it asks for nothing more.
    async fn pass(&mut self, mut happened: Vec<Event>, events: &mpsc::Sender<PeerEvent>) -> Result<()> {
        while !happened.is_empty() {
            let actions = self.node.handle_all(self.clock.elapsed(), happened);
            self.note_progress(events).await;
            happened = self.carry_out(actions, events).await?;
        }
        self.is_stuck.store(self.node.is_stuck(), Ordering::Relaxed);
        self.show_waits();
        Ok(())
    }

    /// Times the phases of the round, and reports it once the node is past it.
    async fn note_progress(&mut self, events: &mpsc::Sender<PeerEvent>) {
        if self.timing.phase == Some(Phase::Gather) && self.node.has_gathered() {
            self.timing.turn_to(Phase::Vote);
        }
        let head = self.node.head().position;
        if *self.horizon.borrow() != head {
            self.horizon.send_replace(head);
        }
        if self.report.as_ref().is_some_and(|report| report.checkpoint.position <= head)
            && let Some(mut report) = self.report.take()
        {
            report.phases = self.timing.end();
            // A run that no longer listens was interrupted.
            let _ = events.send(PeerEvent::Applied(report)).await;
        }
    }

    fn show_waits(&self) {
        // Peers that wait for each other however long it takes do so all the time.
        if !self.shows_waits {
            return;
        }
        let waits = self.node.waits().map(|waits| Awaited {
            until: waits.until.map(|until| self.clock + until),
            since: self.timing.begun,
            waits,
        });
        self.awaited.send_if_modified(|awaited| {
            let is_other = *awaited != waits;
            *awaited = waits;
            is_other
        });
    }

    /// Does what the node asks for; returns what happened at once.
    async fn carry_out(&mut self, actions: Vec<Action>, events: &mpsc::Sender<PeerEvent>) -> Result<Vec<Event>> {
        let mut happened = Vec::new();
        let mut served: Vec<Served> = Vec::new();
        let mut published: Vec<Arc<Record>> = Vec::new();
        for action in actions {
            match action {
                Action::Sign(statement) => {
                    let record = Arc::new(statement.sign(&self.identity));
                    self.verified.insert(&record);
                    self.log.sign(&record);
                    happened.push(Event::Signed(record));
                }
                Action::Keep(entry) => self.log.keep(entry),
                Action::Publish(record) => published.push(record),
                Action::Serve(item) => served.push(item),
                Action::Compute { position, is_evaluated } => {
                    happened.extend(self.compute(position, is_evaluated));
                }
                Action::Fetch(want, holders) if self.exchange.is_some() => {
                    // The stores of this process answer at once.
                    let fetched = self.fetcher.look_around(&want, holders).await;
                    happened.extend(self.take_fetched(want, fetched).await?);
                }
                Action::Fetch(want, holders) => self.fetch(want, holders),
                Action::Cancel(position) => self.cancel(position),
                Action::Apply(application) => self.apply(application).await?,
                Action::Save(head) => happened.extend(self.save(*head, events).await?),
                Action::Reread(owners) => owners.into_iter().for_each(|owner| match &self.exchange {
                    Some(exchange) => exchange.repeat(owner, self.work.me),
                    None => self.inbox.reread(&self.fetcher, owner),
                }),
                Action::Forget(position) => self.forget(position).await?,
                Action::Report(report) => self.report(report),
                Action::Finish => self.is_finished = true,
            }
        }
        // On disk before anybody can see a consequence of it.
        self.log.flush().await?;
        self.serve(served).await?;
        for record in published {
            match &self.exchange {
                Some(exchange) => exchange.publish(self.work.me, &record),
                None => self.work.store.records.publish(record.encode()).await?,
            }
        }
        Ok(happened)
    }

    async fn serve(&self, served: Vec<Served>) -> Result<()> {
        let mut rounds: BTreeMap<u64, Vec<(String, Vec<u8>)>> = BTreeMap::new();
        for item in served {
            let (round, name, bytes) = served::encode(&item, self.node.head().position.round);
            rounds.entry(round).or_default().push((name, bytes));
        }
        for (round, items) in rounds {
            self.work.store.records.serve(Some(round), items).await?;
        }
        Ok(())
    }

    /// Has the state in the store, as part of `head`, kept on disk.
    async fn save(&mut self, head: Head, events: &mpsc::Sender<PeerEvent>) -> Result<Option<Event>> {
        let position = head.position;
        // The store has these tensors, or will have them again.
        self.last = Checkpoint { position, standing: head.standing, ..self.last.clone() };
        self.last.label(&*self.work.store.state).await?;
        let round = self.last.state.round();
        let own = self.log.own_contribution(&*self.work.store.contributions, self.work.me, round).await?;
        let _ = events.send(PeerEvent::Save(Box::new(self.last.clone()), own)).await;
        Ok((!self.log.is_durable()).then_some(Event::Saved(position)))
    }

    async fn forget(&mut self, position: Position) -> Result<()> {
        if position.round != self.pruned {
            self.work.store.state.prune_before(position.round).await?;
            self.pruned = position.round;
        }
        Ok(())
    }
}

/// What all peers know of a run.
fn terms(job: &Job, me: PeerId) -> RunTerms {
    let train = &job.train;
    let validation = job.shares.iter().map(|(peer, share)| (*peer, share.validation.len() as u64)).collect();
    RunTerms {
        run: job.run_id,
        me,
        members: job.shares.keys().copied().collect::<BTreeSet<_>>(),
        model: train.fault_model(),
        rounds: train.rounds,
        samples_max: u64::from(train.batch_size) * u64::from(train.batches_per_round),
        evaluate_every: u64::from(train.evaluate_every),
        validation,
        convergence: train.convergence(),
    }
}

/// Waits until `at`, or for ever.
async fn at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits until a later state is on disk.
async fn next(saved: &mut Option<watch::Receiver<Position>>) -> Position {
    if let Some(saved) = saved
        && saved.changed().await.is_ok()
    {
        return *saved.borrow_and_update();
    }
    std::future::pending().await
}
