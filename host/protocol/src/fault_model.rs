//! How many members may fail, and how: the assumptions under which a run agrees and goes on.
//!
//! The network is partially synchronous: messages may be late for as long as they like, but not for ever (Dwork, Lynch and
//! Stockmeyer 1988). Of `n` members, `b` may be Byzantine, which do and say anything, and `c` more may be crashed or cut
//! off. Agreement needs `n ≥ 3b + 2c + 1`. Its quorum is `q = ⌊(n+b)/2⌋ + 1` members: two quorums share at least `b + 1`
//! of them, so one that is honest, and `n − b − c ≥ q` members remain when all that may fail do.

use crate::mutant::{self, Mutant};

/// The members of a run, and how many of them may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultModel {
    members: u32,
    byzantine: u32,
    crashed: u32,
}

impl FaultModel {
    /// A model of `members` members, of which `byzantine` may lie and `crashed` more may be silent.
    ///
    /// # Errors
    /// There are fewer than `3 · byzantine + 2 · crashed + 1` members.
    pub fn new(members: u32, byzantine: u32, crashed: u32) -> Result<FaultModel, TooFewMembers> {
        let needed = 3 * u64::from(byzantine) + 2 * u64::from(crashed) + 1;
        if u64::from(members) < needed {
            return Err(TooFewMembers { members, byzantine, crashed, needed });
        }
        Ok(FaultModel { members, byzantine, crashed })
    }

    /// The model that tolerates as many Byzantine members as possible, and then as many crashed ones. At least 1 member.
    pub fn most(members: u32) -> FaultModel {
        assert!(members > 0, "a run has a member");
        let byzantine = (members - 1) / 3;
        let crashed = (members - 3 * byzantine - 1) / 2;
        FaultModel { members, byzantine, crashed }
    }

    /// The number of members.
    pub fn members(self) -> u32 {
        self.members
    }

    /// The number of members that may be Byzantine.
    pub fn byzantine(self) -> u32 {
        self.byzantine
    }

    /// The number of further members that may be crashed or cut off.
    pub fn crashed(self) -> u32 {
        self.crashed
    }

    /// The number of members whose votes decide: any two quorums share an honest member.
    pub fn quorum(self) -> u32 {
        if mutant::is(Mutant::MajorityQuorum) {
            return self.members / 2 + 1;
        }
        let both = u64::from(self.members) + u64::from(self.byzantine);
        u32::try_from(both / 2 + 1).expect("at most the number of members")
    }

    /// The number of members that answer although all that may fail do: no set of contributions has fewer.
    pub fn answering(self) -> u32 {
        self.members - self.byzantine - self.crashed
    }

    /// The number of other members whose answers tell a member that lost its log what it may have signed: with it, they share
    /// an honest member with every quorum. It counts as crashed itself, or as Byzantine if none may crash.
    pub fn recovering(self) -> u32 {
        let both = u64::from(self.members) + u64::from(self.byzantine);
        let among = u32::try_from(both.div_ceil(2)).expect("at most the number of members");
        among.min(self.members) - u32::from(self.crashed == 0)
    }

    /// The number of members of which one is honest at least.
    pub fn certifying(self) -> u32 {
        if mutant::is(Mutant::OneCheck) {
            return 1;
        }
        self.byzantine + 1
    }
}

/// A run has too few members for the failures that it is to tolerate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{members} members do not tolerate {byzantine} Byzantine and {crashed} crashed ones, which needs {needed}: add members or \
     tolerate fewer"
)]
pub struct TooFewMembers {
    /// Members of the run.
    pub members: u32,
    /// Byzantine members to be tolerated.
    pub byzantine: u32,
    /// Crashed members to be tolerated.
    pub crashed: u32,
    /// The least number of members that tolerates them.
    pub needed: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quorums_are_those_of_the_papers() {
        for (members, byzantine, crashed, quorum) in [
            (4, 1, 0, 3),
            (4, 0, 1, 3),
            (5, 1, 0, 4),
            (5, 0, 2, 3),
            (7, 2, 0, 5),
            (7, 1, 1, 5),
            (10, 3, 0, 7),
            (64, 21, 0, 43),
            (64, 0, 31, 33),
            (1, 0, 0, 1),
        ] {
            let model = FaultModel::new(members, byzantine, crashed).expect("enough members");
            assert_eq!(model.quorum(), quorum, "{model:?}");
        }
    }

    #[test]
    fn too_few_members_are_refused_with_the_least_number() {
        let error = FaultModel::new(4, 1, 1).expect_err("6 are needed");
        assert_eq!(error.needed, 6);
        assert!(error.to_string().starts_with("4 members do not tolerate 1 Byzantine and 1 crashed ones"), "{error}");
        FaultModel::new(0, 0, 0).expect_err("nobody");
        FaultModel::new(u32::MAX, u32::MAX, u32::MAX).expect_err("no overflow");
    }

    proptest! {
        #[test]
        fn quorums_share_an_honest_member_and_can_be_reached(byzantine in 0u32..1000, crashed in 0u32..1000, more in 0u32..9) {
            let model = FaultModel::new(3 * byzantine + 2 * crashed + 1 + more, byzantine, crashed).expect("enough");
            prop_assert!(2 * model.quorum() > model.members() + byzantine);
            prop_assert!(model.answering() >= model.quorum());
            prop_assert!(model.answering() > 2 * byzantine);
            // Of those that answer, so many are in the quorum beside the member that asks, and none of them lost its log.
            let shared = model.quorum() - 1 + model.recovering() - (model.members() - 1);
            let liars = if crashed == 0 { byzantine.saturating_sub(1) } else { byzantine };
            prop_assert!(model.members() == 1 || shared > liars);
            prop_assert!(model.recovering() <= model.members() - 1 - liars - crashed.saturating_sub(1));
        }

        #[test]
        fn the_model_that_tolerates_most_is_valid_and_leaves_no_member(members in 1u32..10_000) {
            let model = FaultModel::most(members);
            prop_assert_eq!(FaultModel::new(members, model.byzantine(), model.crashed()), Ok(model));
            prop_assert!(FaultModel::new(members, model.byzantine() + 1, 0).is_err());
            prop_assert!(FaultModel::new(members, model.byzantine(), model.crashed() + 1).is_err());
        }
    }
}
