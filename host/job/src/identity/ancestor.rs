//! A run that another one continues.

use serde::{Deserialize, Serialize};
use skein_types::Digest;

use super::{Identifier, IdentityValue};

/// A run that another one continues under other settings, and the state that it continues from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Run id of the run that is continued.
    #[serde(with = "as_text")]
    pub run: Digest,
    /// Job identity of the run that is continued.
    #[serde(with = "as_text")]
    pub job: Digest,
    /// Its last round that the next run builds on.
    pub round: u64,
    /// Hash of its state after that round.
    #[serde(with = "as_text")]
    pub state: Digest,
}

impl Identifier {
    /// The identifier of this run when it continues `ancestor`. Two runs that continue different states share nothing.
    pub fn continuing(&self, ancestor: &Ancestor) -> Identifier {
        let mut run = self.clone();
        run.insert_digest("continues.run", ancestor.run);
        run.insert("continues.round", IdentityValue::Whole(ancestor.round));
        run.insert_digest("continues.state", ancestor.state);
        run
    }
}

/// Digests as 64 hexadecimal digits.
mod as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use skein_types::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_id_depends_on_the_ancestor() {
        let ancestor = Ancestor { run: Digest([1; 32]), job: Digest([2; 32]), round: 3, state: Digest([4; 32]) };
        let run = Identifier::default();
        let others = [
            Ancestor { run: Digest([9; 32]), ..ancestor },
            Ancestor { round: 4, ..ancestor },
            Ancestor { state: Digest([9; 32]), ..ancestor },
        ];
        let id = run.continuing(&ancestor).digest();
        assert_ne!(id, run.digest());
        assert!(others.iter().all(|other| run.continuing(other).digest() != id));
    }
}
