//! The functions of a job: their components, read and checked, and the rules of the built-in ones.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use skein_kernels::rule::{Rule, RuleKind};
use skein_kernels::rules::RULES;

use crate::manifest::{self, Manifest};

/// The setting that distinguishes two rules of one function: whether contributions are weighted by their samples.
const WEIGHTED: &str = "weighted";

/// A function of a job.
#[derive(Debug, Clone)]
pub struct Component {
    /// Name in the manifest.
    pub name: String,
    /// Its entry in the manifest, or the default one of a built-in function.
    pub function: manifest::Function,
    /// Bytes of the WebAssembly component.
    pub bytes: Vec<u8>,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: String,
}

/// The rule that a built-in aggregation function computes, with its settings.
#[derive(Debug, Clone)]
pub struct BuiltinRule(Rule);

impl Component {
    /// Reads the function of that name.
    ///
    /// # Errors
    /// The file cannot be read, or its digest is not the one in the manifest.
    pub fn read(manifest: &Manifest, name: &str) -> Result<Component> {
        let function = manifest.function(name).with_context(|| format!("there is no function `{name}`"))?;
        let bytes = function.read().with_context(|| {
            let hint = function.build.as_ref().map(|build| format!("; build it with `{}`", build.command));
            format!("failed to read function `{name}` from `{}`{}", function.source.display(), hint.unwrap_or_default())
        })?;
        let component = Component::new(name, function, bytes);
        if let Some(expected) = &component.function.digest {
            let actual = &component.digest;
            let wanted = expected.trim_start_matches("sha256:").to_ascii_lowercase();
            if wanted != *actual {
                bail!("function `{name}` has the digest {actual}, the manifest requires {wanted}");
            }
        }
        Ok(component)
    }

    /// A function whose component has these bytes.
    pub fn new(name: &str, function: manifest::Function, bytes: Vec<u8>) -> Component {
        let digest = sha256(&bytes);
        Component { name: name.to_owned(), function, bytes, digest }
    }
}

/// SHA-256 in hexadecimal digits: the identity of components and models.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl BuiltinRule {
    /// The rule of a function that is, byte for byte, a built-in aggregation function; it tolerates as many Byzantine peers
    /// as `train` expects.
    ///
    /// # Errors
    /// The settings are invalid for the rule, it tolerates no Byzantine peer, or it needs more peers than `train.peers`.
    pub(crate) fn of(component: &Component, train: &manifest::Train) -> Result<Option<BuiltinRule>> {
        let builtins = manifest::function::BUILTINS;
        let Some((name, _)) = builtins.into_iter().find(|(_, builtin)| *builtin == component.bytes) else {
            return Ok(None);
        };
        let kinds: Vec<_> = RULES.into_iter().filter(|kind| kind.function == name).collect();
        let Some(kind) = chosen(&kinds, component)? else { return Ok(None) };
        let mut settings = component.function.settings.iter();
        let set = |rule: Rule, (setting, value): (&String, &String)| {
            if setting == WEIGHTED && kinds.len() > 1 { Ok(rule) } else { rule.with(setting, value) }
        };
        let model = train.fault_model();
        let byzantine = model.byzantine();
        let rule = settings.try_fold(Rule::new(kind, byzantine), set);
        let rule = rule.with_context(|| format!("function `{}` has invalid settings", component.name))?;
        let name = &component.name;
        ensure!(
            byzantine == 0 || tolerates_liars(kind),
            "`train.byzantine` is {byzantine}{}, and function `{name}` tolerates no Byzantine peer, since it computes the rule \
             `{}`: set `byzantine = 0` or choose a robust rule as `train.aggregate`: {}",
            if train.byzantine.is_none() { " by default" } else { "" },
            kind.name,
            tolerant_functions()
        );
        let needed = u64::try_from(rule.rows_min())?;
        let (peers, crashed, answering) = (model.members(), model.crashed(), u64::from(model.answering()));
        ensure!(
            needed <= answering,
            "function `{name}` needs the contributions of {needed} peers to tolerate `byzantine = {byzantine}`, and \
             `train.peers` is {peers}, of which {} may be missing (`byzantine = {byzantine}` and `crashed = {crashed}`): it needs \
             at least {} peers; add peers, tolerate fewer, or choose another function",
            byzantine + crashed,
            needed + u64::from(byzantine) + u64::from(crashed),
        );
        Ok(Some(BuiltinRule(rule)))
    }

    /// The rule for contributions whose peers claim so many samples.
    pub fn kernel(&self, samples: &[u64]) -> Rule {
        let rule = self.0.clone();
        if rule.kind().takes_weights {
            rule.weighted(samples.iter().map(|samples| *samples as f32).collect())
        } else {
            rule
        }
    }
}

/// Whether a rule tolerates Byzantine peers: one that does needs more contributions for each of them.
fn tolerates_liars(kind: &'static RuleKind) -> bool {
    Rule::new(kind, 1).rows_min() > Rule::new(kind, 0).rows_min()
}

/// The built-in functions whose rules tolerate Byzantine peers, as the end of a sentence.
fn tolerant_functions() -> String {
    let kinds = RULES.into_iter().filter(|kind| tolerates_liars(kind));
    kinds.map(|kind| format!("`{}`", kind.function)).collect::<Vec<_>>().join(", ")
}

/// The rule that the settings choose among those of one function, if it has any.
///
/// # Errors
/// The setting that distinguishes the rules has an invalid value.
fn chosen(kinds: &[&'static RuleKind], component: &Component) -> Result<Option<&'static RuleKind>> {
    let [_, _, ..] = kinds else { return Ok(kinds.first().copied()) };
    let is_weighted = match component.function.settings.get(WEIGHTED).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            bail!("function `{}`: setting `{WEIGHTED}` must be `true` or `false`, got `{other}`", component.name)
        }
    };
    Ok(kinds.iter().copied().find(|kind| kind.takes_weights == is_weighted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Function, Train};

    fn rule(name: &str, settings: &[(&str, &str)], train: &Train) -> Result<Option<BuiltinRule>> {
        let mut function = Function::builtin(name).expect("it comes with the program");
        function.settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let bytes = function.read().expect("it is built in");
        BuiltinRule::of(&Component::new(name, function, bytes), train)
    }

    #[test]
    fn a_built_in_function_has_the_rule_of_its_settings() {
        let honest = Train { byzantine: Some(0), ..Train::default() };
        let name = |function, settings: &[_]| {
            let rule = rule(function, settings, &honest).expect("settings that fit");
            rule.map(|rule| rule.kernel(&[1, 2]).to_string())
        };
        assert_eq!(name("aggregate-mean", &[]).as_deref(), Some("mean"));
        assert_eq!(name("aggregate-mean", &[("weighted", "false")]).as_deref(), Some("mean"));
        assert_eq!(name("aggregate-mean", &[("weighted", "true")]).as_deref(), Some("weighted-mean"));
        assert_eq!(name("aggregate-median", &[]).as_deref(), Some("median"));
        // It needs three more than twice the liars, although one peer lies by its silence.
        let train = Train { peers: 6, byzantine: Some(1), crashed: Some(0), ..Train::default() };
        let krum = rule("aggregate-multi-krum", &[("selected", "1")], &train).expect("settings that fit");
        assert_eq!(krum.map(|rule| rule.kernel(&[]).to_string()).as_deref(), Some("multi-krum(selected=1)"));
        assert_eq!(name("gradient-mlp", &[]), None);
    }

    #[test]
    fn a_rule_that_tolerates_no_liar_is_refused_if_some_are_expected() {
        for (settings, name) in [(&[][..], "mean"), (&[("weighted", "true")], "weighted-mean")] {
            let train = Train { peers: 9, byzantine: Some(2), ..Train::default() };
            let refused = |train| rule("aggregate-mean", settings, train).expect_err("it tolerates none").to_string();
            assert_eq!(
                refused(&train),
                format!(
                    "`train.byzantine` is 2, and function `aggregate-mean` tolerates no Byzantine peer, since it computes the \
                     rule `{name}`: set `byzantine = 0` or choose a robust rule as `train.aggregate`: `aggregate-median`, \
                     `aggregate-trimmed-mean`, `aggregate-multi-krum`"
                )
            );
            assert!(refused(&Train::default()).starts_with("`train.byzantine` is 1 by default, and function "));
            let train = Train { byzantine: Some(0), ..train };
            assert!(rule("aggregate-mean", settings, &train).expect("none is expected").is_some());
        }
    }

    #[test]
    fn a_function_for_every_rule_comes_with_the_program() {
        for kind in RULES {
            assert!(Function::builtin(kind.function).is_some(), "`{}`", kind.function);
        }
    }

    #[test]
    fn invalid_settings_are_refused() {
        let refused = |function, settings: &[_], train: &Train| {
            format!("{:#}", rule(function, settings, train).expect_err("it is refused"))
        };
        let train = Train::default();
        assert_eq!(
            refused("aggregate-mean", &[("weighted", "yes")], &train),
            "function `aggregate-mean`: setting `weighted` must be `true` or `false`, got `yes`"
        );
        assert_eq!(
            refused("aggregate-median", &[("weighted", "true")], &train),
            "function `aggregate-median` has invalid settings: `median` takes no parameters, got `weighted`"
        );
        let enough = Train { peers: 6, byzantine: Some(1), crashed: Some(0), ..Train::default() };
        let prefix = "function `aggregate-multi-krum` has invalid settings: ";
        for (setting, value, message) in [
            ("neighbours", "0", "`neighbours` of `multi-krum` must be a whole number from 1 up, got `0`"),
            ("selected", "most", "`selected` of `multi-krum` must be a whole number from 1 up, got `most`"),
            ("neighbors", "3", "`multi-krum` has no parameter `neighbors`: it takes `neighbours`, `selected`"),
        ] {
            assert_eq!(refused("aggregate-multi-krum", &[(setting, value)], &enough), format!("{prefix}{message}"));
        }
        let needs = |settings: &[_], train: &Train| {
            let message = refused("aggregate-multi-krum", settings, train);
            message.split("contributions of ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned)
        };
        assert_eq!(needs(&[], &train).as_deref(), Some("5"));
        assert_eq!(needs(&[("neighbours", "5")], &enough).as_deref(), Some("7"));
        assert_eq!(needs(&[("selected", "7")], &enough).as_deref(), Some("8"));
        assert_eq!(
            refused("aggregate-multi-krum", &[], &train),
            "function `aggregate-multi-krum` needs the contributions of 5 peers to tolerate `byzantine = 1`, and `train.peers` is \
             4, of which 1 may be missing (`byzantine = 1` and `crashed = 0`): it needs at least 6 peers; add peers, tolerate \
             fewer, or choose another function"
        );
        for (peers, crashed) in [(6, 0), (7, 1)] {
            let train = |peers| Train { peers, byzantine: Some(1), crashed: Some(crashed), ..Train::default() };
            assert!(rule("aggregate-multi-krum", &[], &train(peers)).is_ok(), "n is 3b + c + 3");
            assert!(rule("aggregate-multi-krum", &[], &train(peers - 1)).is_err());
        }
    }
}
