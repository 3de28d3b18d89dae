//! The agreement within a round: passes records to the decider, judges what is proposed, proposes, and does what it says.

use std::sync::Arc;

use skein_types::{Digest, PeerId};

use super::round::{Added, Proposed, Round, Timer};
use super::{Action, Entry, Node, Served, Want};
use crate::agreement::{self, Ballot, BallotKind, Certificate, Input, View};
use crate::proof::Proof;
use crate::record::payload::{Announcement, Body, PROOFS_MAX, ProposedSelection, Selection};
use crate::record::{Kind, Position, Record, Slot};

impl Node {
    /// The round at a position that is being agreed on.
    pub(super) fn round_at(&mut self, position: Position) -> Option<&mut Round> {
        if self.round.position == position {
            return Some(&mut self.round);
        }
        self.opening.as_mut().filter(|opening| opening.position == position)
    }

    pub(super) fn round_of(&self, position: Position) -> Option<&Round> {
        let rounds = [Some(&self.round), self.opening.as_ref()];
        rounds.into_iter().flatten().find(|round| round.position == position)
    }

    /// Takes a record of a round that is being agreed on, this member's own after it was kept.
    pub(super) fn take(&mut self, record: &Arc<Record>) {
        let position = record.slot().position;
        let me = self.terms.me;
        if position == self.round.position && self.is_over() {
            return;
        }
        // Read before it was removed.
        if position.round > 0 && self.head.standing.removed.contains(&record.peer()) {
            return;
        }
        let Some(round) = self.round_at(position) else { return };
        match round.add(record) {
            Added::First => {}
            Added::Nothing => return,
            Added::Second(first) => {
                // Those who have read only one of them learn of the other.
                self.actions.extend([&first, record].map(|record| Action::Publish(record.clone())));
                self.prove(first.contradicts(record).expect("two payloads in one slot"));
            }
        }
        if let Some(round) = self.round_at(position) {
            round.is_changed |= record.peer() != me && !round.is_begun;
        }
        let from = record.peer();
        let slot = *record.slot();
        match record.body() {
            Body::Announcement(announcement) => self.take_announcement(record, announcement),
            Body::Opening(_) => self.take_opening(record),
            Body::Proposal(ProposedSelection { selection, earlier }) => {
                let value = selection.digest();
                self.learn(position, value, selection.clone());
                let proposal = agreement::Proposal { view: slot.view, value, earlier: earlier.clone(), from };
                self.decide(position, Input::Proposal(proposal));
            }
            Body::Vote(value) => {
                let kind = if slot.kind == Kind::Prevote { BallotKind::Prevote } else { BallotKind::Precommit };
                let signature = record.signature();
                self.decide(position, Input::Vote(Ballot { kind, view: slot.view, value: *value, from, signature }));
            }
            Body::Lock(lock) => self.decide(position, Input::Certificate(lock.clone())),
            Body::Check(_) | Body::Inquiry(_) | Body::Answer(_) => {}
        }
    }

    /// An announcement counts if it builds on the state here, and claims nothing beyond what everybody knows.
    pub(super) fn take_announcement(&mut self, record: &Arc<Record>, announcement: &Announcement) {
        let peer = record.peer();
        let is_sound = announcement.state == self.head.state && announcement.samples <= self.terms.samples_max;
        if !is_sound {
            self.round.unsound.insert(peer);
            self.round.is_changed = true;
            return;
        }
        self.round.announcements.insert(record.hash(), record.clone());
        if self.round.announced.contains_key(&peer) {
            return;
        }
        self.round.announced.insert(peer, record.hash());
        if peer == self.terms.me {
            self.hold_own();
        } else {
            self.fetch_values(peer, record.hash(), vec![peer]);
        }
    }

    /// Asks for the values of a sound announcement unless they are held.
    pub(super) fn fetch_values(&mut self, peer: PeerId, hash: Digest, from: Vec<PeerId>) {
        let Some(record) = self.round.announcement(&peer, &hash) else { return };
        let Body::Announcement(announcement) = record.body() else { return };
        if self.round.held.contains_key(&hash) {
            return;
        }
        let want = Want::Values(self.round.position, peer, announcement.values);
        self.want(want, from);
    }

    /// A selection that a digest stands for.
    pub(super) fn learn(&mut self, position: Position, value: Digest, selection: Selection) {
        if self.round_of(position).is_none_or(|round| round.proposed.contains_key(&value)) {
            return;
        }
        let is_sound = self.is_sound(position, &selection);
        self.actions.push(Action::Serve(Served::Selection(position, value, selection.clone())));
        let proposed = Proposed { selection, held: 0, is_sound, is_told: false, asked_at: None };
        if let Some(round) = self.round_at(position) {
            round.proposed.insert(value, proposed);
        }
    }

    /// Learns what an earlier process of this member prevoted.
    pub(super) fn learn_kept(&mut self, position: Position) {
        let kept = self.selections.iter().filter(|(of, _)| *of == position);
        let kept: Vec<Selection> = kept.map(|(_, selection)| selection.clone()).collect();
        for selection in kept {
            self.learn(position, selection.digest(), selection);
        }
    }

    /// Passes an input to the decider of a round, and does what it says.
    pub(super) fn decide(&mut self, position: Position, input: Input) {
        let Some(round) = self.round_at(position) else { return };
        let actions = round.decider.handle(input);
        self.carry_out(position, actions);
    }

    pub(super) fn carry_out(&mut self, position: Position, actions: Vec<agreement::Action>) {
        for action in actions {
            let now = self.now;
            let is_past = position < self.silent_before;
            let Some(round) = self.round_at(position) else { return };
            match action {
                agreement::Action::Propose(view, earlier) => round.proposing = Some((view, earlier)),
                // One of a round in which nothing is signed any more binds nothing.
                agreement::Action::Lock(_) if is_past => {}
                agreement::Action::Lock(lock) => {
                    self.lock = Some((position, lock.clone()));
                    self.actions.push(Action::Keep(Entry::Lock(position, lock)));
                }
                agreement::Action::Vote(kind, view, value) => {
                    self.vote(self.slot(position, kind.into(), view), value);
                }
                agreement::Action::Fetch(value) => {
                    round.wanted.insert(value);
                }
                agreement::Action::Wait(view, step) => {
                    let proposer = round.decider.proposer(view);
                    let until = now + self.pace.timer(view, step, &proposer, now);
                    let at = self.pace.timer_looks_at(step, &proposer, now).map_or(until, |at| at.min(until));
                    if let Some(round) = self.round_at(position) {
                        round.timer = Some(Timer { at, until, view, step });
                    }
                }
                // Seen with both records when they arrived.
                agreement::Action::Equivocation(..) => {}
                agreement::Action::Decide(certificate) => {
                    round.timer = None;
                    round.certificate = Some(certificate);
                }
            }
        }
    }

    fn vote(&mut self, slot: Slot, value: Option<Digest>) {
        // If its selection is decided, somebody has to know it, although all databases may lose it.
        if let Some(value) = value.filter(|_| slot.kind == Kind::Prevote && slot.position >= self.silent_before)
            && let Some(proposed) = self.round_of(slot.position).and_then(|round| round.proposed.get(&value))
        {
            self.actions.push(Action::Keep(Entry::Selection(slot.position, proposed.selection.clone())));
        }
        self.sign(slot, Body::Vote(value));
    }

    /// Tells the deciders that timers have run out, and shows the others what this member counts.
    pub(super) fn expire(&mut self) {
        let positions = [Some(self.round.position), self.opening.as_ref().map(|opening| opening.position)];
        for position in positions.into_iter().flatten() {
            let now = self.now;
            let me = self.terms.me;
            let Some(round) = self.round_at(position) else { continue };
            let Some(timer) = round.timer.filter(|timer| timer.at <= now) else { continue };
            let Timer { until, view, step, .. } = timer;
            let proposer = round.decider.proposer(view);
            if now < until
                && let Some(at) = self.pace.timer_looks_at(step, &proposer, now)
                && let Some(round) = self.round_at(position)
            {
                round.timer = Some(Timer { at: at.min(until), ..timer });
                continue;
            }
            let Some(round) = self.round_at(position) else { continue };
            round.timer = None;
            let relayed = round.relay(me);
            let lock = round.decider.lock().cloned();
            self.actions.extend(relayed.into_iter().map(Action::Publish));
            self.publish_lock(position, lock);
            self.decide(position, Input::Timeout(view, step));
        }
    }

    fn publish_lock(&mut self, position: Position, lock: Option<Certificate>) {
        let Some(lock) = lock else { return };
        let slot = self.slot(position, Kind::Lock, lock.view);
        if !self.own.contains_key(&slot) {
            self.sign(slot, Body::Lock(lock));
        }
    }

    /// Tells the decider which of the selections on which a vote depends are acceptable, and asks for what is missing.
    pub(super) fn judge(&mut self, position: Position) {
        let Some(round) = self.round_at(position) else { return };
        if round.wanted.is_empty() || round.certificate.is_some() {
            return;
        }
        let wanted: Vec<Digest> = round.wanted.iter().copied().collect();
        for value in wanted {
            let Some(round) = self.round_at(position) else { return };
            let Some(proposed) = round.proposed.get(&value) else {
                self.want(Want::Selection(position, value), self.others());
                continue;
            };
            if proposed.is_told || !proposed.is_sound {
                continue;
            }
            if round.lacks(value) {
                self.fetch_selected(position, value);
            } else if position.round > 0 || self.is_opening_sound(position, value) {
                self.tell(position, value);
            }
        }
    }

    /// Tells the decider that it may vote for a selection.
    fn tell(&mut self, position: Position, value: Digest) {
        if let Some(proposed) = self.round_at(position).and_then(|round| round.proposed.get_mut(&value)) {
            proposed.is_told = true;
        }
        self.decide(position, Input::Held(value));
    }

    /// Whether a new selection is one that this member would vote for, were its announcements held.
    fn is_sound(&self, position: Position, selection: &Selection) -> bool {
        let is_removed = |peer: &PeerId| position.round > 0 && self.head.standing.removed.contains(peer);
        let is_eligible = |peer: &PeerId| self.terms.members.contains(peer) && !is_removed(peer);
        selection.announcements.len() >= self.terms.model.answering() as usize
            && selection.announcements.iter().all(|(peer, _)| is_eligible(peer))
            && selection.proofs.iter().all(|proof| is_eligible(&proof.slot().peer))
    }

    /// Asks everybody for what of a selection is not held.
    pub(super) fn fetch_selected(&mut self, position: Position, value: Digest) {
        let Some(round) = self.round_at(position) else { return };
        for (peer, hash) in round.lacking(value) {
            let is_announced = self.round_at(position).is_some_and(|round| round.announcement(&peer, &hash).is_some());
            if is_announced {
                self.fetch_values(peer, hash, self.holders(peer));
            } else {
                self.want(Want::Announcement(position, peer, hash), self.others());
            }
        }
    }

    /// All other members, the owner of a contribution first.
    fn holders(&self, owner: PeerId) -> Vec<PeerId> {
        let mut holders = self.others();
        holders.sort_by_key(|peer| *peer != owner);
        holders
    }

    /// All other members, beginning with the next.
    pub(super) fn others(&self) -> Vec<PeerId> {
        let me = self.terms.me;
        let after = self.terms.members.range(me..).filter(|peer| **peer != me);
        after.chain(self.terms.members.range(..me)).copied().collect()
    }

    /// Proposes if it is this member's turn, as soon as it has something to propose.
    pub(super) fn propose(&mut self, position: Position) {
        let Some(round) = self.round_at(position) else { return };
        let Some((view, earlier)) = round.proposing.clone() else { return };
        if view != round.decider.view() || round.certificate.is_some() {
            round.proposing = None;
            return;
        }
        let selection = match &earlier {
            Some(earlier) => match round.proposed.get(&earlier.value) {
                Some(proposed) => proposed.selection.clone(),
                None => return self.want(Want::Selection(position, earlier.value), self.others()),
            },
            None => match self.select(position, view) {
                Some(selection) => selection,
                None => return,
            },
        };
        self.learn(position, selection.digest(), selection.clone());
        if let Some(round) = self.round_at(position) {
            round.proposing = None;
        }
        let slot = self.slot(position, Kind::Proposal, view);
        self.sign(slot, Body::Proposal(ProposedSelection { selection, earlier }));
    }

    /// All contributions that are held, if they are enough.
    fn select(&mut self, position: Position, view: View) -> Option<Selection> {
        let announcements = self.round_at(position)?.held_first();
        let is_new = |proof: &&Proof| !self.head.standing.removed.contains(&proof.slot().peer);
        let proofs = self.proofs.values().filter(is_new).take(PROOFS_MAX).cloned().collect();
        let selection = Selection { view, announcements, proofs };
        self.is_sound(position, &selection).then_some(selection)
    }
}
