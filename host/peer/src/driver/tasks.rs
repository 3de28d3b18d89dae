//! The tasks of a peer: what it computes, fetches and applies while its node goes on.

use anyhow::{Context, Result};
use skein_protocol::node::{Application, Contribution, Event, Found, Want};
use skein_protocol::record::Position;
use skein_store::{StateDigests, StoreError};
use skein_types::PeerId;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError};
use tokio::time::Instant;
use tracing::Instrument;

use super::apply::Applied;
use super::contribute::Contributed;
use super::fetch::Fetched;
use super::report::{RoundReport, Timing};
use super::{Peer, RECOVERIES_MAX};
use crate::checkpoint::Checkpoint;
use crate::phases::{Phase, Phases};

/// The contribution that is being computed, or was.
#[derive(Default)]
pub(super) struct Computing {
    pub(super) position: Position,
    pub(super) task: Option<AbortHandle>,
    done: Option<Contribution>,
}

/// A request under way, and how it hears of further holders.
pub(super) struct Fetching {
    task: AbortHandle,
    holders: mpsc::UnboundedSender<Vec<PeerId>>,
}

/// A round that is being applied.
pub(super) struct Applying {
    position: Position,
    task: AbortHandle,
}

/// What a task has done.
pub(super) enum Done {
    Contributed(Position, Result<Contributed>),
    Fetched(Want, Fetched),
    Applied(Box<Application>, Result<Applied>),
}

impl Peer {
    /// Begins to compute the contribution to a round, unless it is being computed or known.
    pub(super) fn compute(&mut self, position: Position, is_evaluated: bool) -> Option<Event> {
        if self.computing.position == position {
            if let Some(contribution) = self.computing.done.clone() {
                return Some(Event::Computed(position, contribution));
            }
            if self.computing.task.is_some() {
                return None;
            }
        }
        self.stop_computing();
        self.held.clear();
        self.spare.clear();
        self.timing = Timing { phases: Phases::default(), begun: Instant::now(), phase: None };
        let planned = self.work.plan(&mut self.order, position.round);
        let work = self.work.clone();
        let last_loss = self.last_loss;
        let span = tracing::debug_span!("round", round = position.round);
        let contribute = async move {
            let contributed = work.contribute(position.round, planned, is_evaluated, last_loss).await;
            Done::Contributed(position, contributed)
        };
        let task = self.tasks.spawn(contribute.instrument(span));
        self.computing = Computing { position, task: Some(task), done: None };
        None
    }

    fn stop_computing(&mut self) {
        if let Some(task) = std::mem::take(&mut self.computing).task {
            task.abort();
        }
    }

    pub(super) fn fetch(&mut self, want: Want, holders: Vec<PeerId>) {
        if let Some(under_way) = self.fetching.get(&want)
            && under_way.holders.send(holders.clone()).is_ok()
        {
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(holders);
        let fetcher = self.fetcher.clone();
        let wanted = want.clone();
        let fetch = async move {
            let fetched = fetcher.fetch(&wanted, receiver).await;
            Done::Fetched(wanted, fetched)
        };
        let task = self.tasks.spawn(fetch.in_current_span());
        self.fetching.insert(want, Fetching { task, holders: sender });
    }

    pub(super) fn cancel(&mut self, position: Position) {
        self.fetching.retain(|want, fetching| {
            let is_kept = want.position() > position;
            if !is_kept {
                fetching.task.abort();
            }
            is_kept
        });
    }

    /// Begins to change the state by a decision.
    pub(super) async fn apply(&mut self, application: Box<Application>) -> Result<()> {
        // The round is decided: a contribution that is not ready by now is not part of it.
        if let Some(task) = self.computing.task.take() {
            task.abort();
        }
        let position = application.position;
        for (peer, announcement) in &application.announcements {
            if self.held.get(peer) != Some(&announcement.values)
                && let Some(values) = self.spare.remove(&announcement.values)
            {
                self.work.store.contributions.put_contribution(position.round, *peer, values).await?;
                self.held.insert(*peer, announcement.values);
            }
        }
        self.timing.pause();
        let work = self.work.clone();
        let span = tracing::debug_span!("round", round = position.round);
        let apply = async move {
            let applied = work.apply(&application).await;
            Done::Applied(application, applied)
        };
        let task = self.tasks.spawn(apply.instrument(span));
        self.applying = Some(Applying { position, task });
        Ok(())
    }

    /// Takes what a task has done; returns what the node has to know of it.
    pub(super) async fn done(&mut self, done: Result<Done, JoinError>) -> Result<Vec<Event>> {
        let done = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return Ok(Vec::new()),
            Err(error) => return Err(error).context("a task of a peer was lost"),
        };
        match done {
            // It was given up meanwhile.
            Done::Contributed(position, _) if position != self.computing.position || self.computing.task.is_none() => {
                Ok(Vec::new())
            }
            Done::Applied(application, _)
                if self.applying.as_ref().is_none_or(|applying| applying.position != application.position) =>
            {
                Ok(Vec::new())
            }
            Done::Contributed(position, Ok(contributed)) => {
                let Contributed { contribution, phases } = contributed;
                self.held.insert(self.work.me, contribution.values);
                self.computing.task = None;
                self.computing.done = Some(contribution.clone());
                self.timing = Timing { phases, begun: Instant::now(), phase: Some(Phase::Gather) };
                Ok(vec![Event::Computed(position, contribution)])
            }
            Done::Contributed(_, Err(error)) => self.restore(error).await,
            Done::Fetched(want, fetched) => self.take_fetched(want, fetched).await,
            Done::Applied(application, Ok(applied)) => {
                self.recoveries = 0;
                self.take_applied(*application, applied).await
            }
            Done::Applied(_, Err(error)) => self.restore(error).await,
        }
    }

    pub(super) async fn take_fetched(&mut self, want: Want, fetched: Fetched) -> Result<Vec<Event>> {
        self.fetching.remove(&want);
        if !self.node.wants(&want) {
            return Ok(Vec::new());
        }
        let found = match (&want, fetched) {
            (Want::Values(position, peer, hash), Fetched::Values(values)) => {
                // The peer's own ones may still be computed, and are stored when they are, whatever their hash.
                let is_own = *peer == self.work.me;
                if is_own || self.held.get(peer).is_some_and(|held| held != hash) {
                    self.spare.insert(*hash, values);
                } else if self.held.get(peer) != Some(hash) {
                    self.work.store.contributions.put_contribution(position.round, *peer, values).await?;
                    self.held.insert(*peer, *hash);
                }
                Found::Values
            }
            (Want::State(..), Fetched::State(..)) if self.applying.is_some() => Found::Missing,
            (Want::State(position, _), Fetched::State(state, standing)) => {
                self.stop_computing();
                self.held.clear();
                let provenance = self.last.provenance.clone();
                let taken = Checkpoint { provenance, state, position: *position, standing: *standing };
                taken.restore(&*self.work.store.state).await?;
                self.work.compute.open().await?;
                self.last = taken;
                Found::State(self.last.standing.clone())
            }
            (_, Fetched::Values(_) | Fetched::State(..)) => Found::Missing,
            (_, Fetched::Found(found)) => found,
        };
        Ok(vec![Event::Fetched(want, found)])
    }

    async fn take_applied(&mut self, application: Application, applied: Applied) -> Result<Vec<Event>> {
        self.applying = None;
        let Application { position, announcements, standing, .. } = application;
        let Applied { state, state_hash, loss, evaluation, phases } = applied;
        self.timing.phases.merge(&phases, 1.0);
        self.timing.turn_to(Phase::Check);
        self.last_loss = Some(loss);
        let learning_rate = standing.progress.learning_rate;
        self.last = Checkpoint { provenance: self.last.provenance.clone(), state, position, standing };
        let me = self.work.me;
        let contribution = self.log.own_contribution(&*self.work.store.contributions, me, position.round).await?;
        self.report = Some(Box::new(RoundReport {
            peer: me,
            checkpoint: self.last.clone(),
            state_hash,
            contribution,
            learning_rate,
            loss,
            evaluation,
            present: announcements.len(),
            absent: std::mem::take(&mut self.absent),
            phases: Phases::default(),
        }));
        Ok(vec![Event::Applied(position, state_hash)])
    }

    /// Restores the last state if the store may not have it any more, and what the peer wrote since: its database came back
    /// empty, old, or just without what it had not saved yet. In any case time has passed.
    pub(super) async fn check_store(&mut self) -> Result<Vec<Event>> {
        let is_still = self.applying.is_none() && self.node.head().position == self.last.position;
        if !is_still || !self.log.is_durable() {
            return Ok(vec![Event::Tick]);
        }
        let known = match self.instance_and_digests().await {
            Ok((instance, digests)) => self
                .instance
                .replace(instance.clone())
                .is_none_or(|known| known == instance)
                .then_some(digests)
                .ok_or(StoreError::Restarted),
            Err(error) => Err(error),
        };
        match known {
            Ok(digests) if digests.round == self.last.state.round() => Ok(vec![Event::Tick]),
            Ok(digests) => {
                let lost = StoreError::OutOfOrder { round: self.last.state.round(), state: digests.round };
                self.restore(lost.into()).await
            }
            Err(error) => self.restore(error.into()).await,
        }
    }

    async fn instance_and_digests(&self) -> Result<(String, StateDigests), StoreError> {
        let state = &self.work.store.state;
        Ok((state.instance().await?, state.digests().await?))
    }

    /// Restores the last state to a store that lost it.
    async fn restore(&mut self, error: anyhow::Error) -> Result<Vec<Event>> {
        if !is_loss(&error) || self.recoveries >= RECOVERIES_MAX {
            return Err(error);
        }
        let round = self.last.state.round();
        tracing::warn!(round, error = format!("{error:#}"), "the store lost the state: restoring it");
        self.recoveries += 1;
        self.stop_computing();
        if let Some(applying) = self.applying.take() {
            applying.task.abort();
        }
        self.held.clear();
        self.last.restore(&*self.work.store.state).await?;
        self.work.compute.open().await?;
        Ok(vec![Event::Restored(self.last.head())])
    }
}

/// Whether the store lost what was written to it, as after a crash without a save or with an old backup.
fn is_loss(error: &anyhow::Error) -> bool {
    let error = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
    matches!(
        error,
        Some(
            StoreError::NoState
                | StoreError::Restarted
                | StoreError::Incomplete { .. }
                | StoreError::Missing { .. }
                | StoreError::OutOfOrder { .. }
                | StoreError::Corrupt { .. }
        )
    )
}
