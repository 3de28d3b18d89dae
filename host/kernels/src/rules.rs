//! All aggregation rules: the table from which built-in functions, commands of the database and texts follow.
//!
//! A new rule is a function, a [`RuleKind`] beside it that says what it is called and takes, and a line here.

use crate::mean::{MEAN, WEIGHTED_MEAN};
use crate::order::{MEDIAN, TRIMMED_MEAN};
use crate::rule::RuleKind;

/// All rules.
pub static RULES: [&RuleKind; 4] = [&MEAN, &WEIGHTED_MEAN, &MEDIAN, &TRIMMED_MEAN];

/// The rule of that name.
pub fn named(name: &str) -> Option<&'static RuleKind> {
    RULES.into_iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_found_by_its_name_and_one_function_does_what_it_does() {
        for kind in RULES {
            let found = named(kind.name).expect("a rule");
            assert!(std::ptr::eq(found, kind), "`{}` is the name of two rules", kind.name);
            let alike = RULES
                .iter()
                .filter(|other| other.function == kind.function && other.takes_weights == kind.takes_weights);
            assert_eq!(alike.count(), 1, "`{}` does what two rules do", kind.function);
        }
        assert!(named("mode").is_none());
    }
}
