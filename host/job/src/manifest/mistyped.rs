//! A value of another type than its key takes, explained in the words of the command line: the parser of TOML knows
//! neither the key nor the shell, which removes quotes.

use toml::Value;

use super::quoted;
use super::suggest::listed;
use super::wanted::Wanted;

/// The parser's `problem` with `value`, which the command line set for the key `path` and the user wrote as `given`.
/// `None` if its problem is not the type of this value.
pub(super) fn explained(path: &[String], value: &Value, given: &str, problem: &str) -> Option<String> {
    let is_type = ["invalid type: ", "invalid value: "].iter().any(|kind| problem.starts_with(kind));
    let wanted = match Wanted::of(path).filter(|_| is_type)? {
        // The schema has no type for durations.
        Wanted::Text if problem.ends_with(", expected a duration") => Wanted::Duration,
        wanted => wanted,
    };
    // The problem may also be one of a value inside this one.
    if wanted.takes(value) {
        return None;
    }
    let key = path.iter().map(|part| part_of_key(part)).collect::<Vec<_>>().join(".");
    // Quotes that TOML removed say nothing about what was meant.
    let text: &str = if let Value::String(text) = value { text } else { given };
    let written = |wanted: &Wanted| wanted.written(text).unwrap_or_else(|| wanted.example());
    let mut keys_of_table = String::new();
    let set = match &wanted {
        Wanted::Table(keys) => match Wanted::of(&[path, &["name".to_owned()]].concat()) {
            Some(name @ Wanted::Name(_)) => format!("{key}.name={}", written(&name)),
            _ => {
                if !keys.is_empty() {
                    keys_of_table = format!(", where KEY is one of {}", listed(keys));
                }
                format!("{key}.KEY=VALUE")
            }
        },
        Wanted::Text if matches!(value, Value::Array(_) | Value::Table(_)) => format!("{key}={}", wanted.example()),
        _ => format!("{key}={}", written(&wanted)),
    };
    let wanted = wanted.described();
    let got = described(value, given);
    Some(format!("`{key}` must be {wanted}, got {got}: write `--set {}`{keys_of_table}", quoted(&set)))
}

/// A part of a dotted key as TOML reads it.
fn part_of_key(part: &str) -> String {
    let is_bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { part.to_owned() } else { Value::from(part).to_string() }
}

fn described(value: &Value, given: &str) -> String {
    match value {
        Value::String(text) => format!("the text `{text}`"),
        Value::Integer(_) | Value::Float(_) => format!("the number {given}"),
        Value::Boolean(flag) => format!("`{flag}`"),
        Value::Datetime(_) => format!("the date {given}"),
        Value::Array(_) => format!("the list `{value}`"),
        Value::Table(_) => format!("the table `{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::manifest::{Manifest, Override};

    const MINIMAL: &str =
        "skein_manifest_version = 1\n[application]\nname = \"a\"\n[data]\nsource = \"builtin:digits\"\n";

    fn parse(set: &str) -> Result<Manifest, String> {
        let set: Override = set.parse()?;
        Manifest::parse_with(MINIMAL, Path::new("skein.toml"), &[set]).map_err(|error| error.to_string())
    }

    /// Shells remove one layer of quotes, so that `name="3"` arrives as a number.
    #[test]
    fn a_value_of_another_type_is_reported_with_the_way_to_write_it() {
        let count = "a whole number from 1 to 500";
        let seed = "a whole number from 0 to 9223372036854775807";
        for (set, wanted, got, remedy) in [
            ("application.version=3", "text", "the number 3", "'application.version=\"3\"'"),
            ("application.version=1.10", "text", "the number 1.10", "'application.version=\"1.10\"'"),
            ("application.version=true", "text", "`true`", "'application.version=\"true\"'"),
            ("application.version=[1]", "text", "the list `[1]`", "application.version=TEXT"),
            ("data.source=5", "text", "the number 5", "'data.source=\"5\"'"),
            ("train.peers=four", count, "the text `four`", "train.peers=3"),
            ("train.peers=\"4\"", count, "the text `4`", "train.peers=4"),
            ("train.peers=04", count, "the text `04`", "train.peers=4"),
            ("train.peers=-1", count, "the number -1", "train.peers=3"),
            ("train.peers=4294967296", count, "the number 4294967296", "train.peers=3"),
            ("train.batch_size=big", "a whole number from 1 to 1048576", "the text `big`", "train.batch_size=3"),
            ("train.seed=1.5", seed, "the number 1.5", "train.seed=3"),
            ("train.seed=18446744073709551615", seed, "the text `18446744073709551615`", "train.seed=3"),
            ("train.learning_rate=fast", "a number", "the text `fast`", "train.learning_rate=0.5"),
            ("train.learning_rate='0.1'", "a number", "the text `0.1`", "train.learning_rate=0.1"),
            ("train.learning_rate=.5", "a number", "the text `.5`", "train.learning_rate=0.5"),
            ("model.dropout=no", "`true` or `false`", "the text `no`", "model.dropout=false"),
            ("model.dropout=False", "`true` or `false`", "the text `False`", "model.dropout=false"),
            ("model.dropout=on", "`true` or `false`", "the text `on`", "model.dropout=true"),
            ("model.dropout=0.5", "`true` or `false`", "the number 0.5", "'model.dropout=true|false'"),
            ("model.network=3", "one of `convnet`, `mlp`", "the number 3", "'model.network=convnet|mlp'"),
            ("model.hidden=16", "a list", "the number 16", "'model.hidden=[16]'"),
            ("model.hidden=wide", "a list", "the text `wide`", "'model.hidden=[3]'"),
            ("train.optimizer=adam", "a table", "the text `adam`", "train.optimizer.name=adam"),
            ("train.wait.min=10", "a duration", "the number 10", "train.wait.min=10s"),
            ("train.wait.min=soon", "a duration", "the text `soon`", "train.wait.min=10s"),
            ("function.\"a.b\".source=5", "text", "the number 5", "'function.\"a.b\".source=\"5\"'"),
        ] {
            let key = set.split_once('=').expect("a value").0;
            let expected = format!("`--set {set}`: `{key}` must be {wanted}, got {got}: write `--set {remedy}`");
            assert_eq!(parse(set).expect_err(set), expected);
            // What it says to write has the right type, unless it lists all valid values.
            let written = remedy.trim_matches('\'');
            assert_ne!(written, set);
            let error = parse(written).err().filter(|_| !written.contains('|')).unwrap_or_default();
            assert!(!error.contains(&format!(" must be {wanted}")) && !error.contains("invalid type"), "{error}");
        }
    }

    #[test]
    fn a_value_for_a_table_is_answered_with_the_keys_of_the_table() {
        for (set, expected) in [
            (
                "train.wait=5",
                "`train.wait` must be a table, got the number 5: write `--set train.wait.KEY=VALUE`, where KEY is one of `max`, \
                 `min`, `silent`",
            ),
            ("data=3", "write `--set data.KEY=VALUE`, where KEY is one of `classes`, `label_column`, "),
            ("function=3", "`function` must be a table, got the number 3: write `--set function.KEY=VALUE`"),
        ] {
            let error = parse(set).expect_err(set);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_problem_inside_of_a_value_keeps_its_words() {
        let error = parse("model.hidden=[\"a\"]").expect_err("not a number");
        assert!(error.contains("invalid type: string \"a\", expected u32"), "{error}");
        let error = parse("train.optimizer={ name = 3 }").expect_err("not a name");
        assert!(error.contains("invalid type: integer `3`, expected a string"), "{error}");
    }
}
