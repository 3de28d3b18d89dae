//! What the members decided in a round, with the votes that show it: a reader need not trust the member that serves it.

use skein_types::Digest;

use crate::certificate::{BallotKind, Certificate};
use crate::keys::Keys;
use crate::selection::Selection;
use crate::slot::Position;
use crate::wire::{Fields, RecordError, Writer};

/// A decided selection and its precommits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The round that was decided.
    pub position: Position,
    /// The contributions to aggregate, and the members to remove.
    pub selection: Selection,
    /// Precommits of a quorum for it.
    pub certificate: Certificate,
}

impl Decision {
    /// Encodes the decision.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Writer::new();
        self.write(&mut bytes);
        bytes.finish()
    }

    /// Reads a decision of `run` and checks the signatures of its votes. How many they are is for
    /// [`Decider`](crate::agreement::Decider) to judge, which knows the members.
    ///
    /// # Errors
    /// [`RecordError`]. The source of the bytes is to blame.
    pub fn decode(bytes: &[u8], run: Digest, keys: &impl Keys) -> Result<Decision, RecordError> {
        let mut fields = Fields::new(bytes);
        let decision = Decision::read(&mut fields).filter(|_| fields.is_empty()).ok_or(RecordError::Malformed)?;
        if decision.is_signed(run, keys) { Ok(decision) } else { Err(RecordError::Signature) }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.position.write(to);
        self.selection.write(to);
        self.certificate.write(to);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Decision> {
        let position = Position::read(fields)?;
        let selection = Selection::read(fields)?;
        let certificate = Certificate::read(fields, BallotKind::Precommit)?;
        (certificate.value == selection.digest()).then_some(Decision { position, selection, certificate })
    }

    pub(crate) fn is_signed(&self, run: Digest, keys: &impl Keys) -> bool {
        let is_signed = self.certificate.is_signed(run, self.position, keys);
        is_signed && self.selection.proofs.iter().all(|proof| proof.is_signed(run, keys))
    }
}
