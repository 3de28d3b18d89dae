//! A run of the peers of this process: starts them, collects their rounds, keeps checkpoints, sums up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::BoxFuture;
use skein_protocol::record::Position;
use skein_runtime::gradient::Parameters;
use skein_store::Ports;
use skein_types::Digest;
use skein_types::PeerId;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::Instrument;

use crate::checkpoint::{Best, Checkpoint, RunFolder, hash_of};
use crate::driver::log::OwnContribution;
use crate::driver::{Awaited, Peer, PeerConfig, PeerEvent, RoundReport};
use crate::evaluation::{Evaluation, evaluate, validate};
use crate::events::{Ended, Event, Sink, Until, Waiting};
use crate::greeting::Stranger;
use crate::phases::Phases;
use crate::pool::{FunctionPool, ms};
use crate::prepare::PreparedJob;
use crate::report::{Metrics, RoundSummary, Summary};

/// Interval between reports of a wait, and how long a wait lasts before it is reported.
const TICK: Duration = Duration::from_secs(1);

/// The peers of this process, and what they need to run.
pub struct Run {
    /// The job, ready to run.
    pub prepared: PreparedJob,
    /// Threads that run functions.
    pub pool: Arc<FunctionPool>,
    /// The peers. Their stores hold the state of `start`.
    pub peers: Vec<PeerConfig>,
    /// State from which the peers start.
    pub start: Checkpoint,
    /// Folder for the manifest, the checkpoints and the metrics.
    pub out: Option<RunFolder>,
    /// End of the error of a run that is shut down: how to continue.
    pub hint: String,
    /// Peers whose hosts are about to do something else.
    pub strangers: Option<mpsc::UnboundedReceiver<Stranger>>,
}

impl Run {
    /// Runs the peers to the end of the job, or until `shutdown` completes. After the last round, `shutdown` no longer
    /// counts, and the final state is evaluated.
    ///
    /// # Errors
    /// A function failed, the peers are out of step, a store or a file cannot be used, or the run was shut down. The last
    /// checkpoint stays.
    #[tracing::instrument(level = "debug", name = "job", skip_all, fields(job = %self.prepared.job.run_id))]
    pub async fn run(mut self, events: &mut Sink<'_>, mut shutdown: BoxFuture<'_, ()>) -> Result<Summary> {
        let hint = self.hint.clone();
        let mut strangers = self.strangers.take();
        let last = self.start.state.round();
        let rounds = self.prepared.job.train.rounds;
        if last >= rounds {
            events(Event::NothingLeft { round: last, rounds });
        }
        let started = tokio::select! {
            biased;
            () = &mut shutdown => bail!("interrupted before round {}{hint}", last + 1),
            started = self.begin() => started?,
        };
        let Started { mut session, stores, mut peers, mut reports } = started;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            // Rounds before ends: a peer that is done has sent its last round already.
            tokio::select! {
                biased;
                () = &mut shutdown => return session.interrupted().await,
                report = reports.recv() => match report {
                    Some(PeerEvent::Applied(report)) => session.collect(*report, events).await?,
                    Some(PeerEvent::Save(checkpoint, own)) => session.keep(*checkpoint, own).await?,
                    Some(PeerEvent::Stopped(evaluation)) => session.stop(evaluation),
                    None => break,
                },
                Some(ended) = peers.join_next() => ended.context("a peer ended abruptly")??,
                Some(Stranger { peer, differences }) = stranger(&mut strangers) => {
                    events(Event::Differs { peer, differences });
                }
                _ = ticks.tick() => session.report_waits(events),
                // Peers may be waiting for the checkpoint.
                written = written(&mut session.writing), if session.writing.is_some() => {
                    session.writing = None;
                    written?;
                }
            }
        }
        while let Some(ended) = peers.join_next().await {
            ended.context("a peer ended abruptly")??;
        }
        session.finish_writing().await?;
        let mut hashes = BTreeMap::new();
        for (peer, store) in stores {
            hashes.insert(peer, hash_of(&store.state.digests().await?));
        }
        session.sum_up(hashes, events).await
    }
}

/// The next peer whose host is about to do something else, if anybody looks for them.
async fn stranger(strangers: &mut Option<mpsc::UnboundedReceiver<Stranger>>) -> Option<Stranger> {
    match strangers {
        Some(strangers) => strangers.recv().await,
        None => None,
    }
}

/// A run whose peers have been started.
struct Started {
    session: Session,
    stores: Vec<(PeerId, Ports)>,
    peers: JoinSet<Result<()>>,
    /// What they report; closed when all peers are done.
    reports: mpsc::Receiver<PeerEvent>,
}

impl Run {
    /// Opens the metrics, keeps the start state, and spawns a task for each peer.
    async fn begin(self) -> Result<Started> {
        let Run { prepared, pool, peers: configs, start, out, hint, strangers: _ } = self;
        let job = prepared.job.clone();
        let first_round = start.state.round();
        let metrics = match &out {
            Some(folder) => {
                folder.create()?;
                Some(Metrics::open(&folder.dir, first_round)?)
            }
            None => None,
        };
        let best_loss = out.as_ref().and_then(|folder| folder.best_loss(job.run_id));
        let mut session = Session {
            stopped: None,
            pending: BTreeMap::new(),
            phases: Phases::default(),
            last: start.clone(),
            contribution: None,
            best_loss,
            awaited: Vec::new(),
            ended: None,
            writing: None,
            // A peer with a log on disk is the only one of its process.
            checkpointed: configs.first().and_then(|peer| peer.log.checkpoints()),
            metrics,
            started: Instant::now(),
            first_round,
            local: configs.len(),
            prepared: prepared.clone(),
            pool: pool.clone(),
            out,
            hint,
        };
        let stores: Vec<_> = configs.iter().map(|peer| (peer.identity.id(), peer.store.clone())).collect();
        let (sender, reports) = mpsc::channel(configs.len());
        let mut peers = JoinSet::new();
        for config in configs {
            let id = config.identity.id();
            let span = tracing::debug_span!("peer", peer = ?id);
            let peer = span.in_scope(|| Peer::start(prepared.clone(), pool.clone(), config))?;
            session.awaited.push(peer.awaited());
            let sender = sender.clone();
            peers.spawn(async move { peer.run(&sender).await }.instrument(span));
        }
        Ok(Started { session, stores, peers, reports })
    }
}

/// A checkpoint that is being written.
type Writing = Option<JoinHandle<Result<()>>>;

/// Waits until the checkpoint is written, if one is being written.
async fn written(writing: &mut Writing) -> Result<()> {
    match writing {
        Some(writing) => writing.await.context("writing the checkpoint was cut short")?,
        None => Ok(()),
    }
}

/// A run in progress.
struct Session {
    prepared: PreparedJob,
    pool: Arc<FunctionPool>,
    /// Peers of this process.
    local: usize,
    /// Folder for the manifest, the checkpoints and the metrics.
    out: Option<RunFolder>,
    /// Validation loss of the checkpoint that is kept as the best.
    best_loss: Option<f64>,
    hint: String,
    /// Whether the convergence rules ended training, and the evaluation at which they did.
    stopped: Option<Option<Evaluation>>,
    /// Rounds that some peers have not reported yet.
    pending: BTreeMap<u64, Vec<RoundReport>>,
    phases: Phases,
    last: Checkpoint,
    /// Contribution of this process's peer to the last round, if it has to be kept.
    contribution: Option<OwnContribution>,
    /// The peers that each peer of this process waits for.
    awaited: Vec<watch::Receiver<Option<Awaited>>>,
    /// Peers that were last reported to have ended, perhaps.
    ended: Option<Ended>,
    writing: Writing,
    /// Sender for the position of the checkpoint on disk, if a peer waits for it.
    checkpointed: Option<Arc<watch::Sender<Position>>>,
    metrics: Option<Metrics>,
    started: Instant,
    first_round: u64,
}

impl Session {
    /// Keeps a state to which no round of this process led: the one that it began with, or one taken over from others.
    async fn keep(&mut self, checkpoint: Checkpoint, own: Option<OwnContribution>) -> Result<()> {
        // Each peer of this process asks for it.
        let is_known = self.last.position == checkpoint.position && self.last.standing == checkpoint.standing;
        if is_known && self.checkpointed.is_none() {
            return Ok(());
        }
        self.last = checkpoint;
        self.contribution = own;
        self.write_checkpoint(None).await
    }

    fn stop(&mut self, evaluation: Option<Evaluation>) {
        self.stopped = Some(self.stopped.flatten().or(evaluation));
    }

    /// Adds one peer's report, and closes the round with the last one.
    async fn collect(&mut self, report: RoundReport, events: &mut Sink<'_>) -> Result<()> {
        let round = report.round();
        let reports = self.pending.entry(round).or_default();
        reports.push(report);
        if reports.len() < self.local {
            return Ok(());
        }
        let reports = self.pending.remove(&round).expect("it was just extended");
        let mut phases = Phases::default();
        reports.iter().for_each(|report| phases.merge(&report.phases, reports.len() as f64));
        self.phases.merge(&phases, 1.0);
        let first = &reports[0];
        if let Some(other) = reports.iter().find(|report| report.state_hash != first.state_hash) {
            bail!(
                "peers {:?} and {:?} have different states after round {round}: is the aggregation function deterministic?",
                first.peer,
                other.peer
            );
        }
        self.last = first.checkpoint.clone();
        self.contribution = first.contribution.clone();
        let elapsed = self.started.elapsed();
        let summary =
            RoundSummary { report: first, expected: self.prepared.job.shares.len(), phases: &phases, elapsed };
        if let Some(metrics) = &mut self.metrics {
            metrics.write(&summary.to_json())?;
        }
        // After the line of metrics: a run that is killed between the two drops the line and repeats the round.
        self.write_checkpoint(first.evaluation).await?;
        let done = round.saturating_sub(self.first_round);
        let per_second = done as f64 / elapsed.as_secs_f64();
        events(Event::Round { summary, rounds: self.prepared.job.train.rounds, per_second });
        Ok(())
    }

    /// Starts to write the last round's checkpoint once the previous one is written. The next round runs meanwhile.
    /// `previous` is the evaluation of the previous one, which is kept as the best if no other has a lower loss.
    async fn write_checkpoint(&mut self, previous: Option<Evaluation>) -> Result<()> {
        let Some(folder) = self.out.clone() else { return Ok(()) };
        self.finish_writing().await?;
        self.keep_best(self.last.state.round().saturating_sub(1), previous)?;
        let checkpoint = self.last.clone();
        let layout = self.prepared.job.layout.clone();
        let contribution = self.contribution.take();
        let checkpointed = self.checkpointed.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            // Before the checkpoint: a peer whose checkpoint is a round older needs the contribution.
            contribution.as_ref().map_or(Ok(()), OwnContribution::save)?;
            folder.save(&checkpoint, &layout)?;
            if let Some(checkpointed) = checkpointed {
                checkpointed.send_replace(checkpoint.position);
            }
            Ok(())
        }));
        Ok(())
    }

    /// Keeps the checkpoint on disk as the best if `evaluation`, which is of it, has a lower loss than any before.
    fn keep_best(&mut self, evaluated: u64, evaluation: Option<Evaluation>) -> Result<()> {
        let (Some(folder), Some(evaluation)) = (&self.out, evaluation) else { return Ok(()) };
        // The file that this run continues says that it belongs to another run, with other settings.
        if self.last.provenance.lineage.last().is_some_and(|ancestor| ancestor.round == evaluated) {
            return Ok(());
        }
        let loss = evaluation.loss();
        // The initial values are not written.
        if folder.last().exists() && self.best_loss.is_none_or(|best| loss < best) {
            let run = self.prepared.job.run_id.to_string();
            folder.keep_as_best(&Best { run, round: evaluated, validation_loss: loss })?;
            self.best_loss = Some(loss);
        }
        Ok(())
    }

    async fn finish_writing(&mut self) -> Result<()> {
        let finished = written(&mut self.writing).await;
        self.writing = None;
        finished
    }

    /// Reports the peers that the peer of this process has waited for at least [`TICK`]. Several peers of one process
    /// report nothing, since they wait for each other all the time.
    fn report_waits(&mut self, events: &mut Sink<'_>) {
        let [awaited] = &self.awaited[..] else { return };
        let awaited = awaited.borrow().clone().filter(|awaited| awaited.since.elapsed() >= TICK);
        let now = tokio::time::Instant::now();
        let model = self.prepared.job.train.fault_model();
        let peers = |awaited: &Awaited| -> Vec<PeerId> { awaited.waits.peers.iter().copied().collect() };
        let ended = awaited.as_ref().and_then(|awaited| {
            let round = awaited.waits.ended_after?;
            Some(Ended { peers: peers(awaited), round })
        });
        if let Some(ended) = ended.filter(|ended| self.ended.as_ref() != Some(ended)) {
            events(Event::Ended(&ended));
            self.ended = Some(ended);
        }
        events(Event::Waiting(awaited.map(|awaited| Waiting {
            peers: peers(&awaited),
            of: self.prepared.job.shares.len(),
            since: awaited.since.elapsed(),
            until: match awaited.until {
                Some(until) => Until::AtMost(until.saturating_duration_since(now)),
                None => Until::Needs(model.answering() as usize),
            },
        })));
    }

    /// Ends the run after the last round that all peers applied, once its checkpoint is written.
    async fn interrupted(mut self) -> Result<Summary> {
        self.finish_writing().await?;
        bail!("interrupted after round {}{}", self.last.state.round(), self.hint);
    }

    /// Evaluates the final state and summarizes the run.
    async fn sum_up(mut self, hashes: BTreeMap<PeerId, Digest>, events: &mut Sink<'_>) -> Result<Summary> {
        events(Event::RoundsEnded);
        let layout = self.prepared.job.layout.clone();
        let parameters = Parameters { layout, values: self.last.state.parameters().buffer() };
        let validation = match self.stopped.flatten() {
            Some(evaluation) => Some(evaluation),
            None => validate(&self.pool, &self.prepared.job, &self.prepared.gradient, &parameters).await?,
        };
        let test = match &self.prepared.job.test {
            Some(part) => {
                evaluate(&self.pool, &self.prepared.gradient, parameters, &part.dataset, &part.samples).await?
            }
            None => None,
        };
        self.keep_best(self.last.state.round(), validation)?;
        let ledger = self.pool.ledger();
        let summary = Summary {
            run: self.prepared.job.run_id,
            rounds: self.last.state.round(),
            rounds_run: self.last.state.round().saturating_sub(self.first_round),
            stopped_early: self.stopped.is_some(),
            validation,
            test,
            state_hashes: hashes,
            phases: self.phases,
            wall_ms: ms(self.started.elapsed()),
            ledger,
            learning_rate: self.last.standing.progress.learning_rate,
        };
        if let Some(metrics) = &mut self.metrics {
            metrics.write(&summary.metrics())?;
        }
        Ok(summary)
    }
}
