//! From the decision to the next round: the decided set, the convergence rules, and the check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skein_types::{Digest, PeerId};

use super::round::proposers;
use super::{Absence, Action, Application, Entry, Node, Report, Served, Want};
use crate::decision::Decision;
use crate::mutant::{self, Mutant};
use crate::record::payload::{Announcement, Body, Selection};
use crate::record::{Kind, Position};
use crate::slot::View;
use crate::standing::{Head, Standing};

/// Rounds for which a member proposes last after its view has passed.
const ROUNDS_LAST: u64 = 100;
/// The metric that the convergence rules observe.
const LOSS: &str = "loss";

impl Node {
    /// Applies the round once it is decided and all of it is held; returns whether the next one began.
    pub(super) fn conclude(&mut self) -> bool {
        if self.is_over() || self.opening.is_some() {
            return false;
        }
        self.complete_decision(self.round.position);
        if let Some(decision) = self.round.decision.clone()
            && !self.round.is_applying
            && !self.is_transferring()
        {
            self.apply(&decision);
        }
        self.finish_round()
    }

    /// Makes the decision from its certificate and the selection that it stands for, for all who are late.
    pub(super) fn complete_decision(&mut self, position: Position) {
        let Some(round) = self.round_of(position).filter(|round| round.decision.is_none()) else { return };
        let Some(certificate) = round.certificate.clone() else { return };
        let Some(proposed) = round.proposed.get(&certificate.value) else {
            return self.want(Want::Selection(position, certificate.value), self.others());
        };
        let view = certificate.view;
        let decision = Arc::new(Decision { position, selection: proposed.selection.clone(), certificate });
        self.decisions.insert(position, decision.clone());
        self.actions.push(Action::Keep(Entry::Decision(decision.clone())));
        self.actions.push(Action::Serve(Served::Decision(decision.clone())));
        if position.round > 0 {
            let absent = self.absent(&decision.selection);
            self.actions.push(Action::Report(Report::Decided { position, view, absent }));
        }
        if let Some(round) = self.round_at(position) {
            round.decision = Some(decision);
        }
    }

    /// Changes the state by a decision if all its contributions are held, and asks for them otherwise.
    fn apply(&mut self, decision: &Decision) {
        let value = decision.certificate.value;
        if self.round.lacks(value) {
            return self.fetch_selected(decision.position, value);
        }
        self.round.stuck_since = None;
        let announcements = self.announcements(&decision.selection);
        let standing = self.standing_after(&announcements, &decision.selection);
        self.round.is_applying = true;
        if standing.is_stopped {
            // Training ends with the state before the round.
            let position = decision.position;
            let head = Head { position, state: self.head.state, standing };
            self.actions.push(Action::Report(Report::Stopped { position, announcements }));
            self.actions.push(Action::Save(Box::new(head.clone())));
            self.round.applied = Some(head);
            return;
        }
        self.actions.push(Action::Apply(Box::new(Application {
            position: decision.position,
            announcements,
            byzantine: self.byzantine(),
            standing: standing.clone(),
        })));
        self.round.standing = Some(standing);
    }

    /// Byzantine members that the rule has to tolerate: whatever members say of each other, as many as were assumed.
    fn byzantine(&self) -> u32 {
        let charged = if mutant::is(Mutant::ChargeLowersBound) { self.round.wrong.len() as u32 } else { 0 };
        self.terms.model.byzantine().saturating_sub(charged)
    }

    /// The state after the round is in the store.
    pub(super) fn take_applied(&mut self, position: Position, state: Digest) {
        if position != self.round.position || !self.round.is_applying {
            return;
        }
        if let Some(standing) = self.round.standing.take() {
            self.round.applied = Some(Head { position, state, standing });
        }
    }

    /// Signs the state after the round, and begins the next one. The check says too that the state before the round is on
    /// disk: what was needed to compute it may then be dropped.
    fn finish_round(&mut self) -> bool {
        if self.round.applied.is_none() || self.saved < self.head.position {
            return false;
        }
        let Some(head) = self.round.applied.take() else { return false };
        let check = head.check();
        let slot = self.slot(head.position, Kind::Check, 0);
        match self.own.get(&slot).map(|record| record.body()) {
            None => self.sign(slot, Body::Check(check)),
            Some(Body::Check(before)) if *before == check => {}
            Some(_) => self.actions.push(Action::Report(Report::Differs(head.position))),
        }
        self.head = head;
        self.enter();
        true
    }

    /// Signs the state that the member begins with, if it was stopped between applying it and signing it.
    pub(super) fn check_head(&mut self) {
        let position = self.head.position;
        let slot = self.slot(position, Kind::Check, 0);
        if position.round > 0 && self.saved >= position && !self.own.contains_key(&slot) {
            self.sign(slot, Body::Check(self.head.check()));
        }
    }

    fn announcements(&self, selection: &Selection) -> Vec<(PeerId, Announcement)> {
        let announcements = selection.announcements.iter().map(|(peer, hash)| {
            let record = self.round.announcement(peer, hash).expect("what is held was announced");
            match record.body() {
                Body::Announcement(announcement) => (*peer, announcement.clone()),
                other => unreachable!("{other:?} is not a contribution"),
            }
        });
        announcements.collect()
    }

    /// What the members share after a decision. It depends on the decision and on what all of them know alone.
    fn standing_after(&self, announcements: &[(PeerId, Announcement)], selection: &Selection) -> Standing {
        let mut standing = self.head.standing.clone();
        standing.contributors = announcements.iter().map(|(peer, _)| *peer).collect();
        standing.removed.extend(selection.proofs.iter().map(|proof| proof.slot().peer));
        self.note_passed(&mut standing, selection.view);
        if let Some(loss) = self.validation_loss(announcements) {
            standing.is_stopped = standing.progress.observe(&self.terms.convergence, loss);
        }
        standing
    }

    /// Lets those propose last for a while whose views passed before somebody proposed what was decided. They are at most as
    /// many as may fail, so that an honest member is always among the others.
    fn note_passed(&self, standing: &mut Standing, view: View) {
        let round = self.round.position.round;
        standing.passed.retain(|_, until| *until > round);
        let order = proposers(&self.terms, &self.head, self.round.position);
        let until = round + ROUNDS_LAST;
        standing.passed.extend(order.into_iter().take(view as usize).map(|peer| (peer, until)));
        let model = self.terms.model;
        while standing.passed.len() > (model.byzantine() + model.crashed()) as usize {
            let first = standing.passed.iter().min_by_key(|(peer, until)| (**until, **peer)).map(|(peer, _)| *peer);
            standing.passed.remove(&first.expect("it is not empty"));
        }
    }

    /// The median of the members' mean losses over their own validation samples, if an evaluation was due. Liars are fewer
    /// than half of the set, so it lies among the losses of honest members.
    fn validation_loss(&self, announcements: &[(PeerId, Announcement)]) -> Option<f64> {
        if !self.is_evaluation_due(self.round.position.round) {
            return None;
        }
        let sound = announcements.iter().filter_map(|(peer, announcement)| {
            let evaluation = announcement.evaluation.as_ref()?;
            let is_whole = self.terms.validation.get(peer) == Some(&evaluation.samples);
            evaluation.sums.get(LOSS).filter(|_| is_whole).map(|sum| sum.mean())
        });
        median(sound.collect())
    }

    /// Why the other members are not in a selection, as this member saw them.
    fn absent(&self, selection: &Selection) -> BTreeMap<PeerId, Absence> {
        let selected: BTreeSet<PeerId> = selection.announcements.iter().map(|(peer, _)| *peer).collect();
        let absent = self.terms.members.difference(&selected).map(|peer| (*peer, self.absence(peer)));
        absent.collect()
    }

    fn absence(&self, peer: &PeerId) -> Absence {
        let round = &self.round;
        if self.head.standing.removed.contains(peer) {
            Absence::Removed
        } else if round.wrong.contains(peer) {
            Absence::Wrong
        } else if round.held_of.contains(peer) {
            Absence::Unselected
        } else if round.announced.contains_key(peer) {
            Absence::Unreachable
        } else if round.unsound.contains(peer) {
            Absence::Unsound
        } else {
            Absence::Silent
        }
    }
}

/// The middle value, or the mean of both; `None` without values.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    // Halved first: the sum of two finite numbers may not be finite.
    Some(lower / 2.0 + upper / 2.0)
}
