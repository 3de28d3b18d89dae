//! One member of a run as a state machine: everything that decides, and nothing that waits, signs, hashes values or stores.
//!
//! The driver passes [`Event`]s with the time, carries out the [`Action`]s that come back, in their order, and calls again at
//! [`Node::wake_at`] at the latest. A round goes:
//!
//! compute → announce → gather → propose, prevote, precommit ([`Decider`]) → apply → check.
//!
//! Nothing waits for checks. A member that is behind asks for decisions, or for a state that enough checks certify, and
//! verifies both. Claims of others never change what is aggregated; a [`Proof`] removes a member, with the next decision.

mod apply;
mod catch_up;
mod checks;
mod early;
mod event;
mod gather;
mod kept;
mod opening;
mod recovery;
mod round;
mod vote;

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skein_types::{Digest, PeerId};

use self::catch_up::Asked;
use self::checks::Checks;
use self::early::Early;
pub use self::event::{Absence, Action, Application, Contribution, Event, Found, Report, RunTerms, Served, Want};
pub use self::gather::Waits;
pub use self::kept::{Entry, Kept, KeptLog};
use self::recovery::Recovery;
use self::round::{Round, proposers};
use crate::agreement::{BallotKind, Certificate, Decider, Signed, View};
use crate::certificate::CertifiedState;
use crate::decision::Decision;
use crate::mutant::{self, Mutant};
use crate::pace::{Pace, PaceOptions};
use crate::proof::Proof;
use crate::record::payload::{Body, Selection};
use crate::record::{Kind, Position, Record, Slot, Statement};
use crate::standing::Head;

/// One member of a run.
#[derive(Debug)]
pub struct Node {
    terms: RunTerms,
    now: Duration,
    pace: Pace,
    head: Head,
    saved: Position,
    /// Signed records of the last rounds.
    own: BTreeMap<Slot, Arc<Record>>,
    /// What is being signed.
    signing: BTreeMap<Slot, Body>,
    lock: Option<(Position, Certificate)>,
    /// Selections that an earlier process of this member prevoted.
    selections: Vec<(Position, Selection)>,
    met: BTreeMap<PeerId, Arc<Record>>,
    proofs: BTreeMap<PeerId, Proof>,
    decisions: BTreeMap<Position, Arc<Decision>>,
    /// States that members signed after rounds.
    checks: Checks,
    /// The latest position that each member has reached.
    newest: BTreeMap<PeerId, Position>,
    early: Early,
    round: Round,
    /// The agreement on the state with which the next era begins, if members ask for it.
    opening: Option<Round>,
    /// A state that was taken over from others, and is not on disk yet.
    adopted: Option<Head>,
    /// Members whose beats say that they do not get on.
    stuck: BTreeSet<PeerId>,
    wants: BTreeMap<Want, Asked>,
    /// When a request is repeated at the earliest.
    again_at: Option<Duration>,
    recovery: Option<Recovery>,
    /// The member lost its log, and signs nothing until its state is as late as this round.
    lost: Option<Position>,
    /// The last log that the member lost, by the latest round that others could show to be over then.
    lost_at: Option<Position>,
    /// Before this position, the member may have signed records that it lost.
    quarantine: Position,
    /// The last state that the member took over, or is about to.
    certified: Option<CertifiedState>,
    /// The member signs nothing before this position.
    silent_before: Position,
    /// When each member was last answered, and which inquiry.
    answered: BTreeMap<PeerId, (Duration, [u8; 16])>,
    /// The member's state is not the certified one.
    differs: bool,
    is_finished: bool,
    actions: Vec<Action>,
}

/// Rounds before the current one whose records, checks and decisions are kept.
const ROUNDS_KEPT: u64 = 4;

impl Node {
    /// A member that goes on from what it kept. Call [`Node::start`] next.
    ///
    /// # Panics
    /// If this peer is not a member, or the model is of another number of members.
    pub fn new(terms: RunTerms, pace: PaceOptions, kept: Kept, now: Duration) -> Node {
        assert!(terms.members.contains(&terms.me), "this peer is a member");
        assert_eq!(terms.members.len(), terms.model.members() as usize, "the model is of the members");
        let Kept { head, saved, log, inquiry } = kept;
        let KeptLog { records, lock, selections, decisions, certified, met, proofs, lost } = log;
        let recovery =
            inquiry.filter(|_| records.is_empty() && lost.is_none()).map(|number| Recovery::new(number, now));
        // Nothing that binds the member is signed before that is over.
        let lost_at = lost;
        let lost = lost.filter(|_| !records.iter().any(|record| is_binding(record.slot())));
        let own: BTreeMap<Slot, _> = records.iter().map(|record| (*record.slot(), record.clone())).collect();
        // What was signed before the last record need not be signed any more, and may have been before a loss of the log.
        let binding = own.keys().filter(|slot| is_binding(slot));
        let silent_before = binding.map(|slot| slot.position).max().unwrap_or_default();
        // Begins with [`Node::start`].
        let position = head.position.next();
        let decider = Decider::new(terms.model, terms.me, proposers(&terms, &head, position));
        Node {
            pace: Pace::new(pace, now),
            now,
            saved,
            own,
            signing: BTreeMap::new(),
            lock,
            selections,
            met,
            proofs,
            decisions,
            checks: Checks::new(terms.model.certifying()),
            newest: BTreeMap::new(),
            early: Early::default(),
            round: Round::new(position, decider, now),
            opening: None,
            adopted: None,
            stuck: BTreeSet::new(),
            wants: BTreeMap::new(),
            again_at: None,
            recovery,
            lost,
            lost_at,
            quarantine: Position::default(),
            certified,
            silent_before,
            answered: BTreeMap::new(),
            differs: false,
            is_finished: false,
            actions: Vec::new(),
            head,
            terms,
        }
    }

    /// Begins, or goes on after a restart: publishes again what was signed, since the store may have lost it.
    pub fn start(&mut self, now: Duration) -> Vec<Action> {
        self.now = now;
        self.quarantine_new_era();
        self.publish_again();
        self.save_head();
        self.check_head();
        self.enter();
        self.proceed();
        std::mem::take(&mut self.actions)
    }

    /// Takes an event. `now` never goes back.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.handle_all(now, [event])
    }

    /// Takes several events, which is cheaper than one after another.
    pub fn handle_all(&mut self, now: Duration, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        self.now = self.now.max(now);
        events.into_iter().for_each(|event| self.take_event(event));
        self.proceed();
        std::mem::take(&mut self.actions)
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Signed(record) => self.take_signed(record),
            Event::Read { owner, record } => self.read(owner, record),
            Event::Beat { peer, is_stuck } => {
                if self.terms.members.contains(&peer) {
                    self.pace.hear(peer, self.now);
                    self.hint(peer, is_stuck);
                }
            }
            Event::Computed(position, contribution) => self.take_contribution(position, contribution),
            Event::Fetched(want, found) => self.take_found(want, found),
            Event::Applied(position, state) => self.take_applied(position, state),
            Event::Saved(position) => self.saved = self.saved.max(position),
            Event::Restored(head) => self.go_back(head),
        }
    }

    /// When to call [`Node::handle`] at the latest.
    pub fn wake_at(&self) -> Option<Duration> {
        let rounds = [Some(&self.round), self.opening.as_ref()].into_iter().flatten();
        // A member that holds still for the next era gathers nothing in its round.
        let gathers = |round: &Round| {
            round.gathers_until.filter(|_| self.opening.is_none() || round.position != self.round.position)
        };
        let of_rounds = rounds.flat_map(|round| [round.timer.map(|timer| timer.at), gathers(round)]);
        let asks_at = self.recovery.as_ref().map(|recovery| recovery.asks_at);
        let times = of_rounds.chain([self.again_at, self.stuck_at(), asks_at]);
        times.flatten().min().map(|at| at.max(self.now))
    }

    /// The last state that the member has applied.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The round that the member is in.
    pub fn position(&self) -> Position {
        self.round.position
    }

    /// The member that proposes in a view of that round.
    pub fn proposer(&self, view: View) -> PeerId {
        self.round.decider.proposer(view)
    }

    /// Whether a record with this [`hash`](Record::hash) need not be verified again.
    pub fn is_known(&self, hash: &Digest) -> bool {
        self.round.is_known(hash)
            || self.early.is_known(hash)
            || self.opening.as_ref().is_some_and(|opening| opening.is_known(hash))
    }

    /// Whether the convergence rules have ended training.
    pub fn is_stopped(&self) -> bool {
        self.head.standing.is_stopped
    }

    /// Whether what this request asked for is still of use.
    pub fn wants(&self, want: &Want) -> bool {
        self.wants.contains_key(want)
    }

    /// Bytes of records that others made this member keep.
    pub fn bytes_kept(&self) -> usize {
        let opening = self.opening.as_ref().map_or(0, Round::bytes_kept);
        self.round.bytes_kept() + self.early.bytes_kept() + opening
    }

    /// Whether no round is left.
    fn is_over(&self) -> bool {
        self.head.standing.is_stopped || self.head.position.round >= self.terms.rounds
    }

    /// Begins the round after the head.
    fn enter(&mut self) {
        let position = self.head.position.next();
        self.round = Round::new(position, self.decider(position), self.now);
        self.differs = self.checks.certified(self.head.position).is_some_and(|check| check != self.head.check());
        if self.differs {
            self.actions.push(Action::Report(Report::Differs(self.head.position)));
        }
        if self.opening.as_ref().is_some_and(|opening| opening.position.era <= position.era) {
            self.opening = None;
        }
        self.drop_opening();
        self.forget();
        if self.is_over() {
            if !std::mem::replace(&mut self.is_finished, true) {
                self.actions.push(Action::Finish);
            }
            return;
        }
        self.is_finished = false;
        self.actions.push(Action::Compute { position, is_evaluated: self.is_evaluation_due(position.round) });
        if let Some(decision) = self.decisions.get(&position).cloned() {
            self.take_decision(&decision);
        }
        self.learn_kept(position);
        let own = self.own_at(position);
        let early = self.early.take(position);
        for record in own.into_iter().chain(early) {
            self.take(&record);
        }
        let again = self.early.dropped(position);
        if !again.is_empty() {
            self.actions.push(Action::Reread(again));
        }
        self.follow_all();
    }

    /// The agreement on a round, which goes on from what this member has signed of it or is about to.
    fn decider(&self, position: Position) -> Decider {
        let lock = self.lock.as_ref().filter(|(of, _)| *of == position).map(|(_, lock)| lock.clone());
        let mut signed = Signed { lock, ..Signed::default() };
        let kept = self.own.iter().map(|(slot, record)| (slot, record.body()));
        for (slot, body) in kept.chain(&self.signing).filter(|(slot, _)| slot.position == position) {
            match (slot.kind, body) {
                (Kind::Proposal, _) => {
                    signed.proposals.insert(slot.view);
                }
                (Kind::Prevote, Body::Vote(value)) => {
                    signed.votes.insert((BallotKind::Prevote, slot.view), *value);
                }
                (Kind::Precommit, Body::Vote(value)) => {
                    signed.votes.insert((BallotKind::Precommit, slot.view), *value);
                }
                _ => {}
            }
        }
        Decider::resume(self.terms.model, self.terms.me, proposers(&self.terms, &self.head, position), signed)
    }

    /// The store holds the state of `head`, and perhaps nothing else.
    fn go_back(&mut self, head: Head) {
        let taken = self.round.records();
        self.early.put_back(self.round.position, taken);
        self.wants.clear();
        self.adopted = None;
        self.head = head;
        self.is_finished = false;
        if let Some(opening) = &mut self.opening {
            opening.proposed.values_mut().for_each(|proposed| proposed.asked_at = None);
        }
        self.publish_again();
        self.save_head();
        self.enter();
    }

    /// Keeps the state on disk if an earlier process did not get to it.
    fn save_head(&mut self) {
        if self.saved < self.head.position {
            self.actions.push(Action::Save(Box::new(self.head.clone())));
        }
    }

    /// Publishes what the store may have lost.
    fn publish_again(&mut self) {
        self.actions.extend(self.own.values().cloned().map(Action::Publish));
        let decisions = self.decisions.values().cloned();
        self.actions.extend(decisions.map(|decision| Action::Serve(Served::Decision(decision))));
    }

    /// Drops what no member needs any more.
    fn forget(&mut self) {
        let position = self.head.position;
        let is_kept = |of: &Position| of.era > position.era || of.round + ROUNDS_KEPT >= position.round;
        // How the era began may be all that shows that it did.
        let is_beginning = |of: &Position| of.era == position.era && of.round == 0;
        self.own.retain(|slot, _| is_kept(&slot.position));
        self.decisions.retain(|of, _| is_kept(of) || is_beginning(of));
        self.checks.forget_before(position);
        self.wants.retain(|want, _| want.position() > position);
        self.actions.push(Action::Cancel(position));
        // A member that announces a round has checked the one before, and has the state before that on disk. Of those that
        // contributed to the last round, so many that may crash or lie have it.
        let durable = Position { round: position.round.saturating_sub(1), ..position };
        self.actions.push(Action::Forget(durable));
    }

    /// Does what the records, answers and time allow, until they allow nothing more.
    fn proceed(&mut self) {
        self.recover();
        self.expire();
        loop {
            let opening = self.opening.as_ref().map(|opening| opening.position);
            // A member that has named the state that it holds does not change it.
            let position = Some(self.round.position).filter(|_| !self.is_over() && opening.is_none());
            for position in position.into_iter().chain(opening) {
                self.gather(position);
                self.judge(position);
                self.propose(position);
            }
            self.conclude_opening();
            if !self.finish_adoption() && !self.conclude() {
                break;
            }
        }
        self.open_era();
        self.catch_up();
        self.ask_again();
    }

    /// Reads a record in somebody's store.
    fn read(&mut self, owner: PeerId, record: Arc<Record>) {
        let Slot { run, position, kind, peer, .. } = *record.slot();
        if run != self.terms.run || !self.terms.members.contains(&peer) || !self.terms.members.contains(&owner) {
            return;
        }
        if peer == self.terms.me {
            return self.read_own(&record);
        }
        self.pace.hear(owner, self.now);
        if self.head.standing.removed.contains(&peer) {
            return;
        }
        match record.body() {
            Body::Inquiry(number) => return self.answer(peer, *number),
            Body::Answer(answer) => return self.take_answer(peer, answer),
            _ => {}
        }
        if let MapEntry::Vacant(entry) = self.met.entry(peer) {
            entry.insert(record.clone());
            self.actions.push(Action::Keep(Entry::Met(record.clone())));
        }
        if mutant::is(Mutant::GapIsLie) && position > self.round.position.next() {
            self.head.standing.removed.insert(peer);
        }
        // Who signs the state after a round is past it.
        let reached = if kind == Kind::Check { position.next() } else { position };
        let newest = self.newest.entry(peer).or_insert(reached);
        *newest = reached.max(*newest);
        if reached > self.round.position {
            self.follow(vec![peer]);
        }
        if kind == Kind::Check {
            self.take_check(&record);
        } else if position == self.round.position
            || self.opening.as_ref().is_some_and(|opening| opening.position == position)
        {
            self.take(&record);
        } else if position > self.round.position {
            self.early.put(self.round.position, owner, record);
        }
    }

    /// A record of this member that another one has: it must be one that this member signed.
    fn read_own(&mut self, record: &Arc<Record>) {
        let own = self.own.get(record.slot());
        if record.slot().kind.is_signed_once() && own.is_some_and(|own| own.hash() != record.hash()) {
            self.actions.push(Action::Report(Report::KeyUsedElsewhere(*record.slot())));
        }
    }

    /// A slot of this member.
    fn slot(&self, position: Position, kind: Kind, view: View) -> Slot {
        Slot { run: self.terms.run, position, view, kind, peer: self.terms.me }
    }

    /// What this member has signed of a round.
    fn own_at(&self, position: Position) -> Vec<Arc<Record>> {
        let own = self.own.iter().filter(|(slot, _)| slot.position == position);
        own.map(|(_, record)| record.clone()).collect()
    }

    /// Signs what belongs to a slot that was never signed, unless the member has to be silent.
    fn sign(&mut self, slot: Slot, body: Body) {
        if slot.kind.is_signed_once() {
            let holds_still = self.opening.as_ref().is_some_and(|opening| slot.position < opening.position);
            let is_silent = slot.position < self.silent_before || self.has_lost_log() || self.may_have_signed(&slot);
            if is_silent || holds_still {
                return;
            }
            assert!(!self.own.contains_key(&slot), "{slot:?} would be signed twice");
            if self.signing.insert(slot, body.clone()).is_some() {
                return;
            }
            if is_binding(&slot) {
                self.silent_before = slot.position;
            }
        }
        self.actions.push(Action::Sign(Statement { slot, body }));
    }

    /// One of the member's records cannot be lost any more: now it counts, and the others may read it.
    fn take_signed(&mut self, record: Arc<Record>) {
        let slot = *record.slot();
        assert_eq!(slot.peer, self.terms.me, "the member signs for itself");
        self.actions.push(Action::Publish(record.clone()));
        if !slot.kind.is_signed_once() {
            return;
        }
        self.signing.remove(&slot);
        let before = self.own.insert(slot, record.clone());
        assert!(before.is_none_or(|before| before.hash() == record.hash()), "{slot:?} was signed twice");
        if slot.kind == Kind::Check {
            self.take_check(&record);
        } else {
            self.take(&record);
        }
    }

    /// Two records of one slot: kept, told to all, and proposed.
    fn prove(&mut self, proof: Proof) {
        let peer = proof.slot().peer;
        if self.head.standing.removed.contains(&peer) || self.proofs.contains_key(&peer) {
            return;
        }
        self.proofs.insert(peer, proof.clone());
        self.actions.push(Action::Keep(Entry::Proof(proof.clone())));
        self.actions.push(Action::Report(Report::Proven(proof)));
    }
}

/// Whether a member that has signed this slot signs nothing of earlier rounds any more. To say which state it holds, when
/// another member asks for the next era, does not bind it: it goes on if the round can be finished after all.
fn is_binding(slot: &Slot) -> bool {
    slot.position.round > 0 || slot.kind != Kind::Announcement
}
