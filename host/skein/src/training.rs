//! A whole run in one process: starts the peers, collects their rounds, keeps checkpoints, sums up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use skein_runtime::gradient::Parameters;
use skein_store::{Embedded, Head, Published, Store};
use skein_workflow::announcement::Evaluation;
use skein_workflow::identity::{Identity, PeerId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::checkpoint::{self, Checkpoint};
use crate::evaluation::evaluate;
use crate::job::{Job, Share};
use crate::output::Output;
use crate::peer::{Peer, RoundEnd, RoundReport, Seat};
use crate::phases::Phases;
use crate::report::{Metrics, RoundSummary, Summary};
use crate::workers::{Workers, ms};

/// How a run is carried out; nothing here changes its result.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder for the checkpoint and the metrics.
    pub out: Option<PathBuf>,
    /// Go on from the checkpoint in `out`.
    pub resume: bool,
}

/// Runs a job to its end.
///
/// # Errors
/// A function failed, the peers are out of step, or a file can not be written. The last checkpoint stays.
pub async fn train(job: Arc<Job>, workers: Arc<Workers>, options: Options, output: &mut Output) -> Result<Summary> {
    let start = Instant::now();
    let checkpoint = starting_point(&job, &options)?;
    let first_round = checkpoint.state.round();
    let metrics = options.out.as_deref().map(|dir| Metrics::open(dir, first_round)).transpose()?;
    let mut session = Session {
        pending: BTreeMap::new(),
        phases: Phases::default(),
        last: checkpoint.clone(),
        writing: None,
        metrics,
        started: start,
        first_round,
        job: job.clone(),
        workers: workers.clone(),
        options,
    };
    let stores = new_stores(&job, &checkpoint).await?;
    let (sender, mut ends) = mpsc::channel(job.shares.len());
    let mut peers = JoinSet::new();
    for share in job.shares.values() {
        let identity = Identity::derived(job.train.seed, share.index);
        let others = stores.iter().filter(|(peer, _)| **peer != identity.id());
        let others = others.map(|(peer, store)| (*peer, Arc::new(store.clone()) as Arc<dyn Published>)).collect();
        let store = Arc::new(stores[&identity.id()].clone());
        let peer = Peer::start(job.clone(), workers.clone(), Seat { identity, store, others }).await?;
        peers.spawn(run_peer(peer, first_round + 1..=job.train.rounds, sender.clone()));
    }
    drop(sender);

    let mut stopped = None;
    // Listening begins once and not with every round: a signal between two rounds must not be missed.
    let mut interrupts = signal(SignalKind::interrupt()).context("failed to listen for signals")?;
    let mut terminations = signal(SignalKind::terminate()).context("failed to listen for signals")?;
    loop {
        // Rounds before ends: a peer that is done has sent its last round already.
        tokio::select! {
            biased;
            _ = interrupts.recv() => return session.interrupted().await,
            _ = terminations.recv() => return session.interrupted().await,
            end = ends.recv() => match end {
                Some(RoundEnd::Applied(report)) => session.collect(*report, output).await?,
                Some(RoundEnd::Stopped { evaluation }) => stopped = Some(evaluation),
                None => break,
            },
            Some(ended) = peers.join_next() => ended.context("a peer ended abruptly")??,
        }
    }
    while let Some(ended) = peers.join_next().await {
        ended.context("a peer ended abruptly")??;
    }
    session.finish_writing().await?;
    let heads = final_heads(&stores).await?;
    session.sum_up(stopped, heads, output).await
}

/// One peer's whole run.
async fn run_peer(mut peer: Peer, rounds: std::ops::RangeInclusive<u64>, sender: mpsc::Sender<RoundEnd>) -> Result<()> {
    for round in rounds {
        let end = peer.round(round).await?;
        let is_last = matches!(end, RoundEnd::Stopped { .. });
        if sender.send(end).await.is_err() || is_last {
            break;
        }
    }
    Ok(())
}

/// The state before the first round, or the checkpoint's.
fn starting_point(job: &Job, options: &Options) -> Result<Checkpoint> {
    let path = options.out.as_ref().map(|dir| dir.join(checkpoint::FILE));
    if !options.resume {
        if let Some(path) = path.filter(|path| path.exists()) {
            bail!("`{}` is there already: go on with `--resume`, or choose another folder", path.display());
        }
        return Ok(Checkpoint::initial(job));
    }
    let path = path.context("`--resume` needs the folder of the run: set `--out`")?;
    let checkpoint = Checkpoint::load(&job.layout, &path)?;
    ensure!(
        checkpoint.job == job.digest,
        "`{}` is the checkpoint of another job ({}, this one is {}): seed, peers, data, functions and settings have \
         to be the same",
        path.display(),
        checkpoint.job,
        job.digest
    );
    Ok(checkpoint)
}

async fn new_stores(job: &Job, checkpoint: &Checkpoint) -> Result<BTreeMap<PeerId, Embedded>> {
    let mut stores = BTreeMap::new();
    for peer in job.shares.keys() {
        let store = Embedded::default();
        checkpoint.restore(&store).await?;
        stores.insert(*peer, store);
    }
    Ok(stores)
}

async fn final_heads(stores: &BTreeMap<PeerId, Embedded>) -> Result<BTreeMap<PeerId, Head>> {
    let mut heads = BTreeMap::new();
    for (peer, store) in stores {
        heads.insert(*peer, store.head().await?);
    }
    Ok(heads)
}

/// A run while it goes on.
struct Session {
    job: Arc<Job>,
    workers: Arc<Workers>,
    options: Options,
    /// Rounds that some peers have not reported yet. Peers wait for each other, so there are two at most.
    pending: BTreeMap<u64, Vec<RoundReport>>,
    phases: Phases,
    last: Checkpoint,
    writing: Option<JoinHandle<Result<(), checkpoint::CheckpointError>>>,
    metrics: Option<Metrics>,
    started: Instant,
    first_round: u64,
}

impl Session {
    /// Takes in one peer's report; closes the round with the last.
    async fn collect(&mut self, report: RoundReport, output: &mut Output) -> Result<()> {
        let round = report.round;
        let reports = self.pending.entry(round).or_default();
        reports.push(report);
        if reports.len() < self.job.shares.len() {
            return Ok(());
        }
        let reports = self.pending.remove(&round).expect("it was just extended");
        let mut phases = Phases::default();
        reports.iter().for_each(|report| phases.merge(&report.phases, reports.len() as f64));
        self.phases.merge(&phases, 1.0);
        let first = &reports[0];
        // The peers have compared their states among themselves; this is for those who did not confirm in time.
        if let Some(other) = reports.iter().find(|report| report.state_hash != first.state_hash) {
            bail!("peers {:?} and {:?} have different states after round {round}", first.peer, other.peer);
        }
        self.last = Checkpoint { job: self.job.digest, state: first.state.clone(), progress: first.progress };
        let elapsed = self.started.elapsed();
        let summary = RoundSummary { report: first, expected: self.job.shares.len(), phases: &phases, elapsed };
        if let Some(metrics) = &mut self.metrics {
            metrics.write(&summary.to_json())?;
        }
        // Behind the line of metrics: a run that is killed between the two drops the line and repeats the round.
        self.write_checkpoint().await?;
        let done = round - self.first_round;
        output.round(&summary, self.job.train.rounds, done as f64 / elapsed.as_secs_f64());
        Ok(())
    }

    /// Starts to write the last round's checkpoint, after the one before has been written. The next round goes on
    /// meanwhile.
    async fn write_checkpoint(&mut self) -> Result<()> {
        let Some(path) = self.options.out.as_ref().map(|dir| dir.join(checkpoint::FILE)) else { return Ok(()) };
        self.finish_writing().await?;
        let (checkpoint, layout) = (self.last.clone(), self.job.layout.clone());
        self.writing = Some(tokio::task::spawn_blocking(move || checkpoint.save(&layout, &path)));
        Ok(())
    }

    async fn finish_writing(&mut self) -> Result<()> {
        match self.writing.take() {
            Some(writing) => Ok(writing.await.context("writing the checkpoint was cut short")??),
            None => Ok(()),
        }
    }

    /// Leaves after the last round that all peers applied, which is written down first.
    async fn interrupted(mut self) -> Result<Summary> {
        self.finish_writing().await?;
        let hint = self.options.out.map(|dir| format!(": go on with `--resume --out {}`", dir.display()));
        bail!("interrupted after round {}{}", self.last.state.round(), hint.unwrap_or_default());
    }

    /// Evaluates the final state and puts the run's figures together.
    async fn sum_up(
        self,
        stopped: Option<Evaluation>,
        heads: BTreeMap<PeerId, Head>,
        output: &mut Output,
    ) -> Result<Summary> {
        output.finish();
        let layout = self.job.layout.clone();
        let parameters = Parameters { layout, values: self.last.state.parameters().buffer() };
        let validation = match stopped {
            Some(evaluation) => Some(evaluation),
            None => validate(&self.job, &self.workers, &parameters).await?,
        };
        let test = match &self.job.test {
            Some(part) => evaluate(&self.workers, &self.job.gradient, parameters, &part.dataset, &part.samples).await?,
            None => None,
        };
        let ledger = self.workers.ledger();
        Ok(Summary {
            rounds: self.last.state.round(),
            rounds_run: self.last.state.round() - self.first_round,
            stopped_early: stopped.is_some(),
            validation,
            test,
            state_hashes: heads.iter().map(|(peer, head)| (*peer, checkpoint::hash_of(head))).collect(),
            phases: self.phases,
            wall_ms: ms(self.started.elapsed()),
            ledger,
            learning_rate: self.last.progress.learning_rate,
        })
    }
}

/// How parameters do on all peers' validation samples.
///
/// # Errors
/// A call failed.
pub async fn validate(job: &Job, workers: &Workers, parameters: &Parameters) -> Result<Option<Evaluation>> {
    let mut parts = Vec::new();
    for Share { dataset, validation, .. } in job.shares.values() {
        parts.push(evaluate(workers, &job.gradient, parameters.clone(), dataset, validation).await?);
    }
    Ok(Evaluation::total(parts.into_iter().flatten()))
}
