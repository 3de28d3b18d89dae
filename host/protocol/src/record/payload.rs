//! Payloads of records, as bytes and as values. Decoding accepts only what an honest member would write.

use std::collections::BTreeMap;

use skein_types::{Digest, PeerId};

use super::PAYLOAD_BYTES_MAX;
pub use crate::certificate::Reached;
use crate::certificate::{BallotKind, Certificate};
use crate::keys::Keys;
use crate::proof::Said;
pub use crate::selection::{PROOFS_MAX, Selection};
use crate::slot::{Kind, Slot};
pub use crate::standing::Check;
use crate::wire::{Fields, Writer};

/// Most samples that a contribution may claim: sums over all members stay far below 2^64.
const SAMPLES_MAX: u64 = 1 << 40;
/// Most sums of an evaluation.
pub const METRICS_MAX: usize = 16;
/// Longest name of a metric, in bytes.
pub const METRIC_BYTES_MAX: usize = 64;
/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// [`Kind::Announcement`] of a round.
    Announcement(Announcement),
    /// [`Kind::Announcement`] in round 0 of an era.
    Opening(Opening),
    /// [`Kind::Proposal`]
    Proposal(ProposedSelection),
    /// [`Kind::Prevote`] and [`Kind::Precommit`]: for a selection, or against all.
    Vote(Option<Digest>),
    /// [`Kind::Lock`]: for the value that the quorum of this certificate prevoted.
    Lock(Certificate),
    /// [`Kind::Check`]
    Check(Check),
    /// [`Kind::Inquiry`]: a number that was drawn for it.
    Inquiry([u8; 16]),
    /// [`Kind::Answer`]
    Answer(Box<Answer>),
}

/// A member's contribution to a round, and an evaluation if one was due.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// Hash of the state that the contribution was computed at.
    pub state: Digest,
    /// Root of BLAKE3's tree over the values: their hash, from which ranges can be proved.
    pub values: Digest,
    /// Samples that the contribution is averaged over, at least 1.
    pub samples: u64,
    /// Mean training loss over these samples.
    pub loss: f64,
    /// Evaluation of the state over the member's share of the validation set, if it was due.
    pub evaluation: Option<Evaluation>,
}

/// Sums over a part of the validation set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// Samples evaluated, at least 1.
    pub samples: u64,
    /// By the name of the metric: `loss`, and others if the task has them.
    pub sums: BTreeMap<String, Sum>,
}

/// A weighted sum, from which means of parts are combined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sum {
    /// The weighted sum, a finite number.
    pub sum: f64,
    /// The sum of the weights, above 0.
    pub weight: f64,
}

impl Sum {
    /// The sum divided by the weight.
    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

/// The state that a member holds when an era begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The round after which the member holds the state.
    pub round: u64,
    /// The hashes of that state.
    pub state: Check,
}

/// A proposed selection, with its prevotes if a quorum has prevoted it in an earlier view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedSelection {
    /// What the proposer would aggregate.
    pub selection: Selection,
    /// Prevotes of a quorum for it.
    pub earlier: Option<Certificate>,
}

/// Which records of a member another one holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The member that asked, and the number of its inquiry.
    pub to: (PeerId, [u8; 16]),
    /// A record that the member that asked has signed; `None` if none was ever read. Without its payload, but with what was
    /// signed.
    pub met: Option<Said>,
    /// The latest round that the member that answers can show to be over.
    pub reached: Option<Reached>,
    /// Whether the member that answers has no log either, or has just lost one: it may know less than it once did.
    pub is_recovering: bool,
}

impl Body {
    /// Encodes the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::new();
        match self {
            Body::Announcement(announcement) => announcement.write(&mut bytes),
            Body::Opening(opening) => {
                bytes.u64(opening.round);
                opening.state.write(&mut bytes);
            }
            Body::Proposal(ProposedSelection { selection, earlier }) => {
                selection.write(&mut bytes);
                if let Some(earlier) = earlier {
                    earlier.write(&mut bytes);
                }
            }
            Body::Vote(value) => bytes.bytes(value.as_ref().map_or(&[], |value| &value.0)),
            Body::Lock(certificate) => certificate.write(&mut bytes),
            Body::Check(check) => check.write(&mut bytes),
            Body::Inquiry(number) => bytes.bytes(number),
            Body::Answer(answer) => answer.write(&mut bytes),
        }
        bytes.finish()
    }

    /// Decodes the payload of a slot; `None` if no honest member would write it.
    pub fn decode(slot: &Slot, payload: &[u8]) -> Option<Body> {
        if payload.len() > PAYLOAD_BYTES_MAX || (slot.view > 0 && !has_views(slot)) {
            return None;
        }
        let mut fields = Fields::new(payload);
        let body = match slot.kind {
            Kind::Announcement if slot.position.round == 0 => {
                Body::Opening(Opening { round: fields.u64()?, state: Check::read(&mut fields)? })
            }
            Kind::Announcement => Body::Announcement(Announcement::read(&mut fields)?),
            Kind::Proposal => {
                let selection = Selection::read(&mut fields)?;
                let earlier =
                    if fields.is_empty() { None } else { Some(Certificate::read(&mut fields, BallotKind::Prevote)?) };
                let is_possible = match &earlier {
                    None => selection.view == slot.view,
                    Some(earlier) => selection.view <= earlier.view,
                };
                if !is_possible {
                    return None;
                }
                Body::Proposal(ProposedSelection { selection, earlier })
            }
            Kind::Prevote | Kind::Precommit if payload.is_empty() => Body::Vote(None),
            Kind::Prevote | Kind::Precommit => Body::Vote(Some(fields.digest()?)),
            Kind::Lock => {
                Body::Lock(Certificate::read(&mut fields, BallotKind::Prevote).filter(|lock| lock.view == slot.view)?)
            }
            Kind::Check => Body::Check(Check::read(&mut fields)?),
            Kind::Inquiry => Body::Inquiry(fields.take()?),
            Kind::Answer => Body::Answer(Box::new(Answer::read(&mut fields)?)),
        };
        fields.is_empty().then_some(body)
    }

    /// Whether the signatures inside are those of their peers.
    pub(crate) fn is_verified(&self, slot: &Slot, keys: &impl Keys) -> bool {
        match self {
            Body::Proposal(ProposedSelection { selection, earlier }) => {
                let is_signed = earlier.as_ref().is_none_or(|earlier| earlier.is_signed(slot.run, slot.position, keys));
                is_signed && selection.proofs.iter().all(|proof| proof.is_signed(slot.run, keys))
            }
            Body::Lock(lock) => lock.is_signed(slot.run, slot.position, keys),
            Body::Answer(answer) => {
                let Answer { to, met, reached, .. } = &**answer;
                // An inquiry of its own shows nothing: it signs one whenever it asks.
                let is_of_asker = |met: &Said| {
                    let is_its = met.slot.run == slot.run && met.slot.peer == to.0;
                    is_its && met.slot.kind.is_signed_once() && met.is_signed(keys)
                };
                let is_signed = met.as_ref().is_none_or(is_of_asker);
                is_signed && reached.as_ref().is_none_or(|reached| reached.is_signed(slot.run, keys))
            }
            _ => true,
        }
    }
}

/// Whether a slot may be of a later view, or attempt to begin an era.
fn has_views(slot: &Slot) -> bool {
    match slot.kind {
        Kind::Proposal | Kind::Prevote | Kind::Precommit | Kind::Lock => true,
        Kind::Announcement => slot.position.round == 0,
        Kind::Check | Kind::Inquiry | Kind::Answer => false,
    }
}

impl Announcement {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.state.0);
        to.bytes(&self.values.0);
        to.u64(self.samples);
        to.number(self.loss);
        let Some(evaluation) = &self.evaluation else { return };
        to.u64(evaluation.samples);
        to.byte(evaluation.sums.len() as u8);
        for (name, Sum { sum, weight }) in &evaluation.sums {
            to.byte(name.len() as u8);
            to.bytes(name.as_bytes());
            to.number(*sum);
            to.number(*weight);
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Announcement> {
        let state = fields.digest()?;
        let values = fields.digest()?;
        let samples = fields.u64().filter(|samples| is_count(*samples))?;
        let loss = fields.number()?;
        let evaluation = if fields.is_empty() { None } else { Some(Evaluation::read(fields)?) };
        Some(Announcement { state, values, samples, loss, evaluation })
    }
}

impl Evaluation {
    fn read(fields: &mut Fields<'_>) -> Option<Evaluation> {
        let samples = fields.u64().filter(|samples| is_count(*samples))?;
        let count = usize::from(fields.byte()?);
        let mut sums = BTreeMap::new();
        for _ in 0..count {
            let len = usize::from(fields.byte()?);
            let name = std::str::from_utf8(fields.slice(len)?).ok()?;
            let sum = Sum { sum: fields.number()?, weight: fields.number()? };
            let is_sorted = sums.last_key_value().is_none_or(|(last, _): (&String, _)| last.as_str() < name);
            if !is_sorted || len == 0 || len > METRIC_BYTES_MAX || sum.weight <= 0.0 || !sum.mean().is_finite() {
                return None;
            }
            sums.insert(name.to_owned(), sum);
        }
        (sums.len() <= METRICS_MAX).then_some(Evaluation { samples, sums })
    }
}

impl Answer {
    fn write(&self, to: &mut Writer) {
        let (peer, number) = self.to;
        to.bytes(&peer.0);
        to.bytes(&number);
        to.byte(u8::from(self.met.is_some()) | u8::from(self.is_recovering) << 1);
        if let Some(Said { slot, payload, signature }) = &self.met {
            slot.write(to);
            to.bytes(&payload.0);
            to.bytes(signature);
        }
        if let Some(reached) = &self.reached {
            reached.write(to);
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Answer> {
        let to = (fields.peer()?, fields.take()?);
        let flags = fields.byte().filter(|flags| *flags < 4)?;
        let met = if flags & 1 == 1 {
            let slot = Slot::read(fields).ok()?;
            Some(Said { slot, payload: fields.digest()?, signature: fields.take()? })
        } else {
            None
        };
        let reached = if fields.is_empty() { None } else { Some(Reached::read(fields)?) };
        Some(Answer { to, met, reached, is_recovering: flags & 2 == 2 })
    }
}

fn is_count(samples: u64) -> bool {
    (1..=SAMPLES_MAX).contains(&samples)
}
