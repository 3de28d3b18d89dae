//! A member whose log is empty: it starts for the first time, or it has lost what it signed.
//!
//! It asks the others. If enough of them have never read anything of it, nothing was lost. Otherwise it may have signed
//! records that it no longer knows, in rounds up to two after the last one that is shown to be over: a member that signs in a
//! round has the state after the one before, which a quorum precommitted with the state after the one before that. Of those
//! that answer, one at least is honest and belongs to that quorum. It shows the decision that led to its state, or the
//! signatures under the state if it took that over from others. So the member signs nothing until it has a state at least as
//! late as the latest that anybody can show, and in the two rounds after that.
//!
//! A member that lost its log counts as one of those that may crash, so one fewer of the others may be silent when it asks.
//! Another that lost its log counts too, and its answer does not: it may have been the honest one of that quorum. So every
//! answer says whether its member is recovering. At a first start all are; then more say so than may have failed.
//!
//! The agreement on the next era may have gone as far: the member may have voted there, and signed in the first round after
//! it. So it signs nothing in round 0 of the era after the one it lost its log in, nor in the first two rounds after that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use skein_types::PeerId;

use super::{Action, Entry, Node, Report, is_binding};
use crate::record::payload::{Answer, Body, Reached};
use crate::record::{Kind, Position, Slot};

/// Shortest time between two answers to one member, and time after which it asks again.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Inquiries whose answers count: one may take as long to arrive as it takes to make so many more.
const INQUIRIES_MAX: usize = 16;
/// Rounds after the latest state in which the member may have signed.
const ROUNDS_AFTER: u64 = 2;

/// The answers so far.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Changes whenever the member asks: one of its inquiries may have been lost, or the answer.
    number: [u8; 16],
    /// The last inquiries of this process, an answer to any of which counts: it has signed nothing since.
    asked: VecDeque<[u8; 16]>,
    pub(super) asks_at: Duration,
    answers: BTreeMap<PeerId, Answer>,
}

impl Recovery {
    pub(super) fn new(number: [u8; 16], now: Duration) -> Recovery {
        Recovery { number, asked: VecDeque::new(), asks_at: now, answers: BTreeMap::new() }
    }
}

impl Node {
    /// Asks the others which records of this member they have, until enough have answered.
    fn inquire(&mut self) {
        let now = self.now;
        let Some(recovery) = self.recovery.as_mut().filter(|recovery| recovery.asks_at <= now) else { return };
        recovery.asks_at = now + ASK_AGAIN;
        let next = blake3::hash(&recovery.number);
        recovery.number = *next.as_bytes().first_chunk().expect("a hash is longer");
        let number = recovery.number;
        recovery.asked.push_back(number);
        if recovery.asked.len() > INQUIRIES_MAX {
            recovery.asked.pop_front();
        }
        self.sign(self.slot(Position::default(), Kind::Inquiry, 0), Body::Inquiry(number));
    }

    /// Whether the member has not found out yet what it may have signed.
    pub(super) fn has_lost_log(&self) -> bool {
        self.recovery.is_some() || self.lost.is_some()
    }

    /// Whether the member signs nothing, because it may have signed something that it no longer knows.
    pub fn is_silent(&self) -> bool {
        self.has_lost_log() || self.position() < self.silent_before
    }

    /// Whether the member may have known more than it does.
    fn is_recovering(&self) -> bool {
        self.has_lost_log() || self.position() < self.quarantine
    }

    /// Whether the member may have signed this slot before it lost its log, in the agreement on the era that came next.
    pub(super) fn may_have_signed(&self, slot: &Slot) -> bool {
        self.lost_at.is_some_and(|lost| slot.position == lost.next_era())
    }

    /// Signs nothing in the first rounds of an era in which the member may have signed something before it lost its log.
    pub(super) fn quarantine_new_era(&mut self) {
        let era = self.head.position.era;
        let is_next = self.lost_at.is_some_and(|lost| era == lost.era + 1);
        if is_next && !self.own.keys().any(|slot| slot.position.era == era && is_binding(slot)) {
            self.quarantine();
        }
    }

    /// Signs nothing in the rounds after the head in which the member may have signed something that it lost.
    fn quarantine(&mut self) {
        let Position { era, round } = self.head.position;
        let first = Position { era, round: round + ROUNDS_AFTER + 1 };
        if first > self.quarantine {
            self.quarantine = first;
            self.silent_before = self.silent_before.max(first);
            self.actions.push(Action::Report(Report::Silent(first)));
        }
    }

    /// Answers a member that asks what it has signed.
    pub(super) fn answer(&mut self, to: PeerId, number: [u8; 16]) {
        let is_soon = |last: &Duration| self.now < *last + ANSWER_PAUSE;
        if self.answered.get(&to).is_some_and(|(last, answered)| is_soon(last) || *answered == number) {
            return;
        }
        self.answered.insert(to, (self.now, number));
        let met = self.met.get(&to).map(|record| record.said());
        let answer = Answer { to: (to, number), met, reached: self.reached(), is_recovering: self.is_recovering() };
        self.sign(self.slot(Position::default(), Kind::Answer, 0), Body::Answer(Box::new(answer)));
    }

    /// The latest round that this member can show to be over.
    fn reached(&self) -> Option<Reached> {
        let decided = self.decisions.last_key_value();
        let decided = decided.map(|(of, decision)| Reached::Decided(*of, decision.certificate.clone()));
        let certified = self.checks.latest().cloned().map(Reached::Certified);
        let taken_over = self.certified.clone().map(Reached::Certified);
        [decided, certified, taken_over].into_iter().flatten().max_by_key(Reached::position)
    }

    pub(super) fn take_answer(&mut self, from: PeerId, answer: &Answer) {
        let me = self.terms.me;
        if let Some(recovery) = &mut self.recovery
            && answer.to.0 == me
            && from != me
            && recovery.asked.contains(&answer.to.1)
        {
            recovery.answers.insert(from, answer.clone());
        }
    }

    /// Ends the recovery once enough members have answered, and the silence once the member is past all it may have signed.
    pub(super) fn recover(&mut self) {
        self.inquire();
        if self.lost.is_some_and(|reached| self.head.position >= reached) {
            self.lost = None;
            self.quarantine();
        }
        let Some(recovery) = &self.recovery else { return };
        let model = self.terms.model;
        let enough = model.recovering();
        let recovering = recovery.answers.values().filter(|answer| answer.is_recovering).count();
        // More than may have failed, with this member: they start for the first time.
        let is_start = recovering + 1 > (model.byzantine() + model.crashed()) as usize;
        let counted = recovery.answers.len() - if is_start { 0 } else { recovering };
        if counted < enough as usize {
            return;
        }
        let shown = recovery.answers.values().flat_map(|answer| &answer.reached);
        let reached = shown.filter(|reached| self.is_shown(reached)).map(Reached::position).max();
        let is_known = recovery.answers.values().any(|answer| answer.met.is_some());
        self.recovery = None;
        // A member that begins after the others have gone on meets the same answers as one that lost its log before anybody
        // read it. If none may crash, the latter counts as Byzantine, and the others need the former.
        if is_known || (reached.is_some() && model.crashed() > 0) {
            let reached = reached.unwrap_or_default();
            self.lost = Some(reached);
            self.lost_at = Some(reached);
            self.actions.push(Action::Keep(Entry::Lost(reached)));
            self.recover();
        }
        // What could not be signed meanwhile. A round that is being applied needs nothing more.
        if !self.round.is_applying {
            self.restart_round();
        }
    }

    /// Whether so many members signed that a round is over that it is.
    fn is_shown(&self, reached: &Reached) -> bool {
        let (signatures, needed) = match reached {
            Reached::Decided(_, certificate) => (&certificate.votes, self.terms.model.quorum()),
            Reached::Certified(state) => (&state.checks, self.terms.model.certifying()),
        };
        let members = signatures.keys().filter(|peer| self.terms.members.contains(*peer));
        members.count() >= needed as usize
    }

    /// Begins the round anew, with the records that were read of it.
    pub(super) fn restart_round(&mut self) {
        let taken = self.round.records();
        self.early.put_back(self.round.position, taken);
        self.enter();
    }
}
