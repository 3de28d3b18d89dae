//! A member whose log is empty: it starts for the first time, or it has lost what it signed.
//!
//! It asks the others. If enough of them have never read anything of it, nothing was lost. Otherwise it may have signed
//! records that it no longer knows, in rounds up to two after the last decision: a member that signs in a round has applied the one
//! before, and that was precommitted by a quorum that had decided the one before that. Of those that answer, one at least is
//! honest and belongs to that quorum, and proves its claim by the decision's certificate. So the member signs nothing until it
//! has a state at least as late as the latest decision that anybody can prove, and in the two rounds after that.
//!
//! A member that lost its log counts as one of those that may crash, so that many fewer others may be silent when it asks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use skein_types::PeerId;

use super::{Action, Entry, Node, Report};
use crate::record::payload::{Answer, Body};
use crate::record::{Kind, Position};

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

    /// Answers a member that asks what it has signed.
    pub(super) fn answer(&mut self, to: PeerId, number: [u8; 16]) {
        let is_soon = |last: &Duration| self.now < *last + ANSWER_PAUSE;
        if self.answered.get(&to).is_some_and(|(last, answered)| is_soon(last) || *answered == number) {
            return;
        }
        self.answered.insert(to, (self.now, number));
        let met = self.met.get(&to).map(|record| record.said());
        let decision = self.decisions.last_key_value().map(|(_, decision)| (**decision).clone());
        let answer = Answer { to: (to, number), met, decision };
        self.sign(self.slot(Position::default(), Kind::Answer, 0), Body::Answer(Box::new(answer)));
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
        if self.lost.is_some_and(|decided| self.head.position >= decided) {
            self.lost = None;
            let Position { era, round } = self.head.position;
            let first = Position { era, round: round + ROUNDS_AFTER + 1 };
            self.silent_before = self.silent_before.max(first);
            self.actions.push(Action::Report(Report::Silent(first)));
        }
        let Some(recovery) = &self.recovery else { return };
        let model = self.terms.model;
        let enough = model.answering() as usize - usize::from(model.crashed() == 0);
        if recovery.answers.len() < enough {
            return;
        }
        let is_member = |voter: &&PeerId| self.terms.members.contains(*voter);
        let is_sound = |answer: &&Answer| {
            let votes = answer.decision.iter().flat_map(|decision| decision.certificate.votes.keys());
            votes.filter(is_member).count() >= model.quorum() as usize
        };
        let sound = recovery.answers.values().filter(is_sound).flat_map(|answer| &answer.decision);
        let decided = sound.map(|decision| decision.position).max();
        let is_known = recovery.answers.values().any(|answer| answer.met.is_some());
        self.recovery = None;
        if is_known || decided.is_some() {
            let decided = decided.unwrap_or_default();
            self.lost = Some(decided);
            self.actions.push(Action::Keep(Entry::Lost(decided)));
            self.recover();
        }
        // What could not be signed meanwhile. A round that is being applied needs nothing more.
        if !self.round.is_applying {
            self.restart_round();
        }
    }

    /// Begins the round anew, with the records that were read of it.
    pub(super) fn restart_round(&mut self) {
        let taken = self.round.records();
        self.early.put_back(self.round.position, taken);
        self.enter();
    }
}
