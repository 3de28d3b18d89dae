//! The member's own contribution, and how long it waits for those of the others before it takes part in the agreement.

use std::collections::BTreeSet;
use std::time::Duration;

use skein_types::{Digest, PeerId};

use super::round::Round;
use super::{Action, Contribution, Node, Report, Served};
use crate::record::payload::{Announcement, Body};
use crate::record::{Kind, Position};

impl Node {
    /// Whether the state before a round is evaluated along with its gradients.
    pub(super) fn is_evaluation_due(&self, round: u64) -> bool {
        round > 1 && (round - 1).is_multiple_of(self.terms.evaluate_every)
    }

    /// The member's contribution is in its store: announced, unless an earlier process has announced one.
    pub(super) fn take_contribution(&mut self, position: Position, contribution: Contribution) {
        if position != self.round.position {
            return;
        }
        let Contribution { values, samples, loss, evaluation } = contribution;
        self.round.computed = Some(values);
        self.round.ready.get_or_insert(self.now);
        let slot = self.slot(position, Kind::Announcement, 0);
        if self.own.contains_key(&slot) {
            return self.hold_own();
        }
        if !self.signing.contains_key(&slot) {
            let announcement = Announcement { state: self.head.state, values, samples, loss, evaluation };
            let body = Body::Announcement(announcement);
            // The others refuse what cannot be read, and so does its own log.
            if Body::decode(&slot, &body.encode()).is_none() || samples > self.terms.samples_max {
                self.actions.push(Action::Report(Report::Unusable(position)));
                return;
            }
            self.sign(slot, body);
        }
    }

    /// Holds the member's own contribution if it is both computed and announced. One that was announced before a restart may
    /// have had other values, if the gradient function is not reproducible: then somebody else may hold them.
    pub(super) fn hold_own(&mut self) {
        let me = self.terms.me;
        let Some(hash) = self.round.announced.get(&me).copied() else { return };
        let Some(record) = self.round.announcement(&me, &hash) else { return };
        let Body::Announcement(Announcement { values, .. }) = record.body() else { return };
        match self.round.computed {
            Some(computed) if computed == *values => self.hold(me, hash),
            Some(_) => self.fetch_values(me, hash, self.others()),
            None => {}
        }
    }

    /// The values of a member's announcements are in the store.
    pub(super) fn hold_values(&mut self, peer: PeerId, values: Digest) {
        let matching = self.round.announcements.values().filter(|record| {
            let is_of = |announcement: &Announcement| announcement.values == values;
            record.peer() == peer && matches!(record.body(), Body::Announcement(announcement) if is_of(announcement))
        });
        let matching: Vec<Digest> = matching.map(|record| record.hash()).collect();
        matching.into_iter().for_each(|hash| self.hold(peer, hash));
    }

    fn hold(&mut self, peer: PeerId, hash: Digest) {
        self.round.hold(peer, hash);
        if let Some(record) = self.round.announcement(&peer, &hash) {
            self.actions.push(Action::Serve(Served::Announcement(record.clone())));
        }
    }

    /// Begins the agreement once everybody who is waited for has contributed, or as many as are needed and time is up.
    pub(super) fn gather(&mut self, position: Position) {
        let now = self.now;
        let enough = self.terms.model.answering() as usize;
        let certifying = self.terms.model.certifying() as usize;
        // Peers of one process are waited for however long it takes.
        let may_leave = self.pace.options().silent.is_some();
        let Some(round) = self.round_at(position) else { return };
        let is_due = round.gathers_until.is_some_and(|at| at <= now);
        if round.is_begun || !(round.is_changed || is_due) {
            return;
        }
        round.is_changed = false;
        let took = now - round.begun;
        if round.enough.is_none() && round.held_of.len() >= enough {
            round.enough = Some(took);
        }
        // The others have gathered: they go on with this member or without it.
        let is_late = may_leave && round.decider.voters() >= certifying;
        let is_complete = self.is_complete(position);
        if !is_complete && !is_late {
            let until = self.round_of(position).and_then(|round| self.gathers_until(round));
            if let Some(round) = self.round_at(position) {
                round.gathers_until = until;
            }
            return;
        }
        let others: BTreeSet<PeerId> = self.others().into_iter().collect();
        let others = &others - &self.head.standing.removed;
        let Some(round) = self.round_at(position) else { return };
        round.is_begun = true;
        round.ready.get_or_insert(now);
        round.gathers_until = None;
        let held_of = round.held_of.clone();
        let actions = round.decider.begin();
        if is_complete {
            self.pace.gathered(now, &held_of, &others);
        }
        self.carry_out(position, actions);
    }

    /// Whether nobody is waited for any more.
    fn is_complete(&mut self, position: Position) -> bool {
        let now = self.now;
        let Some(round) = self.round_of(position) else { return false };
        let Some(enough) = round.enough else { return false };
        let (begun, took) = (round.begun, now - round.begun);
        if now >= self.pace.deadline(begun, enough) {
            return true;
        }
        let missing = missing(&self.terms.members, round);
        let missing: Vec<PeerId> = missing.filter(|peer| !self.is_absent(peer)).copied().collect();
        let (on_probation, awaited): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|peer| self.pace.is_on_probation(peer));
        if !awaited.is_empty() {
            return false;
        }
        let Some(round) = self.round_at(position) else { return false };
        let others = *round.others.get_or_insert(took);
        on_probation.is_empty() || now >= self.pace.probation_deadline(begun, others)
    }

    /// Whether nothing is expected of a member.
    fn is_absent(&self, peer: &PeerId) -> bool {
        let is_me = *peer == self.terms.me;
        self.head.standing.removed.contains(peer) || (!is_me && self.pace.is_suspect(peer, self.now))
    }

    /// When gathering may end although nothing arrives.
    fn gathers_until(&self, round: &Round) -> Option<Duration> {
        let deadline = self.pace.deadline(round.begun, round.enough?);
        let probation = round.others.map(|others| self.pace.probation_deadline(round.begun, others));
        let suspected = missing(&self.terms.members, round).filter_map(|peer| self.pace.suspected_at(peer));
        suspected.chain(probation).chain([deadline]).filter(|at| *at > self.now).min()
    }

    /// The members that the round waits for.
    pub fn awaited(&self) -> BTreeSet<PeerId> {
        let missing = missing(&self.terms.members, &self.round);
        missing.filter(|peer| !self.is_absent(peer)).copied().collect()
    }
}

/// What a round waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The members that have not contributed, or not voted.
    pub peers: BTreeSet<PeerId>,
    /// When the round goes on without them; `None` if it needs some of them.
    pub until: Option<Duration>,
    /// The last round of these members, if all of them signed the state after it, as this member did, and fell silent.
    pub ended_after: Option<u64>,
}

impl Node {
    /// What the round waits for; `None` if for nobody else.
    pub fn waits(&self) -> Option<Waits> {
        let round = &self.round;
        if self.is_over() || round.computed.is_none() || round.is_applying || round.certificate.is_some() {
            return None;
        }
        let is_enough = round.held_of.len() >= self.terms.model.answering() as usize;
        let is_possible = |peer: &PeerId| *peer != self.terms.me && !self.head.standing.removed.contains(peer);
        let peers: BTreeSet<PeerId> = if round.is_begun {
            self.terms.members.iter().filter(|peer| is_possible(peer) && self.is_absent(peer)).copied().collect()
        } else if is_enough {
            self.awaited()
        } else {
            let is_missing = |peer: &&PeerId| is_possible(peer) && !round.held_of.contains(*peer);
            self.terms.members.iter().filter(is_missing).copied().collect()
        };
        if peers.is_empty() {
            return None;
        }
        let until = round.gathers_until.filter(|_| is_enough && !round.is_begun);
        let has_ended = |peer: &PeerId| self.is_absent(peer) && self.newest.get(peer) == Some(&round.position);
        let ended_after = peers.iter().all(has_ended).then_some(self.head.position.round);
        Some(Waits { peers, until, ended_after })
    }

    /// Whether this member no longer waits for contributions to its round.
    pub fn has_gathered(&self) -> bool {
        self.round.is_begun || self.round.certificate.is_some()
    }
}

/// Members that may still contribute.
fn missing<'a>(members: &'a BTreeSet<PeerId>, round: &'a Round) -> impl Iterator<Item = &'a PeerId> {
    let is_settled =
        |peer: &PeerId| round.held_of.contains(peer) || round.unsound.contains(peer) || round.wrong.contains(peer);
    members.iter().filter(move |peer| !is_settled(peer))
}
