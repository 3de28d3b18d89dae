//! Suggestions for names that do not exist: what other tools call a thing, and what a word was probably meant to be.

use skein_kernels::optimizer::{MOMENTUM, OPTIMIZERS, OptimizerKind};

use super::quoted;
use super::wanted::Wanted;

/// What other tools call the keys and functions of a manifest; of several for one name, the likeliest is first.
const SYNONYMS: [(&str, &str); 31] = [
    ("average", "aggregate-mean"),
    ("batch", "batch_size"),
    ("betas", "beta1"),
    ("clients", "peers"),
    ("cmd", "command"),
    ("dataset", "source"),
    ("epochs", "rounds"),
    ("eps", "epsilon"),
    ("faults", "byzantine"),
    ("faults", "crashed"),
    ("fedavg", "aggregate-mean"),
    ("gamma", "factor"),
    ("iterations", "rounds"),
    ("krum", "aggregate-multi-krum"),
    ("layers", "hidden"),
    ("liars", "byzantine"),
    ("local_epochs", "batches_per_round"),
    ("local_steps", "batches_per_round"),
    ("lr", "learning_rate"),
    ("min_lr", "learning_rate_min"),
    ("minibatch_size", "batch_size"),
    ("nodes", "peers"),
    ("path", "source"),
    ("path", "onnx"),
    ("random_seed", "seed"),
    ("rmsprop", "adam"),
    ("steps", "rounds"),
    ("val_split", "validation"),
    ("validation_fraction", "validation"),
    ("validation_split", "validation"),
    ("workers", "peers"),
];

/// What other tools put before the name of a count.
const COUNTS: [&str; 3] = ["num_", "n_", "max_"];

/// What the names of a kind of thing begin with, and users leave out.
const KINDS: [&str; 3] = ["builtin:", "aggregate-", "gradient-"];

/// Least similarity of two names (Jaro-Winkler, from 0 to 1) at which one is suggested for the other. Misspelt and
/// shortened keys of a manifest are above 0.82, words that have nothing in common with any key below 0.7.
const SIMILARITY_MIN: f64 = 0.8;

/// Tables whose keys people of other tools look for on the command line and in other tables.
const TABLES: [&str; 3] = ["train", "model", "data"];

/// What the keys of an optimizer's constants begin with.
const OPTIMIZER: &str = "train.optimizer.";

/// `; did you mean …?` with the known name that other tools call `name`, or the one most like it; nothing if none is alike.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    meant(exact(name, &known).or_else(|| similar(name, &known)))
}

/// As [`did_you_mean`], for a key: a table that does not know it may have been taken for another one that does.
pub(super) fn did_you_mean_key<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let own: Vec<&str> = all_exact(key, &known).collect();
    if !own.is_empty() {
        return meant(Some(&own.join("` or `")));
    }
    // A constant that one optimizer lacks is in no other table.
    let is_optimizer = known.iter().any(|known| optimizer_with(known).is_some());
    let elsewhere = key_of_option(key).filter(|key| !(is_optimizer && key.starts_with(OPTIMIZER)));
    meant(elsewhere.as_deref().or_else(|| similar(key, &known)))
}

/// As [`did_you_mean`]; if no name is alike, all that are known.
pub(crate) fn did_you_mean_or_choose<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    match exact(name, &known).or_else(|| similar(name, &known)) {
        None => format!("; choose one of {}", listed(&known)),
        nearest => meant(nearest),
    }
}

fn meant(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Names for a message, in backticks.
pub(super) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    names.join(", ")
}

/// The key of a manifest, with its tables, that an option of another tool's command line sets: `train.learning_rate` for
/// `--lr` and for `--learning-rate`.
pub fn key_of_option(option: &str) -> Option<String> {
    let option = option.trim_start_matches('-').replace('-', "_");
    meanings(&option).find_map(|name| {
        if name == "optimizer" {
            return Some(format!("{OPTIMIZER}name"));
        }
        let table = TABLES.into_iter().find(|table| Wanted::of(&[*table, name]).is_some());
        let key = table.map(|table| format!("{table}.{name}"));
        key.or_else(|| optimizer_with(name).map(|_| format!("{OPTIMIZER}{name}")))
    })
}

/// How a key of a manifest is set to a value that was given for it, or to any value, as a tip of the command line.
pub fn how_to_set(key: &str, given: Option<&str>) -> String {
    let wanted = Wanted::of(&key.split('.').collect::<Vec<_>>());
    let example = match &wanted {
        Some(Wanted::Table(keys)) => {
            let keys = listed(keys);
            return format!(
                "`{key}` is a table of the manifest with the keys {keys}: set them there, or here with `--set {key}.KEY=VALUE`"
            );
        }
        Some(Wanted::List(items)) if matches!(**items, Wanted::Table(_)) => {
            return format!("`{key}` is a list of tables of the manifest: set it there");
        }
        Some(Wanted::List(_)) => "[VALUE]".to_owned(),
        Some(wanted @ (Wanted::Name(_) | Wanted::Boolean)) => wanted.example(),
        _ => "VALUE".to_owned(),
    };
    let value = wanted.zip(given).and_then(|(wanted, given)| wanted.written(given)).unwrap_or(example);
    let set = format!("--set {}", quoted(&format!("{key}={value}")));
    let here = format!("`{key}` is a key of the manifest: set it there, or here with");
    match key.strip_prefix(OPTIMIZER).and_then(optimizer_with) {
        Some(OptimizerKind { name, .. }) => {
            format!("{here} `--set {OPTIMIZER}name={name} {set}` (without the name if the manifest has one)")
        }
        None => format!("{here} `{set}`"),
    }
}

/// An optimizer that has the constant; the default one if it has it.
fn optimizer_with(constant: &str) -> Option<&'static OptimizerKind> {
    let mut kinds = [&MOMENTUM].into_iter().chain(OPTIMIZERS);
    kinds.find(|kind| kind.constants.iter().any(|known| known.name == constant))
}

/// What a name may mean, the likeliest first: what it stands for in other tools, and itself, each also without `num_`.
fn meanings(name: &str) -> impl Iterator<Item = &str> {
    spellings(name).flat_map(|name| {
        let own = SYNONYMS.into_iter().filter(move |(other, _)| *other == name).map(|(_, own)| own);
        own.chain([name])
    })
}

/// The name, and what follows `num_` in it.
fn spellings(name: &str) -> impl Iterator<Item = &str> {
    let counted = COUNTS.into_iter().find_map(|count| name.strip_prefix(count));
    [Some(name), counted].into_iter().flatten()
}

/// The name among those known that the name means.
fn exact<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    all_exact(name, known).next()
}

/// All names among those known that the name may mean, the likeliest first.
fn all_exact<'a>(name: &str, known: &[&'a str]) -> impl Iterator<Item = &'a str> {
    let name = name.to_ascii_lowercase();
    let meant: Vec<&str> =
        meanings(&name).filter_map(|meaning| known.iter().find(|known| **known == meaning)).copied().collect();
    meant.into_iter()
}

/// The name among those known that is most like the name.
fn similar<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = &name.to_ascii_lowercase();
    let most_alike = |known: &str| spellings(name).map(|name| similarity(name, known)).fold(0.0, f64::max);
    let similar = known.iter().map(|known| (most_alike(known), *known));
    let similar = similar.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN);
    similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// How alike two names are. That both begin with the name of their kind does not count, nor that one leaves it out.
fn similarity(name: &str, known: &str) -> f64 {
    let Some((kind, rest)) = KINDS.into_iter().find_map(|kind| Some((kind, known.strip_prefix(kind)?))) else {
        return strsim::jaro_winkler(name, known);
    };
    match name.strip_prefix(kind) {
        // Jaro-Winkler finds names as short as `mlp` and `mpl` unlike.
        Some(name) if rest.len() > 2 && strsim::osa_distance(name, rest) == 1 => 1.0,
        Some(name) => strsim::jaro_winkler(name, rest),
        None => strsim::jaro_winkler(name, known).max(strsim::jaro_winkler(name, rest)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::{Manifest, Override};

    #[test]
    fn only_a_name_that_is_alike_is_suggested() {
        let known = ["peers", "crashed", "rounds", "batch_size", "learning_rate", "optimizer", "clip_norm", "seed"];
        for (name, expected) in [
            ("pears", Some("peers")),
            ("batchsize", Some("batch_size")),
            ("learn_rate", Some("learning_rate")),
            ("optimiser", Some("optimizer")),
            ("clip", Some("clip_norm")),
            ("epochs", Some("rounds")),
            ("num_rounds", Some("rounds")),
            ("max_epochs", Some("rounds")),
            ("n_peers", Some("peers")),
            ("foo_bar", None),
            ("shuffle", None),
            ("device", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(exact(name, &known).or_else(|| similar(name, &known)), expected, "{name}");
        }
        assert_eq!(did_you_mean("device", known.into_iter()), "");
        assert_eq!(did_you_mean_or_choose("c", ["a", "b"].into_iter()), "; choose one of `a`, `b`");
    }

    #[test]
    fn the_name_of_the_kind_does_not_make_names_alike() {
        let known = ["gradient-mlp", "aggregate-mean", "aggregate-median", "aggregate-multi-krum", "builtin:digits"];
        for (name, expected) in [
            ("mean", Some("aggregate-mean")),
            ("krum", Some("aggregate-multi-krum")),
            ("multi_krum", Some("aggregate-multi-krum")),
            ("agregate-median", Some("aggregate-median")),
            ("gradient-mpl", Some("gradient-mlp")),
            ("builtin:digit", Some("builtin:digits")),
            ("builtin:mnist", None),
            ("aggregate-majority", None),
        ] {
            assert_eq!(exact(name, &known).or_else(|| similar(name, &known)), expected, "{name}");
        }
    }

    #[test]
    fn a_key_of_another_table_is_suggested_with_its_table() {
        let mean = |key: &str, known: &[&'static str]| did_you_mean_key(key, known.iter().copied());
        assert_eq!(mean("loss", &["peers", "wait"]), "; did you mean `model.loss`?");
        assert_eq!(mean("momentum", &["peers", "wait"]), "; did you mean `train.optimizer.momentum`?");
        assert_eq!(mean("max_epochs", &["peers", "rounds"]), "; did you mean `rounds`?");
        assert_eq!(mean("lr", &["name", "weight_decay"]), "; did you mean `train.learning_rate`?");
        assert_eq!(mean("momentum", &["weight_decay"]), "", "another optimizer's");
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
            ("--num-rounds", Some("train.rounds")),
            ("--local-epochs", Some("train.batches_per_round")),
            ("--validation-split", Some("data.validation")),
            ("--dataset", Some("data.source")),
            ("--verbose", None),
            ("--", None),
        ] {
            assert_eq!(key_of_option(option).as_deref(), expected, "{option}");
        }
    }
    /// The values that a tip tells to set, which the shell reads without their quotes.
    fn commands(tip: &str) -> Vec<String> {
        let words = tip.split_once("`--set ").expect("a tip to set a key").1.split('`').next().expect("a first part");
        words.split(" --set ").map(|word| word.trim_matches('\'').to_owned()).collect()
    }

    #[test]
    fn what_a_tip_tells_is_accepted() {
        const MINIMAL: &str =
            "skein_manifest_version = 1\n[application]\nname = \"a\"\n[data]\nsource = \"builtin:digits\"\n";
        for (option, given, expected) in [
            ("--lr", "0.1", &["train.learning_rate=0.1"][..]),
            ("--lr", ".1", &["train.learning_rate=0.1"]),
            ("--batch-size", "064", &["train.batch_size=64"]),
            ("--hidden", "64", &["model.hidden=[64]"]),
            ("--layers", "64,32", &["model.hidden=[64, 32]"]),
            ("--freeze", "body.*", &["model.freeze=[\"body.*\"]"]),
            ("--dropout", "False", &["model.dropout=false"]),
            ("--loss", "cross_entropy", &["model.loss=cross-entropy"]),
            ("--optimizer", "Adam", &["train.optimizer.name=adam"]),
            ("--momentum", "0.9", &["train.optimizer.name=momentum", "train.optimizer.momentum=0.9"]),
            ("--weight-decay", "1e-4", &["train.optimizer.name=momentum", "train.optimizer.weight_decay=1e-4"]),
            ("--beta1", "0.9", &["train.optimizer.name=adam", "train.optimizer.beta1=0.9"]),
            ("--dataset", "a b", &["data.source=a b"]),
            ("--aggregate", "aggregate-mean", &["train.aggregate=aggregate-mean"]),
        ] {
            let tip = how_to_set(&key_of_option(option).expect(option), Some(given));
            let commands = commands(&tip);
            assert_eq!(commands, expected, "{tip}");
            let sets: Vec<Override> = commands.iter().map(|set| set.parse().expect(set)).collect();
            Manifest::parse_with(MINIMAL, Path::new("skein.toml"), &sets).expect(option);
        }
    }

    #[test]
    fn a_tip_names_no_value_that_would_be_refused() {
        for (key, given, expected) in [
            (
                "train.wait",
                Some("5"),
                "the keys `max`, `min`, `silent`: set them there, or here with `--set train.wait.KEY=VALUE`",
            ),
            ("train.early_stopping", Some("5"), "is a table of the manifest with the keys `min_delta`, `patience`: "),
            ("model.parameters", Some("3"), "`model.parameters` is a list of tables of the manifest: set it there"),
            ("train.batch_size", Some("big"), "here with `--set train.batch_size=VALUE`"),
            ("train.learning_rate", None, "here with `--set train.learning_rate=VALUE`"),
            ("model.hidden", None, "here with `--set 'model.hidden=[VALUE]'`"),
            ("model.dropout", Some("0.5"), "here with `--set 'model.dropout=true|false'`"),
            ("train.optimizer.name", Some("lion"), "`--set 'train.optimizer.name=sgd|momentum|nesterov|adam|adamw'`"),
        ] {
            let tip = how_to_set(key, given);
            assert!(tip.contains(expected), "{tip}");
        }
    }
}
