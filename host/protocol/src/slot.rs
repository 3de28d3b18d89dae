//! Where a record belongs: a member signs each slot once.

use std::fmt;

use skein_types::{Digest, PeerId};

use crate::wire::{Fields, RecordError, VERSION, VERSIONS, Writer};

/// Number of an attempt to decide a round, from 0.
pub type View = u32;

const DOMAIN: &[u8] = b"skein record 4\0";
pub(crate) const SLOT_BYTES: usize = 32 + 4 + 8 + 4 + 1 + 32;
/// A round in the history of a run. Positions are ordered by era, then by round: a later era may return to an earlier round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Number of the era, from 0.
    pub era: u32,
    /// Number of the round, from 1. Round 0 of an era is the agreement on the state with which the era begins.
    pub round: u64,
}

impl Position {
    /// The position after this one in the same era.
    pub fn next(self) -> Position {
        Position { round: self.round.saturating_add(1), ..self }
    }

    pub(crate) fn write(self, to: &mut Writer) {
        to.u32(self.era);
        to.u64(self.round);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Position> {
        Some(Position { era: fields.u32()?, round: fields.u64()? })
    }

    /// Where the members agree on the state with which the next era begins.
    pub fn next_era(self) -> Position {
        Position { era: self.era.saturating_add(1), round: 0 }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.era, self.round)
    }
}

/// Kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The contribution that the member has ready; in round 0 of an era, the state that it holds.
    Announcement,
    /// A set of announcements to aggregate.
    Proposal,
    /// The first vote of a view.
    Prevote,
    /// The second vote of a view.
    Precommit,
    /// The prevotes of the view, by which the member locked itself: published when they may have convinced nobody else.
    Lock,
    /// The state after the round.
    Check,
    /// A member that lost its log asks which records of it the others hold.
    Inquiry,
    /// The answer to an inquiry.
    Answer,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Announcement,
        Kind::Proposal,
        Kind::Prevote,
        Kind::Precommit,
        Kind::Lock,
        Kind::Check,
        Kind::Inquiry,
        Kind::Answer,
    ];

    fn code(self) -> u8 {
        Kind::ALL.iter().position(|kind| *kind == self).expect("all kinds are listed") as u8 + 1
    }

    fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Whether a member signs at most one record of this kind in a slot. Inquiries and answers depend on who asked when.
    pub fn is_signed_once(self) -> bool {
        !matches!(self, Kind::Inquiry | Kind::Answer)
    }
}

/// Where a record belongs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The run id: a member accepts no record of another run.
    pub run: Digest,
    /// The round, and the era that it belongs to.
    pub position: Position,
    /// The view, 0 for kinds that have none. Of an announcement in round 0 of an era, how often its member has named a state
    /// before.
    pub view: View,
    /// Kind of the payload.
    pub kind: Kind,
    /// The member that signs.
    pub peer: PeerId,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?} in {:?}, view {}", self.kind, self.peer, self.position, self.view)
    }
}

impl Slot {
    /// What is signed for a payload with this hash.
    pub(crate) fn message(&self, payload: Digest) -> Vec<u8> {
        let mut message = Writer::new();
        message.bytes(DOMAIN);
        self.write(&mut message);
        message.bytes(&payload.0);
        message.finish()
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.byte(VERSION);
        to.bytes(&self.run.0);
        to.u32(self.position.era);
        to.u64(self.position.round);
        to.u32(self.view);
        to.byte(self.kind.code());
        to.bytes(&self.peer.0);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Slot, RecordError> {
        let version = fields.byte().ok_or(RecordError::Malformed)?;
        if version != VERSION {
            let is_other = VERSIONS.contains(&version);
            return Err(if is_other { RecordError::Version(version) } else { RecordError::Malformed });
        }
        let mut slot = || {
            Some(Slot {
                run: fields.digest()?,
                position: Position { era: fields.u32()?, round: fields.u64()? },
                view: fields.u32()?,
                kind: Kind::from_code(fields.byte()?)?,
                peer: fields.peer()?,
            })
        };
        slot().ok_or(RecordError::Malformed)
    }
}
