//! Agreement of all members on one value: the core of Tendermint (Buchman, Kwon and Milosevic, "The latest gossip on BFT
//! consensus", arXiv 1807.04938, algorithm 1), as a state machine without a clock, a network or a signature.
//!
//! Members vote in views, each with a proposer. A value that a quorum prevotes may be precommitted, which locks the member on
//! it; a value that a quorum precommits is decided. Two quorums share an honest member, and an honest member leaves its lock
//! only for a value that a quorum has prevoted in a later view, so no two values are ever decided. The network may do what it
//! likes; once messages arrive in time, views with honest proposers lead to a decision.
//!
//! Values are digests here. What the caller does:
//!
//! * It verifies signatures. That of a proposal covers its certificate with all voters.
//! * It keeps each own proposal, vote and lock before anybody sees it, publishes it, and passes it back as any other: it
//!   counts once it cannot be lost. After a crash [`Decider::resume`] obeys what was kept, and the caller passes it back again.
//! * It publishes every record of others that it passed in, liars' included, so that what one member counts reaches all.
//! * It fetches what a value stands for, checks it, and tells when the value may be voted for ([`Input::Held`]).
//! * It keeps the decision and serves it to members that are late.

use std::collections::{BTreeMap, BTreeSet};

use skein_types::{Digest, PeerId};

pub use crate::certificate::{BallotKind, Certificate};
use crate::fault_model::FaultModel;
use crate::keys::Signature;
use crate::mutant::{self, Mutant};
pub use crate::slot::View;

/// Of records further ahead than so many views, only those of each member's latest view are kept: a liar could name any
/// views, and this member needs what the others sign in the view to which it follows them.
const VIEWS_AHEAD: View = 16;

/// A vote, whose signature was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ballot {
    /// Which of the two votes.
    pub kind: BallotKind,
    /// The view in which it was cast.
    pub view: View,
    /// The value; `None` is a vote against every value in this view.
    pub value: Option<Digest>,
    /// The member that signed it.
    pub from: PeerId,
    /// Its signature, of which certificates are made.
    pub signature: Signature,
}

/// A proposal, whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The view in which it was made.
    pub view: View,
    /// The digest of what is proposed.
    pub value: Digest,
    /// The prevotes of an earlier view, if the value was acceptable then.
    pub earlier: Option<Certificate>,
    /// The member that signed it.
    pub from: PeerId,
}

/// Progress within a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViewStep {
    /// It waits for the proposal.
    Propose,
    /// It has prevoted, and waits for the prevotes of a quorum.
    Prevote,
    /// It has precommitted, and waits for the precommits of a quorum.
    Precommit,
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A proposal arrived, or one of the member's own was kept.
    Proposal(Proposal),
    /// A vote arrived, or one of the member's own was kept.
    Vote(Ballot),
    /// Prevotes of a quorum, by which a member has locked itself. They show everybody which value to propose, although a
    /// liar may have shown others another prevote of its own.
    Certificate(Certificate),
    /// All that a value stands for is here, and it is acceptable.
    Held(Digest),
    /// The timer of this step of this view has run out.
    Timeout(View, ViewStep),
    /// Somebody has decided, and serves the precommits.
    Decision(Certificate),
}

/// What a member has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sign, keep and publish a proposal for the view: this value with its certificate, or a new one, which is then held.
    /// Pass it back.
    Propose(View, Option<Certificate>),
    /// Keep the prevotes by which the member locks itself, before the precommit that follows, and publish them with it.
    /// Without them it could convince nobody of its lock: a liar may show the others another prevote.
    Lock(Certificate),
    /// Sign, keep and publish a vote, then pass it back.
    Vote(BallotKind, View, Option<Digest>),
    /// Fetch what a value stands for, then say that it is held.
    Fetch(Digest),
    /// Start the timer of this step of this view. It has to last longer in later views.
    Wait(View, ViewStep),
    /// The member signed two different records for one slot of this view: a proposal, or this vote. Told once for a slot.
    Equivocation(PeerId, View, Option<BallotKind>),
    /// The value is decided.
    Decide(Certificate),
}

/// What a member had signed before it crashed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signed {
    /// Its votes, by kind and view.
    pub votes: BTreeMap<(BallotKind, View), Option<Digest>>,
    /// The views that it proposed in.
    pub proposals: BTreeSet<View>,
    /// The prevotes by which it locked itself last.
    pub lock: Option<Certificate>,
}

/// The votes of one kind in one view, each member's first.
#[derive(Debug, Clone, Default)]
struct Tally {
    votes: BTreeMap<PeerId, (Option<Digest>, Signature)>,
    counts: BTreeMap<Option<Digest>, u32>,
}

/// One member's part in deciding one value.
#[derive(Debug, Clone)]
pub struct Decider {
    model: FaultModel,
    me: PeerId,
    /// All members; the proposer of a view is the one at its number, again from the first after the last.
    proposers: Vec<PeerId>,
    members: BTreeSet<PeerId>,
    view: View,
    step: ViewStep,
    /// The latest prevotes of a quorum for a value.
    acceptable: Option<Certificate>,
    proposals: BTreeMap<View, Proposal>,
    votes: BTreeMap<(BallotKind, View), Tally>,
    /// The latest view that each member has signed anything in.
    latest: BTreeMap<PeerId, View>,
    /// The latest of them.
    latest_max: View,
    /// Precommits of a quorum.
    decisive: Option<Certificate>,
    /// What each member has signed in its latest view, if that is too far ahead to count now: a proposal and both votes.
    far: BTreeMap<PeerId, Vec<Input>>,
    /// Slots that a member has signed twice.
    equivocations: BTreeSet<(PeerId, View, Option<BallotKind>)>,
    held: BTreeSet<Digest>,
    wanted: BTreeSet<Digest>,
    signed: Signed,
    decided: Option<Certificate>,
}

impl Decider {
    /// A member that has signed nothing yet.
    pub fn new(model: FaultModel, me: PeerId, proposers: Vec<PeerId>) -> Decider {
        Decider::resume(model, me, proposers, Signed::default())
    }

    /// A member that goes on after a crash: it signs no slot again that it has signed.
    pub fn resume(model: FaultModel, me: PeerId, proposers: Vec<PeerId>, signed: Signed) -> Decider {
        assert_eq!(proposers.len(), model.members() as usize, "every member proposes in its turn");
        let members: BTreeSet<PeerId> = proposers.iter().copied().collect();
        assert!(members.contains(&me), "this peer is a member");
        assert_eq!(members.len(), proposers.len(), "a member has one turn");
        let voted = signed.votes.keys().map(|(_, view)| *view);
        let view = voted.chain(signed.proposals.iter().copied()).max().unwrap_or(0);
        let step = step_after(&signed, view);
        Decider {
            model,
            me,
            proposers,
            members,
            view,
            step,
            acceptable: signed.lock.clone(),
            proposals: BTreeMap::new(),
            votes: BTreeMap::new(),
            latest: BTreeMap::new(),
            latest_max: 0,
            decisive: None,
            far: BTreeMap::new(),
            equivocations: BTreeSet::new(),
            held: BTreeSet::new(),
            wanted: BTreeSet::new(),
            signed,
            decided: None,
        }
    }

    /// Begins, or goes on after a crash.
    pub fn begin(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.open_view(&mut actions);
        self.proceed(&mut actions);
        actions
    }

    /// Takes an input. After the decision there is nothing more to do.
    pub fn handle(&mut self, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.decided.is_some() {
            return actions;
        }
        match input {
            Input::Proposal(proposal) => self.take_proposal(proposal, &mut actions),
            Input::Vote(vote) => self.take_vote(vote, &mut actions),
            Input::Certificate(certificate) => self.take_certificate(&certificate),
            Input::Held(value) => {
                self.held.insert(value);
            }
            Input::Timeout(view, step) => {
                if (view, step) == (self.view, self.step) {
                    self.time_out(&mut actions);
                }
            }
            Input::Decision(certificate) => {
                if certificate.kind == BallotKind::Precommit && self.is_quorum(&certificate) {
                    self.decide(certificate, &mut actions);
                }
            }
        }
        self.proceed(&mut actions);
        actions
    }

    /// The decision, once there is one.
    pub fn decided(&self) -> Option<&Certificate> {
        self.decided.as_ref()
    }

    /// The view that it is in, from 0.
    pub fn view(&self) -> View {
        self.view
    }

    /// The current step of the view.
    pub fn step(&self) -> ViewStep {
        self.step
    }

    /// The prevotes on which the member's lock rests.
    pub(crate) fn lock(&self) -> Option<&Certificate> {
        self.signed.lock.as_ref()
    }

    /// The number of other members that have taken part.
    pub(crate) fn voters(&self) -> usize {
        self.latest.keys().filter(|peer| **peer != self.me).count()
    }

    /// The member that proposes in a view.
    pub fn proposer(&self, view: View) -> PeerId {
        self.proposers[view as usize % self.proposers.len()]
    }

    fn take_proposal(&mut self, proposal: Proposal, actions: &mut Vec<Action>) {
        let Proposal { view, from, .. } = proposal;
        let voters = proposal.earlier.as_ref().map_or(0, |certificate| certificate.votes.len());
        if from != self.proposer(view) || voters > self.proposers.len() {
            return;
        }
        if !self.is_near(from, view, || Input::Proposal(proposal.clone())) {
            return;
        }
        let first = self.proposals.entry(view).or_insert_with(|| proposal.clone());
        if *first != proposal {
            self.note_equivocation(from, view, None, actions);
        }
    }

    fn take_vote(&mut self, vote: Ballot, actions: &mut Vec<Action>) {
        let Ballot { kind, view, value, from, signature } = vote;
        if !self.members.contains(&from) || !self.is_near(from, view, || Input::Vote(vote)) {
            return;
        }
        let tally = self.votes.entry((kind, view)).or_default();
        let (first, _) = *tally.votes.entry(from).or_insert_with(|| {
            *tally.counts.entry(value).or_default() += 1;
            (value, signature)
        });
        if first != value {
            self.note_equivocation(from, view, Some(kind), actions);
        } else if let Some(value) = value
            && tally.counts[&Some(value)] >= self.model.quorum()
        {
            let for_value = tally.votes.iter().filter(|(_, (vote, _))| *vote == Some(value));
            let votes = for_value.map(|(from, (_, signature))| (*from, *signature)).collect();
            let certificate = Certificate { kind, view, value, votes };
            match kind {
                BallotKind::Prevote => self.take_certificate(&certificate),
                BallotKind::Precommit => self.decisive = Some(certificate),
            }
        }
    }

    fn take_certificate(&mut self, certificate: &Certificate) {
        let is_later = self.acceptable.as_ref().is_none_or(|known| known.view < certificate.view);
        if is_later && certificate.kind == BallotKind::Prevote && self.is_quorum(certificate) {
            self.acceptable = Some(certificate.clone());
        }
    }

    fn note_equivocation(&mut self, from: PeerId, view: View, kind: Option<BallotKind>, actions: &mut Vec<Action>) {
        if self.equivocations.insert((from, view, kind)) {
            actions.push(Action::Equivocation(from, view, kind));
        }
    }

    /// Notes the view of a member's record, and returns whether the record counts now. If it is too far ahead, it is kept
    /// while the member signs nothing in a later view.
    fn is_near(&mut self, from: PeerId, view: View, record: impl FnOnce() -> Input) -> bool {
        self.latest_max = self.latest_max.max(view);
        let latest = self.latest.entry(from).or_insert(view);
        if view > *latest {
            *latest = view;
            self.far.remove(&from);
        }
        let is_latest = view == *latest;
        if view <= self.view.saturating_add(VIEWS_AHEAD) {
            return true;
        }
        let record = record();
        let far = self.far.entry(from).or_default();
        // A proposal and two votes; a liar's further ones are dropped.
        if is_latest && far.len() < 3 && !far.contains(&record) {
            far.push(record);
        }
        false
    }

    fn time_out(&mut self, actions: &mut Vec<Action>) {
        let next = self.view.checked_add(1).filter(|_| self.has_quorum_of_any(BallotKind::Precommit));
        match (next, self.step) {
            (Some(next), _) => {
                self.view = next;
                self.open_view(actions);
            }
            (None, ViewStep::Propose) => self.prevote(None, actions),
            (None, ViewStep::Prevote) if self.has_quorum_of_any(BallotKind::Prevote) => self.precommit(None, actions),
            (None, ViewStep::Prevote | ViewStep::Precommit) => actions.push(Action::Wait(self.view, self.step)),
        }
    }

    /// Does what the votes allow, until they allow nothing more.
    fn proceed(&mut self, actions: &mut Vec<Action>) {
        loop {
            let before = (self.view, self.step, self.decided.is_some());
            self.follow_rules(actions);
            if before == (self.view, self.step, self.decided.is_some()) {
                return;
            }
        }
    }

    fn follow_rules(&mut self, actions: &mut Vec<Action>) {
        if self.decided.is_some() {
            return;
        }
        if let Some(certificate) = self.decisive.take() {
            return self.decide(certificate, actions);
        }
        if let Some(view) = self.view_of_others() {
            self.view = view;
            self.open_view(actions);
            for record in std::mem::take(&mut self.far).into_values().flatten() {
                match record {
                    Input::Proposal(proposal) => self.take_proposal(proposal, actions),
                    Input::Vote(vote) => self.take_vote(vote, actions),
                    _ => {}
                }
            }
            return;
        }
        match self.step {
            ViewStep::Propose => {
                if let Some(value) = self.judge(actions) {
                    self.prevote(value, actions);
                }
            }
            ViewStep::Prevote => {
                let current = self.acceptable.as_ref().filter(|certificate| certificate.view == self.view);
                if let Some(certificate) = current.cloned() {
                    let value = certificate.value;
                    self.signed.lock = Some(certificate.clone());
                    actions.push(Action::Lock(certificate));
                    self.precommit(Some(value), actions);
                } else if self.count(BallotKind::Prevote, self.view, None) >= self.model.quorum() {
                    self.precommit(None, actions);
                }
            }
            // Nothing can be decided in this view any more.
            ViewStep::Precommit if self.count(BallotKind::Precommit, self.view, None) >= self.model.quorum() => {
                if let Some(next) = self.view.checked_add(1) {
                    self.view = next;
                    self.open_view(actions);
                }
            }
            ViewStep::Precommit => {}
        }
    }

    /// The vote on the proposal of this view, once it can be told.
    fn judge(&mut self, actions: &mut Vec<Action>) -> Option<Option<Digest>> {
        let Proposal { value, earlier, .. } = self.proposals.get(&self.view)?;
        let value = *value;
        let lock = self.signed.lock.as_ref().filter(|_| !mutant::is(Mutant::NoLock));
        let is_locked_on = lock.is_none_or(|lock| lock.value == value);
        let is_acceptable = match earlier {
            Some(earlier) => {
                let is_sound =
                    earlier.kind == BallotKind::Prevote && earlier.value == value && earlier.view < self.view;
                let unlocks = lock.is_none_or(|lock| lock.view <= earlier.view);
                is_sound && self.is_quorum(earlier) && (is_locked_on || unlocks)
            }
            None if !is_locked_on => false,
            None if self.held.contains(&value) => true,
            None => {
                if self.wanted.insert(value) {
                    actions.push(Action::Fetch(value));
                }
                return None;
            }
        };
        Some(is_acceptable.then_some(value))
    }

    fn open_view(&mut self, actions: &mut Vec<Action>) {
        self.step = step_after(&self.signed, self.view);
        actions.push(Action::Wait(self.view, self.step));
        if self.step == ViewStep::Propose
            && self.proposer(self.view) == self.me
            && self.signed.proposals.insert(self.view)
        {
            // One of this view or a later one would be refused.
            let earlier = self.acceptable.clone().filter(|certificate| certificate.view < self.view);
            actions.push(Action::Propose(self.view, earlier));
        }
    }

    fn prevote(&mut self, value: Option<Digest>, actions: &mut Vec<Action>) {
        self.vote(BallotKind::Prevote, value, actions);
        self.step = ViewStep::Prevote;
        actions.push(Action::Wait(self.view, self.step));
    }

    fn precommit(&mut self, value: Option<Digest>, actions: &mut Vec<Action>) {
        self.vote(BallotKind::Precommit, value, actions);
        self.step = ViewStep::Precommit;
        actions.push(Action::Wait(self.view, self.step));
    }

    fn vote(&mut self, kind: BallotKind, value: Option<Digest>, actions: &mut Vec<Action>) {
        let before = self.signed.votes.insert((kind, self.view), value);
        assert!(before.is_none(), "the {kind:?} of view {} would be signed twice", self.view);
        actions.push(Action::Vote(kind, self.view, value));
    }

    fn decide(&mut self, certificate: Certificate, actions: &mut Vec<Action>) {
        debug_assert!(self.is_quorum(&certificate), "{certificate:?}");
        if self.wanted.insert(certificate.value) && !self.held.contains(&certificate.value) {
            actions.push(Action::Fetch(certificate.value));
        }
        self.decided = Some(certificate.clone());
        actions.push(Action::Decide(certificate));
    }

    /// The latest view that a member is in that cannot be lying alone, if it is later than this one's.
    fn view_of_others(&self) -> Option<View> {
        if self.latest_max <= self.view {
            return None;
        }
        let mut views: Vec<View> = self.latest.values().copied().filter(|view| *view > self.view).collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        views.get(self.model.byzantine() as usize).copied()
    }

    /// Whether enough members voted for it, and nobody else.
    pub(crate) fn is_quorum(&self, certificate: &Certificate) -> bool {
        if mutant::is(Mutant::UncheckedCertificate) {
            return true;
        }
        let votes = certificate.votes.len();
        votes >= self.model.quorum() as usize && certificate.votes.keys().all(|voter| self.members.contains(voter))
    }

    fn count(&self, kind: BallotKind, view: View, wanted: Option<Digest>) -> u32 {
        self.votes.get(&(kind, view)).and_then(|tally| tally.counts.get(&wanted)).copied().unwrap_or(0)
    }

    fn has_quorum_of_any(&self, kind: BallotKind) -> bool {
        self.votes.get(&(kind, self.view)).map_or(0, |tally| tally.votes.len()) >= self.model.quorum() as usize
    }
}

/// The step of a view in which a member is that has signed these votes.
fn step_after(signed: &Signed, view: View) -> ViewStep {
    let is_signed = |kind| signed.votes.contains_key(&(kind, view));
    if is_signed(BallotKind::Precommit) {
        ViewStep::Precommit
    } else if is_signed(BallotKind::Prevote) {
        ViewStep::Prevote
    } else {
        ViewStep::Propose
    }
}
