//! Requests for what others have, and how a member that is behind, or differs, gets back in step.

use std::sync::Arc;
use std::time::Duration;

use skein_types::PeerId;

use super::round::Round;
use super::{Action, Entry, Found, Node, Report, Want};
use crate::agreement::Input;
use crate::certificate::CertifiedState;
use crate::decision::Decision;
use crate::record::payload::{Body, Check};
use crate::record::{Position, Record};
use crate::standing::{Head, Standing};

/// Pause after a request that failed, which doubles with each further failure up to the longest.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// Failures after which something else is tried.
const PATIENCE: u32 = 2;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    from: Vec<PeerId>,
    /// When it is repeated; `None` while it is under way.
    again: Option<Duration>,
    failures: u32,
}

impl Node {
    /// Asks for something, unless the same members are asked already.
    pub(super) fn want(&mut self, want: Want, from: Vec<PeerId>) {
        let Some(asked) = self.wants.get_mut(&want) else {
            self.actions.push(Action::Fetch(want.clone(), from.clone()));
            self.wants.insert(want, Asked { from, again: None, failures: 0 });
            return;
        };
        let new: Vec<PeerId> = from.into_iter().filter(|peer| !asked.from.contains(peer)).collect();
        if new.is_empty() {
            return;
        }
        asked.from.extend(&new);
        asked.again = None;
        let from = asked.from.clone();
        self.actions.push(Action::Fetch(want, from));
    }

    /// Repeats the requests whose pause is over.
    pub(super) fn ask_again(&mut self) {
        if self.again_at.is_none_or(|at| at > self.now) {
            return;
        }
        let wants = std::mem::take(&mut self.wants);
        self.wants = wants.into_iter().filter(|(want, _)| self.is_needed(want)).collect();
        let is_applying = self.round.is_applying;
        for (want, asked) in &mut self.wants {
            // Nothing else changes the state while a round is being applied.
            let may_ask = !(is_applying && matches!(want, Want::State(..)));
            let is_due = asked.again.is_some_and(|at| at <= self.now);
            if is_due && may_ask {
                asked.again = None;
                self.actions.push(Action::Fetch(want.clone(), asked.from.clone()));
            } else if is_due {
                asked.again = Some(self.now + AGAIN_MAX);
            }
        }
        self.again_at = self.wants.values().filter_map(|asked| asked.again).min();
    }

    /// Whether what was asked for is still not here.
    fn is_needed(&self, want: &Want) -> bool {
        let Some(round) = self.round_of(want.position()) else { return matches!(want, Want::State(..)) };
        match want {
            Want::Announcement(_, _, hash) => !round.announcements.contains_key(hash),
            Want::Values(..) | Want::State(..) => true,
            Want::Selection(_, value) => !round.proposed.contains_key(value),
            Want::Decision(_) => round.certificate.is_none(),
        }
    }

    /// Takes what came of a request. A wrong answer costs a pause, and nothing else.
    pub(super) fn take_found(&mut self, want: Want, found: Found) {
        if !self.wants.contains_key(&want) {
            return;
        }
        if let Found::Wrong = found
            && let Want::Values(_, peer, _) = &want
        {
            self.round.wrong.insert(*peer);
            self.round.is_changed = true;
        }
        if self.is_answer(&want, found) {
            self.wants.remove(&want);
        } else if let Some(asked) = self.wants.get_mut(&want) {
            let pause = AGAIN_MIN.saturating_mul(1 << asked.failures.min(10)).min(AGAIN_MAX);
            asked.failures += 1;
            let again = self.now + pause;
            asked.again = Some(again);
            self.again_at = Some(self.again_at.map_or(again, |at| at.min(again)));
        }
    }

    /// Uses what was found if it is what was asked for.
    fn is_answer(&mut self, want: &Want, found: Found) -> bool {
        match (want, found) {
            (Want::Announcement(position, peer, hash), Found::Announcement(record)) => {
                let slot = record.slot();
                let is_it = record.hash() == *hash && slot.peer == *peer && slot.position == *position;
                if is_it {
                    self.take_fetched(&record);
                }
                is_it
            }
            (Want::Values(position, peer, values), Found::Values) => {
                if *position == self.round.position {
                    self.hold_values(*peer, *values);
                }
                true
            }
            (Want::Selection(position, value), Found::Selection(selection)) => {
                let is_it = selection.digest() == *value;
                if is_it {
                    self.learn(*position, *value, selection);
                }
                is_it
            }
            (Want::Decision(position), Found::Decision(decision)) => {
                decision.position == *position && self.take_decision(&decision)
            }
            (Want::State(position, check), Found::State(standing)) => {
                let is_it = standing.digest() == check.standing;
                if is_it {
                    self.adopt(*position, *check, standing);
                }
                is_it
            }
            _ => false,
        }
    }

    /// An announcement that was asked for by its hash counts although its member may have signed others.
    fn take_fetched(&mut self, record: &Arc<Record>) {
        let known = self.round_of(record.slot().position).and_then(|round| {
            let hash = round.announced.get(&record.peer())?;
            round.announcements.get(hash).cloned()
        });
        if let Some(proof) = known.and_then(|known| known.contradicts(record)) {
            self.prove(proof);
        }
        match record.body() {
            Body::Announcement(announcement) => self.take_announcement(record, announcement),
            Body::Opening(_) => self.take_opening(record),
            _ => {}
        }
    }

    /// Takes a decision that somebody serves; returns whether it decides a round that is being agreed on.
    pub(super) fn take_decision(&mut self, decision: &Arc<Decision>) -> bool {
        let position = decision.position;
        if self.round_at(position).is_none() {
            return false;
        }
        let certificate = decision.certificate.clone();
        // Before its selection is kept and served.
        if !self.round_of(position).is_some_and(|round| round.decider.is_quorum(&certificate)) {
            return false;
        }
        self.learn(position, certificate.value, decision.selection.clone());
        self.decide(position, Input::Decision(certificate));
        self.round_at(position).is_some_and(|round| round.certificate.is_some())
    }

    /// A member signed the state after a round.
    pub(super) fn take_check(&mut self, record: &Arc<Record>) {
        let Body::Check(check) = record.body() else { return };
        let position = record.slot().position;
        if let Some(proof) = self.checks.add(record).and_then(|first| first.contradicts(record)) {
            self.prove(proof);
        }
        if position == self.head.position && !self.differs && self.is_other(*check) {
            self.differs = true;
            self.actions.push(Action::Report(Report::Differs(position)));
        }
    }

    /// Whether this is the certified state after the head's round, and the head another one.
    fn is_other(&self, check: Check) -> bool {
        self.checks.certified(self.head.position) == Some(check) && check != self.head.check()
    }

    /// Asks all members that are ahead.
    pub(super) fn follow_all(&mut self) {
        let position = self.round.position;
        let ahead = self.newest.iter().filter(|(_, newest)| **newest > position);
        self.follow(ahead.map(|(peer, _)| *peer).collect());
    }

    /// Asks members that are ahead for the decision that they must have.
    pub(super) fn follow(&mut self, ahead: Vec<PeerId>) {
        if ahead.is_empty() || self.is_over() {
            return;
        }
        // A member in a later era has seen how it began.
        let opening = self.opening.as_ref().filter(|opening| opening.certificate.is_none());
        let past = |opening: &Round| -> Vec<PeerId> {
            let is_past = |peer: &&PeerId| self.newest.get(*peer).is_some_and(|newest| *newest > opening.position);
            ahead.iter().filter(is_past).copied().collect()
        };
        let past = opening.map(|opening| (opening.position, past(opening)));
        if let Some((position, past)) = past.filter(|(_, past)| !past.is_empty()) {
            self.want(Want::Decision(position), past);
        }
        if self.round.certificate.is_none() {
            self.want(Want::Decision(self.round.position), ahead);
        }
    }

    /// Asks for a certified state if others are ahead, or this member differs from them.
    pub(super) fn catch_up(&mut self) {
        let Some(latest) = self.checks.latest() else { return };
        let CertifiedState { position: certified, check, .. } = *latest;
        let latest = latest.clone();
        let is_later_era = certified.era > self.head.position.era;
        if self.is_over() && !self.differs && !is_later_era {
            return;
        }
        // A member that has voted on the next era goes on there only.
        if self.is_bound() && !is_later_era {
            return;
        }
        let position = self.round.position;
        let is_idle = !self.round.is_applying;
        let needs = if self.differs {
            certified >= self.head.position && check != self.head.check()
        } else {
            certified > position || (certified == position && self.is_wanting() && self.opening.is_none())
        };
        if needs && is_idle && !self.is_transferring() {
            let signers = self.checks.signers(certified, check);
            let others: Vec<PeerId> = signers.into_iter().filter(|peer| *peer != self.terms.me).collect();
            if !others.is_empty() {
                // One at a time: each replaces the state in the store.
                self.wants.retain(|want, _| !matches!(want, Want::State(..)) || *want == Want::State(certified, check));
                // Before the state is in the store: it may be all that the member has to show how it came there.
                if self.certified.as_ref().is_none_or(|known| known.position != certified) {
                    self.actions.push(Action::Keep(Entry::Certified(latest.clone())));
                    self.certified = Some(latest);
                }
                self.want(Want::State(certified, check), others);
            }
        }
    }

    /// Whether what the round needs was asked for in vain.
    fn is_wanting(&self) -> bool {
        let is_of_round = |want: &Want| want.position() == self.round.position && !matches!(want, Want::State(..));
        let is_needed = |want: &Want| match want {
            Want::Values(_, peer, _) => self.is_decided_on(peer),
            _ => true,
        };
        let wants = self.wants.iter().filter(|(want, _)| is_of_round(want) && is_needed(want));
        wants.into_iter().any(|(_, asked)| asked.failures >= PATIENCE)
    }

    fn is_decided_on(&self, peer: &PeerId) -> bool {
        self.round.decision.as_ref().is_some_and(|decision| decision.selection.announcement(peer).is_some())
    }

    /// Whether a state is on its way into the store.
    pub(super) fn is_transferring(&self) -> bool {
        self.adopted.is_some()
            || self.wants.iter().any(|(want, asked)| matches!(want, Want::State(..)) && asked.again.is_none())
    }

    /// The store holds a state that enough members signed. It counts once it is on disk, since this member signs it too.
    fn adopt(&mut self, position: Position, check: Check, standing: Standing) {
        self.wants.retain(|want, _| !matches!(want, Want::State(..)));
        let head = Head { position, state: check.state, standing };
        self.actions.push(Action::Save(Box::new(head.clone())));
        self.adopted = Some(head);
    }

    /// Goes on from a state that was taken over; returns whether it does.
    pub(super) fn finish_adoption(&mut self) -> bool {
        let is_saved = |head: &mut Head| head.position <= self.saved;
        let Some(head) = self.adopted.take_if(is_saved) else { return false };
        let from = self.head.position;
        let to = head.position;
        self.head = head;
        let is_new_era = to.era > from.era;
        let report = if is_new_era { Report::RolledBack { from, to } } else { Report::Healed { from, to } };
        self.actions.push(Action::Report(report));
        if is_new_era {
            self.quarantine_new_era();
        }
        self.check_head();
        self.enter();
        true
    }

    /// Since when the round is decided, and what it needs was asked of everybody in vain.
    pub(super) fn note_stuck(&mut self) {
        let is_decided = self.round.certificate.is_some() && !self.round.is_applying;
        if !is_decided && self.round.stuck_since.is_none() {
            return;
        }
        let is_stuck = is_decided && self.is_wanting();
        if !is_stuck {
            self.round.stuck_since = None;
        } else if self.round.stuck_since.is_none() {
            self.round.stuck_since = Some(self.now);
        }
    }
}
