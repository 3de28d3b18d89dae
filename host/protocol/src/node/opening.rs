//! The last resort: values of a decided round are lost, and members agree to go back to a state that enough of them hold.
//!
//! The agreement is round 0 of the next era. Each announcement names the state that its member holds; the decided selection
//! of announcements determines the newest one that `b + 1` of them name, with which the era begins.
//!
//! A member announces only when it is stuck itself and so many others say with their beats that they do not get on either that
//! no quorum is left. From then on it holds still, so that it has what it named. If the others get on after all, it follows
//! them, and names its new state when it is stuck again: its latest announcement counts. A member that has voted signs nothing
//! in the era before any more: if the agreement succeeds, no quorum is left that could go on there.

use std::sync::Arc;
use std::time::Duration;

use skein_types::{Digest, PeerId};

use super::round::Round;
use super::{Action, Node, Served, Want};
use crate::record::payload::{Body, Check, Opening, Selection};
use crate::record::{Kind, Position, Record};
use crate::standing::Head;

impl Node {
    /// When this member gives up on its round, or says with its beats that it does not get on.
    pub(super) fn stuck_at(&self) -> Option<Duration> {
        if self.opening.is_some() || self.is_over() {
            return None;
        }
        let wait = self.pace.options().wait_max;
        let times = [self.round.stuck_since.map(|since| since + wait), self.round.ready.map(|ready| ready + wait * 2)];
        times.into_iter().flatten().filter(|at| *at > self.now).min()
    }

    /// Whether somebody asks for the next era.
    fn is_era_asked(&self) -> bool {
        let position = self.round.position.next_era();
        self.early.of(position).any(|record| record.slot().kind == Kind::Announcement)
    }

    /// Whether this member does not get on, which its beats say.
    pub fn is_stuck(&self) -> bool {
        let wait = self.pace.options().wait_max;
        if self.is_over() {
            // The others may have lost what they need to get there.
            return self.opening.is_some() || self.is_era_asked();
        }
        // Not while it computes, which may take any time.
        let is_late = self.round.ready.is_some_and(|ready| self.now >= ready + wait * 2);
        self.opening.is_some() || is_late || self.lacks_values()
    }

    /// Whether values of a decided round were asked for in vain, for as long as anything is waited for.
    fn lacks_values(&self) -> bool {
        self.round.stuck_since.is_some_and(|since| self.now >= since + self.pace.options().wait_max)
    }

    /// Whether the member announced a contribution that it can neither compute again nor get from anybody.
    fn has_lost_own(&self) -> bool {
        let own = self.round.announced.get(&self.terms.me);
        self.round.computed.is_some() && own.is_some_and(|hash| !self.round.held.contains_key(hash))
    }

    /// A member says that it does not get on, or that it does.
    pub(super) fn hint(&mut self, peer: PeerId, is_stuck: bool) {
        if is_stuck {
            self.stuck.insert(peer);
        } else {
            self.stuck.remove(&peer);
        }
    }

    /// Asks for the next era if this member is stuck, and so many others are that no quorum gets on.
    pub(super) fn open_era(&mut self) {
        self.note_stuck();
        let is_busy = self.round.is_applying || self.is_transferring() || self.has_lost_log();
        if self.opening.is_some() || is_busy || !self.is_stuck() {
            return;
        }
        let position = self.round.position.next_era();
        let is_asked = self.is_era_asked();
        let heard = self.stuck.iter().filter(|peer| !self.pace.is_suspect(peer, self.now));
        let stuck = heard.count() + 1;
        if (self.lacks_values() || self.has_lost_own() || is_asked) && stuck >= self.terms.model.answering() as usize {
            self.begin_opening(position);
        }
    }

    fn begin_opening(&mut self, position: Position) {
        self.opening = Some(Round::new(position, self.decider(position), self.now));
        self.learn_kept(position);
        let own = self.own_at(position);
        let before = own.iter().filter(|record| record.slot().kind == Kind::Announcement);
        let attempt = before.map(|record| record.slot().view + 1).max().unwrap_or(0);
        let opening = Opening { round: self.head.position.round, state: self.head.check() };
        self.sign(self.slot(position, Kind::Announcement, attempt), Body::Opening(opening));
        let early: Vec<Arc<Record>> = self.early.of(position).cloned().collect();
        own.iter().chain(&early).for_each(|record| self.take(record));
        self.follow_all();
    }

    /// Whether this member has voted on the next era, and can no longer go on in this one.
    pub(super) fn is_bound(&self) -> bool {
        self.opening.as_ref().is_some_and(|opening| self.silent_before >= opening.position)
    }

    /// The others get on: this member does too.
    pub(super) fn drop_opening(&mut self) {
        if self.is_bound() {
            return;
        }
        if let Some(opening) = self.opening.take() {
            self.early.put_back(opening.position, opening.records());
        }
    }

    /// A member names the state that it holds: nothing is to be fetched for it. The latest that it names counts.
    pub(super) fn take_opening(&mut self, record: &Arc<Record>) {
        let Some(opening) = &mut self.opening else { return };
        if opening.position != record.slot().position {
            return;
        }
        let peer = record.peer();
        opening.announcements.insert(record.hash(), record.clone());
        let known = opening.announced.get(&peer).and_then(|hash| opening.announcements.get(hash));
        if known.is_none_or(|known| known.slot().view < record.slot().view) {
            opening.announced.insert(peer, record.hash());
        }
        opening.hold(peer, record.hash());
        self.actions.push(Action::Serve(Served::Announcement(record.clone())));
    }

    /// Whether enough of the selected members name one state, and none of them is known to have named a later one.
    pub(super) fn is_opening_sound(&self, position: Position, value: Digest) -> bool {
        let opening = self.opening.as_ref().filter(|opening| opening.position == position);
        let Some(opening) = opening else { return false };
        let Some(proposed) = opening.proposed.get(&value) else { return false };
        let is_latest = |(peer, hash): &(PeerId, Digest)| opening.announced.get(peer) == Some(hash);
        let selection = &proposed.selection;
        selection.announcements.iter().all(is_latest) && self.target(opening, selection).is_some()
    }

    /// The newest state that so many of the selected members name that one of them is honest, and those members.
    fn target(&self, opening: &Round, selection: &Selection) -> Option<(u64, Check, Vec<PeerId>)> {
        let named: Vec<(PeerId, Opening)> = selection
            .announcements
            .iter()
            .filter_map(|(peer, hash)| match opening.announcement(peer, hash)?.body() {
                Body::Opening(named) => Some((*peer, *named)),
                _ => None,
            })
            .collect();
        let holders = |of: &Opening| -> Vec<PeerId> {
            named.iter().filter(|(_, named)| named == of).map(|(peer, _)| *peer).collect()
        };
        let enough = self.terms.model.certifying() as usize;
        let held = named.iter().map(|(_, of)| (of.round, of.state, holders(of)));
        held.filter(|(.., holders)| holders.len() >= enough).max_by_key(|(round, state, _)| (*round, *state))
    }

    /// Takes over the state with which the era begins, once that is decided.
    pub(super) fn conclude_opening(&mut self) {
        let Some(position) = self.opening.as_ref().map(|opening| opening.position) else { return };
        self.complete_decision(position);
        let Some(opening) = &mut self.opening else { return };
        let Some(decision) = opening.decision.clone() else { return };
        if opening.lacks(decision.certificate.value) {
            return self.fetch_selected(position, decision.certificate.value);
        }
        let Some(opening) = &self.opening else { return };
        let selection = &decision.selection;
        let Some((round, check, holders)) = self.target(opening, selection) else { return };
        let begin = Position { round, ..position };
        if self.round.is_applying || self.is_transferring() {
            return;
        }
        if self.head.position.round != round || self.head.check() != check {
            return self.want(Want::State(begin, check), holders);
        }
        let head = Head { position: begin, ..self.head.clone() };
        self.adopted = Some(head.clone());
        self.actions.push(Action::Save(Box::new(head)));
    }
}
