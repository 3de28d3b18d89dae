//! All aggregation rules: built-in functions, database commands and text forms are derived from this table.
//!
//! A new rule needs a function, a [`RuleKind`] beside it with its name and parameters, and an entry here.

use crate::mean::{MEAN, WEIGHTED_MEAN};
use crate::multi_krum::MULTI_KRUM;
use crate::order::{MEDIAN, TRIMMED_MEAN};
use crate::rule::{Rule, RuleKind};
use crate::text::{self, TextError};

/// All rules, in the order in which messages list them.
pub static RULES: [&RuleKind; 5] = [&MEAN, &WEIGHTED_MEAN, &MEDIAN, &TRIMMED_MEAN, &MULTI_KRUM];

/// The rule of that name.
///
/// # Errors
/// No rule has that name.
pub fn named(name: &str) -> Result<&'static RuleKind, TextError> {
    let found = RULES.into_iter().find(|kind| kind.name == name);
    found.ok_or_else(|| text::unknown("rule", name, RULES.into_iter().map(|kind| kind.name)))
}

/// Parses a text form into a rule that tolerates `faults` Byzantine peers.
///
/// # Errors
/// The rule or a parameter is unknown, or a value is invalid.
pub fn parse(text: &str, faults: u32) -> Result<Rule, TextError> {
    let (name, list) = text::split(text)?;
    let kind = named(name)?;
    let names: Vec<&str> = kind.parameters.iter().map(|parameter| parameter.name).collect();
    let given = names.iter().zip(text::values(name, &names, list)?);
    let mut set = given.filter_map(|(parameter, value)| Some((parameter, value?)));
    set.try_fold(Rule::new(kind, faults), |rule, (parameter, value)| rule.with(parameter, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_and_a_function_of_its_own() {
        for kind in RULES {
            let found = named(kind.name).expect("a rule");
            assert!(std::ptr::eq(found, kind), "`{}` is the name of two rules", kind.name);
            let alike = RULES
                .iter()
                .filter(|other| other.function == kind.function && other.takes_weights == kind.takes_weights);
            assert_eq!(alike.count(), 1, "`{}` does what two rules do", kind.function);
        }
        let error = named("mode").expect_err("it is not known").to_string();
        assert!(error.starts_with("there is no rule `mode`: choose one of `mean`, `weighted-mean`, "), "{error}");
    }

    #[test]
    fn every_text_form_is_read_back() {
        for kind in RULES {
            for set in 0..1 << kind.parameters.len() {
                let given = kind.parameters.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
                let rule = given.fold(Rule::new(kind, 2), |rule, (index, parameter)| {
                    rule.with(parameter.name, &(index + 7).to_string()).expect("it fits")
                });
                assert_eq!(parse(&rule.to_string(), 2), Ok(rule.clone()), "{rule}");
            }
        }
        for text in ["mean()", "mean(a=1)", "mean(", "Mean", ""] {
            assert!(parse(text, 0).is_err(), "{text}");
        }
    }
}
