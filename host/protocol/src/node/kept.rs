//! What a member keeps on disk: its log, entry by entry, as values and as bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skein_types::PeerId;

use super::ROUNDS_KEPT;
use crate::certificate::{BallotKind, Certificate, CertifiedState};
use crate::decision::Decision;
use crate::proof::Proof;
use crate::record::payload::Selection;
use crate::record::{Position, Record, Unverified};
use crate::standing::Head;
use crate::wire::{Fields, Writer};

/// What a member knows when its process starts.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The state in the store.
    pub head: Head,
    /// The round after which the state is on disk. [`Position`] of the far future if nothing outlives the process anyway.
    pub saved: Position,
    /// The log, read back from disk.
    pub log: KeptLog,
    /// How the member finds out whether it lost its log; `None` if nothing outlives the process.
    pub inquiry: Option<[u8; 16]>,
}

/// The log of a member: what it kept before anybody could see a consequence of it.
#[derive(Debug, Clone, Default)]
pub struct KeptLog {
    /// The records that it has signed.
    pub records: Vec<Arc<Record>>,
    /// The prevotes by which it locked itself last, and in which round.
    pub lock: Option<(Position, Certificate)>,
    /// The selections that it has prevoted in the last rounds.
    pub selections: Vec<(Position, Selection)>,
    /// The last decisions: a member may have to apply again what is not in the state on disk.
    pub decisions: BTreeMap<Position, Arc<Decision>>,
    /// The last state that the member took over from others: it may have no decision that leads there.
    pub certified: Option<CertifiedState>,
    /// A record of each member that it has read anything of.
    pub met: BTreeMap<PeerId, Arc<Record>>,
    /// The first proof against each member that is proven Byzantine.
    pub proofs: BTreeMap<PeerId, Proof>,
    /// The member lost an earlier log, and the latest round that others could show to be over then.
    pub lost: Option<Position>,
}

/// Rounds whose decisions and prevoted selections the log keeps.
const ROUNDS_LOGGED: usize = 4;

impl KeptLog {
    /// Adds an entry in place of what it replaces, and drops what no later process needs.
    pub fn keep(&mut self, entry: Entry) {
        match entry {
            Entry::Signed(record) => {
                self.records.push(record);
                self.forget_records();
            }
            Entry::Lock(position, lock) => {
                if self.lock.as_ref().is_none_or(|(of, _)| *of <= position) {
                    self.lock = Some((position, lock));
                }
            }
            Entry::Selection(position, selection) => {
                self.selections.push((position, selection));
                let rounds: BTreeSet<Position> = self.selections.iter().map(|(of, _)| *of).collect();
                if let Some(oldest) = rounds.iter().rev().nth(ROUNDS_LOGGED) {
                    self.selections.retain(|(of, _)| of > oldest);
                }
            }
            Entry::Decision(decision) => {
                self.decisions.insert(decision.position, decision);
                if self.decisions.len() > ROUNDS_LOGGED {
                    self.decisions.pop_first();
                }
            }
            Entry::Lost(reached) => self.lost = Some(reached),
            Entry::Certified(state) => self.certified = Some(state),
            Entry::Met(record) => {
                self.met.entry(record.peer()).or_insert(record);
            }
            Entry::Proof(proof) => {
                self.proofs.entry(proof.slot().peer).or_insert(proof);
            }
        }
    }

    /// Drops records of rounds that nobody is in any more. Those of the era before stay: members may still go on there.
    fn forget_records(&mut self) {
        let Some(newest) = self.records.iter().map(|record| record.slot().position).max() else { return };
        let is_kept = |of: Position| match newest.era - of.era {
            0 => of.round + ROUNDS_KEPT >= newest.round,
            1 => true,
            _ => false,
        };
        self.records.retain(|record| is_kept(record.slot().position));
    }

    /// The entries of a new log that says the same.
    pub fn entries(&self) -> Vec<Entry> {
        let KeptLog { records, lock, selections, decisions, certified, met, proofs, lost } = self.clone();
        let mut entries: Vec<Entry> = records.into_iter().map(Entry::Signed).collect();
        entries.extend(lock.map(|(position, lock)| Entry::Lock(position, lock)));
        entries.extend(selections.into_iter().map(|(position, selection)| Entry::Selection(position, selection)));
        entries.extend(decisions.into_values().map(Entry::Decision));
        entries.extend(certified.map(Entry::Certified));
        entries.extend(met.into_values().map(Entry::Met));
        entries.extend(proofs.into_values().map(Entry::Proof));
        entries.extend(lost.map(Entry::Lost));
        entries
    }
}

/// Something that the log keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A record that the member has signed.
    Signed(Arc<Record>),
    /// Replaces the lock of an earlier view or round.
    Lock(Position, Certificate),
    /// A selection that the member prevotes.
    Selection(Position, Selection),
    /// A decision, beside those of the last rounds.
    Decision(Arc<Decision>),
    /// The member lost an earlier log; the latest round that others can show to be over.
    Lost(Position),
    /// The first record that was read of a member.
    Met(Arc<Record>),
    /// The first proof against a member.
    Proof(Proof),
    /// A state that the member takes over, in place of the one before.
    Certified(CertifiedState),
}

impl Entry {
    /// Encodes the entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::new();
        match self {
            Entry::Signed(record) => {
                bytes.byte(1);
                bytes.bytes(&record.encode());
            }
            Entry::Lock(position, lock) => {
                bytes.byte(2);
                position.write(&mut bytes);
                lock.write(&mut bytes);
            }
            Entry::Selection(position, selection) => {
                bytes.byte(3);
                position.write(&mut bytes);
                selection.write(&mut bytes);
            }
            Entry::Decision(decision) => {
                bytes.byte(4);
                decision.write(&mut bytes);
            }
            Entry::Lost(reached) => {
                bytes.byte(5);
                reached.write(&mut bytes);
            }
            Entry::Met(record) => {
                bytes.byte(6);
                bytes.bytes(&record.encode());
            }
            Entry::Proof(proof) => {
                bytes.byte(7);
                proof.write(&mut bytes);
            }
            Entry::Certified(state) => {
                bytes.byte(8);
                state.write(&mut bytes);
            }
        }
        bytes.finish()
    }

    /// Decodes what [`Entry::encode`] wrote; `None` if the bytes are anything else. Signatures are not checked again: they
    /// were when the entry was kept.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let mut fields = Fields::new(bytes);
        let record = |fields: &mut Fields<'_>| Unverified::decode(fields.rest()).ok()?.trusted().map(Arc::new);
        let entry = match fields.byte()? {
            1 => Entry::Signed(record(&mut fields)?),
            2 => Entry::Lock(Position::read(&mut fields)?, Certificate::read(&mut fields, BallotKind::Prevote)?),
            3 => Entry::Selection(Position::read(&mut fields)?, Selection::read(&mut fields)?),
            4 => Entry::Decision(Arc::new(Decision::read(&mut fields)?)),
            5 => Entry::Lost(Position::read(&mut fields)?),
            6 => Entry::Met(record(&mut fields)?),
            7 => Entry::Proof(Proof::read(&mut fields)?),
            8 => Entry::Certified(CertifiedState::read(&mut fields)?),
            _ => return None,
        };
        fields.is_empty().then_some(entry)
    }
}
