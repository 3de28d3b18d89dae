//! Suggestions for names that do not exist: what other tools call a thing, and what a word was probably meant to be.

use serde_json::Value;
use skein_kernels::optimizer::OPTIMIZERS;

/// What other tools call the keys of a manifest.
const SYNONYMS: [(&str, &str); 20] = [
    ("batch", "batch_size"),
    ("byzantine", "faults"),
    ("clients", "peers"),
    ("cmd", "command"),
    ("dataset", "source"),
    ("epochs", "rounds"),
    ("gamma", "factor"),
    ("iterations", "rounds"),
    ("layers", "hidden"),
    ("lr", "learning_rate"),
    ("max_epochs", "rounds"),
    ("max_steps", "rounds"),
    ("minibatch_size", "batch_size"),
    ("nodes", "peers"),
    ("num_clients", "peers"),
    ("num_epochs", "rounds"),
    ("random_seed", "seed"),
    ("rmsprop", "adam"),
    ("steps", "rounds"),
    ("workers", "peers"),
];

/// Least similarity of two names (Jaro-Winkler, from 0 to 1) at which one is suggested for the other. Misspelt and
/// shortened keys of a manifest are above 0.82, words that have nothing in common with any key below 0.7.
const SIMILARITY_MIN: f64 = 0.8;

/// Tables whose keys people of other tools look for on the command line, and their names in the schema.
const TABLES: [(&str, &str); 3] = [("train", "Train"), ("model", "Model"), ("data", "Data")];

/// `; did you mean …?` with the known name that other tools call `name`, or the one most like it; nothing if none is alike.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(name, &known.collect::<Vec<_>>()).map_or_else(String::new, |known| format!("; did you mean `{known}`?"))
}

/// As [`did_you_mean`]; if no name is alike, all that are known.
pub(crate) fn did_you_mean_or_choose<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    if let Some(known) = nearest(name, &known) {
        return format!("; did you mean `{known}`?");
    }
    let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
    format!("; choose one of {}", known.join(", "))
}

/// The key of a manifest, with its tables, that an option of another tool's command line sets: `train.learning_rate` for
/// `--lr` and for `--learning-rate`.
pub fn key_of_option(option: &str) -> Option<String> {
    let name = option.trim_start_matches('-').replace('-', "_");
    let name = synonym(&name).unwrap_or(&name);
    if name == "optimizer" {
        return Some("train.optimizer.name".to_owned());
    }
    let schema = super::schema();
    let has = |table: &str| matches!(&schema["$defs"][table]["properties"][name], Value::Object(_));
    if let Some((table, _)) = TABLES.into_iter().find(|(_, definition)| has(definition)) {
        return Some(format!("{table}.{name}"));
    }
    let mut constants = OPTIMIZERS.iter().flat_map(|kind| kind.constants);
    constants.find(|constant| constant.name == name).map(|_| format!("train.optimizer.{name}"))
}

fn synonym(name: &str) -> Option<&'static str> {
    SYNONYMS.iter().find(|(other, _)| *other == name).map(|(_, own)| *own)
}

/// The name among those known that was probably meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let own = synonym(name).and_then(|own| known.iter().find(|known| **known == own));
    let similar = known.iter().map(|known| (strsim::jaro_winkler(name, known), known));
    let similar = similar.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN);
    let most = || similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known);
    own.or_else(most).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_is_alike_is_suggested() {
        let known = ["peers", "faults", "rounds", "batch_size", "learning_rate", "optimizer", "clip_norm", "seed"];
        for (name, expected) in [
            ("pears", Some("peers")),
            ("batchsize", Some("batch_size")),
            ("learn_rate", Some("learning_rate")),
            ("optimiser", Some("optimizer")),
            ("clip", Some("clip_norm")),
            ("epochs", Some("rounds")),
            ("foo_bar", None),
            ("shuffle", None),
            ("device", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
        assert_eq!(did_you_mean("device", known.into_iter()), "");
        assert_eq!(did_you_mean_or_choose("c", ["a", "b"].into_iter()), "; choose one of `a`, `b`");
    }

    #[test]
    fn options_of_other_tools_have_keys() {
        for (option, expected) in [
            ("--lr", Some("train.learning_rate")),
            ("--learning-rate", Some("train.learning_rate")),
            ("--batch-size", Some("train.batch_size")),
            ("--epochs", Some("train.rounds")),
            ("--optimizer", Some("train.optimizer.name")),
            ("--momentum", Some("train.optimizer.momentum")),
            ("--weight-decay", Some("train.optimizer.weight_decay")),
            ("--loss", Some("model.loss")),
            ("--dataset", Some("data.source")),
            ("--verbose", None),
            ("--", None),
        ] {
            assert_eq!(key_of_option(option).as_deref(), expected, "{option}");
        }
    }
}
