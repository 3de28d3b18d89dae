//! What a Byzantine member does instead of what its node says, to each reader something else.

use std::sync::Arc;

use skein_protocol::agreement::{BallotKind, Certificate};
use skein_protocol::certificate::{CertifiedState, Reached};
use skein_protocol::decision::Decision;
use skein_protocol::keys::Signer;
use skein_protocol::record::payload::{Answer, Body, Check, Evaluation, ProposedSelection, Selection, Sum};
use skein_protocol::record::{Kind, Position, Record, Slot, Statement};
use skein_types::{Digest, PeerId};

use crate::VALIDATION;
use crate::dice::Dice;
use crate::keys::Secret;
use crate::store::{ALL, Readers};

/// A state that no member ever had.
pub(crate) const FORGED_STATE: Digest = Digest([6; 32]);

/// How a liar treats its announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announces {
    /// As an honest member.
    Plainly,
    /// To these readers only.
    To(Readers),
    /// One to these readers, another one to the rest.
    Twice(Readers),
    /// So much later, in microseconds.
    Late(u64),
    /// With an evaluation out of turn and more samples than a round has.
    Boasting,
    /// Never.
    Silently,
}

/// What a liar serves to those who ask for its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// The values that it announced.
    Plainly,
    /// Nothing to these readers.
    Not(Readers),
    /// Other values to these readers.
    Wrongly(Readers),
    /// A byte now and then to these readers.
    Dribbling(Readers),
}

/// How a liar proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposes {
    /// As an honest member.
    Plainly,
    /// Never.
    Silently,
    /// Without as many members as it may leave out.
    Omitting,
    /// One selection to these readers, another one to the rest.
    Twice(Readers),
    /// With votes that nobody cast.
    Forging,
}

/// How a liar votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Votes {
    /// As an honest member.
    Plainly,
    /// Never.
    Silently,
    /// Against every proposal.
    Against,
    /// To these readers only.
    To(Readers),
    /// As its node says to these readers, against it to the rest.
    Twice(Readers),
    /// For a selection of its own to these readers, as its node says to the rest.
    Own(Readers),
}

/// How a liar wastes what its readers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floods {
    /// With nothing: it does not.
    Nothing,
    /// Its own old records, again and again.
    Old,
    /// Records of rounds to come, all alike and all different.
    Early,
    /// Proposals as large as they may be, of many views.
    Oversize(u32),
    /// Records of another run and of eras to come.
    Elsewhere,
    /// Inquiries, each of which is to be answered.
    Inquiries,
}

/// What a liar answers to a member that lost its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// As an honest member.
    Plainly,
    /// Never.
    Silently,
    /// That it has never read anything of it, and knows of no round.
    Denying,
    /// The same, and that it lost its log too.
    Recovering,
    /// That a round far ahead is over.
    Forging,
}

/// What one liar does for a while.
#[derive(Debug, Clone, Copy)]
pub struct Lies {
    /// What it does with its announcements.
    pub announces: Announces,
    /// What it serves to those who ask for its values.
    pub serves: Serves,
    /// What it proposes when it is its turn.
    pub proposes: Proposes,
    /// How it votes, on proposals of others too.
    pub votes: Votes,
    /// What it floods its readers with.
    pub floods: Floods,
    /// Readers that are shown a wrong check.
    pub wrong_checks: Readers,
    /// What it tells members that lost their logs.
    pub answers: Answers,
    /// It serves decisions and states that it made up.
    pub forges: bool,
}

/// A record that a liar publishes.
pub(crate) struct Shown {
    pub(crate) record: Arc<Record>,
    pub(crate) to: Readers,
    /// So much later, in microseconds.
    pub(crate) after: u64,
}

impl Shown {
    fn now(record: Arc<Record>, to: Readers) -> Shown {
        Shown { record, to, after: 0 }
    }
}

impl Lies {
    /// A member that lies about nothing.
    pub const NONE: Lies = Lies {
        announces: Announces::Plainly,
        serves: Serves::Plainly,
        proposes: Proposes::Plainly,
        votes: Votes::Plainly,
        floods: Floods::Nothing,
        wrong_checks: 0,
        answers: Answers::Plainly,
        forges: false,
    };

    /// Draws lies; each kind is as often absent as present. A cautious liar does nothing that proves it Byzantine, which would
    /// end its part.
    pub(crate) fn draw(dice: &mut Dice, is_cautious: bool) -> Lies {
        let some = |dice: &mut Dice| u128::from(dice.below(u64::MAX)) * 0x1_0000_0000_0000_0001;
        let announces = match dice.below(10) {
            0 => Announces::To(some(dice)),
            1 => Announces::Late(990_000 + dice.below(30_000)),
            2 => Announces::Boasting,
            3 => Announces::Silently,
            4 | 5 if !is_cautious => Announces::Twice(some(dice)),
            _ => Announces::Plainly,
        };
        let serves = match dice.below(8) {
            0 => Serves::Not(some(dice)),
            1 => Serves::Wrongly(some(dice)),
            2 => Serves::Wrongly(ALL),
            3 => Serves::Dribbling(some(dice)),
            _ => Serves::Plainly,
        };
        let proposes = match dice.below(8) {
            0 => Proposes::Silently,
            1 | 2 => Proposes::Omitting,
            3 => Proposes::Forging,
            4 | 5 if !is_cautious => Proposes::Twice(some(dice)),
            _ => Proposes::Plainly,
        };
        let votes = match dice.below(8) {
            0 => Votes::Silently,
            5 => Votes::Against,
            1 => Votes::To(some(dice)),
            2 => Votes::To(1 << dice.below(64)),
            3 if !is_cautious => Votes::Twice(some(dice)),
            4 if !is_cautious => Votes::Own(some(dice)),
            _ => Votes::Plainly,
        };
        let floods = match dice.below(14) {
            0 => Floods::Old,
            1 if !is_cautious => Floods::Early,
            2 if !is_cautious => Floods::Oversize(4),
            3 if !is_cautious => Floods::Elsewhere,
            4 => Floods::Inquiries,
            _ => Floods::Nothing,
        };
        let wrong_checks = match dice.below(6) {
            0 => ALL,
            1 if !is_cautious => some(dice),
            _ => 0,
        };
        let answers = match dice.below(6) {
            0 => Answers::Silently,
            1 => Answers::Denying,
            2 => Answers::Recovering,
            3 => Answers::Forging,
            _ => Answers::Plainly,
        };
        Lies { announces, serves, proposes, votes, floods, wrong_checks, answers, forges: dice.one_in(3) }
    }

    /// The same, but for what might overturn what a member that nobody reads has decided.
    pub(crate) fn overturning(self) -> Lies {
        Lies { proposes: Proposes::Omitting, votes: Votes::Against, serves: Serves::Plainly, forges: true, ..self }
    }

    /// What is published instead of a record that the liar's node has signed.
    pub(crate) fn publish(&self, secret: &Secret, record: Arc<Record>, minimum: usize) -> Vec<Shown> {
        let other = |body: Body| Arc::new(Statement { slot: *record.slot(), body }.sign(secret));
        let two = |one: Arc<Record>, to: Readers, body: Body| vec![Shown::now(one, to), Shown::now(other(body), !to)];
        match record.body() {
            Body::Announcement(announcement) => match self.announces {
                Announces::Plainly => vec![Shown::now(record, ALL)],
                Announces::To(readers) => vec![Shown::now(record, readers)],
                Announces::Late(after) => vec![Shown { record, to: ALL, after }],
                Announces::Silently => Vec::new(),
                Announces::Twice(readers) => {
                    let values = second(announcement.values);
                    let twin = Body::Announcement(skein_protocol::record::payload::Announcement {
                        values,
                        ..announcement.clone()
                    });
                    two(record.clone(), readers, twin)
                }
                Announces::Boasting => {
                    let sums = [("loss".to_owned(), Sum { sum: 1e300, weight: 1e-300_f64.max(1.0) })].into();
                    // Each claim is in bounds in some rounds, so that none hides another.
                    let [whole, claims, ..] = announcement.values.0.map(|byte| byte % 2 == 0);
                    let evaluation = Some(Evaluation { samples: if whole { VALIDATION } else { 1 << 30 }, sums });
                    let samples = if claims { 1 << 39 } else { announcement.samples };
                    let boast =
                        skein_protocol::record::payload::Announcement { evaluation, samples, ..announcement.clone() };
                    vec![Shown::now(other(Body::Announcement(boast)), ALL)]
                }
            },
            Body::Proposal(proposal) => self.propose(secret, &record, proposal, minimum),
            Body::Vote(value) => match self.votes {
                Votes::Plainly => vec![Shown::now(record, ALL)],
                Votes::Silently => Vec::new(),
                Votes::Against => vec![Shown::now(other(Body::Vote(None)), ALL)],
                Votes::To(readers) => vec![Shown::now(record, readers)],
                Votes::Twice(readers) => {
                    let against = if value.is_some() { None } else { Some(Digest([7; 32])) };
                    two(record.clone(), readers, Body::Vote(against))
                }
                Votes::Own(readers) => two(record.clone(), !readers, Body::Vote(Some(Digest([9; 32])))),
            },
            Body::Check(check) if self.wrong_checks != 0 => {
                let wrong = Body::Check(Check { state: FORGED_STATE, ..*check });
                two(record.clone(), !self.wrong_checks, wrong)
            }
            Body::Answer(answer) => {
                let Answer { to, .. } = **answer;
                let lie = |reached, is_recovering| {
                    let answer = Answer { to, met: None, reached, is_recovering };
                    vec![Shown::now(other(Body::Answer(Box::new(answer))), ALL)]
                };
                match self.answers {
                    Answers::Plainly => vec![Shown::now(record, ALL)],
                    Answers::Silently => Vec::new(),
                    Answers::Denying => lie(None, false),
                    Answers::Recovering => lie(None, true),
                    Answers::Forging => lie(Some(forged_state(secret, record.slot())), false),
                }
            }
            _ => vec![Shown::now(record, ALL)],
        }
    }

    fn propose(
        &self,
        secret: &Secret,
        record: &Arc<Record>,
        proposal: &ProposedSelection,
        minimum: usize,
    ) -> Vec<Shown> {
        let sign = |body: ProposedSelection| {
            Arc::new(Statement { slot: *record.slot(), body: Body::Proposal(body) }.sign(secret))
        };
        let few = |from: usize| {
            let announcements = &proposal.selection.announcements;
            let from = from.min(announcements.len().saturating_sub(minimum));
            let announcements = announcements[from..].iter().take(minimum).copied().collect();
            let selection = Selection { view: record.slot().view, announcements, proofs: Vec::new() };
            ProposedSelection { selection, earlier: None }
        };
        match self.proposes {
            Proposes::Plainly => vec![Shown::now(record.clone(), ALL)],
            Proposes::Silently => Vec::new(),
            Proposes::Omitting => vec![Shown::now(sign(few(0)), ALL)],
            Proposes::Twice(readers) => {
                vec![Shown::now(record.clone(), readers), Shown::now(sign(few(1)), !readers)]
            }
            Proposes::Forging => {
                let mut forged = few(0);
                let view = record.slot().view;
                let value = forged.selection.digest();
                forged.earlier =
                    Some(forged_certificate(BallotKind::Prevote, view.saturating_sub(1), value, &forged.selection));
                vec![Shown::now(sign(forged), ALL)]
            }
        }
    }

    /// A decision that nobody took, of which the liar has an announcement.
    pub(crate) fn forge(&self, decision: &Decision, minimum: usize) -> Decision {
        let mut selection = decision.selection.clone();
        selection.announcements.truncate(minimum.max(1));
        selection.proofs.clear();
        let certificate = forged_certificate(BallotKind::Precommit, 0, selection.digest(), &decision.selection);
        Decision { position: decision.position, selection, certificate }
    }

    /// Records with which the liar floods its readers while it is at `position`.
    pub(crate) fn flood(&self, secret: &Secret, run: Digest, position: Position, dice: &mut Dice) -> Vec<Arc<Record>> {
        let slot = |run, position, view, kind| Slot { run, position, view, kind, peer: secret.id() };
        let sign = |slot, body| Arc::new(Statement { slot, body }.sign(secret));
        let draw = |dice: &mut Dice| Digest([dice.bytes(), dice.bytes()].concat().try_into().expect("32 bytes"));
        match self.floods {
            Floods::Nothing => Vec::new(),
            Floods::Old => {
                let vote = slot(
                    run,
                    Position { round: position.round.saturating_sub(1).max(1), ..position },
                    0,
                    Kind::Prevote,
                );
                let record = sign(vote, Body::Vote(None));
                vec![record; 100]
            }
            Floods::Early => {
                let later = |ahead| Position { round: position.round + ahead, ..position };
                let votes = (0..100).map(|index| {
                    let value = if index < 50 { None } else { Some(draw(dice)) };
                    sign(slot(run, later(1 + index % 3), (index / 10) as u32, Kind::Prevote), Body::Vote(value))
                });
                votes.collect()
            }
            Floods::Oversize(views) => {
                let proposals = (0..views).map(|view| {
                    let peers = (0..1000u64).map(|index| {
                        PeerId([[index.to_be_bytes(); 3].concat(), vec![0; 8]].concat().try_into().expect("32 bytes"))
                    });
                    let announcements = peers.map(|peer| (peer, Digest([view as u8; 32]))).collect();
                    let selection = Selection { view, announcements, proofs: Vec::new() };
                    sign(
                        slot(run, position, view, Kind::Proposal),
                        Body::Proposal(ProposedSelection { selection, earlier: None }),
                    )
                });
                proposals.collect()
            }
            Floods::Elsewhere => {
                let era = Position { era: position.era + 1 + dice.below(3) as u32, round: dice.below(3) };
                let kind = if era.round == 0 { Kind::Prevote } else { Kind::Precommit };
                let elsewhere = sign(slot(Digest([1; 32]), position, 0, Kind::Prevote), Body::Vote(None));
                vec![elsewhere, sign(slot(run, era, 0, kind), Body::Vote(Some(draw(dice))))]
            }
            Floods::Inquiries => {
                let inquiry = |dice: &mut Dice| {
                    sign(slot(run, Position::default(), 0, Kind::Inquiry), Body::Inquiry(dice.bytes()))
                };
                (0..20).map(|_| inquiry(dice)).collect()
            }
        }
    }
}

/// A state far ahead that only the liar has signed.
fn forged_state(secret: &Secret, slot: &Slot) -> Reached {
    let position = Position { era: 0, round: 1 << 40 };
    let check = Check { state: FORGED_STATE, standing: FORGED_STATE };
    let statement = Statement { slot: Slot { position, kind: Kind::Check, ..*slot }, body: Body::Check(check) };
    let checks = [(slot.peer, statement.sign(secret).signature())].into();
    Reached::Certified(CertifiedState { position, check, checks })
}

/// Votes of members that never cast them.
fn forged_certificate(kind: BallotKind, view: u32, value: Digest, of: &Selection) -> Certificate {
    let votes = of.announcements.iter().map(|(peer, _)| (*peer, [3; 64])).collect();
    Certificate { kind, view, value, votes }
}

/// The other values that a two-faced member has for those that it announced.
pub(crate) fn second(values: Digest) -> Digest {
    Digest(blake3::derive_key("skein 2026-11 second values of a simulated liar", &values.0))
}
