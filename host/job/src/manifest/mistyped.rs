//! A value of another type than its key takes, explained in the words of the command line: the parser of TOML knows
//! neither the key nor the shell, which removes quotes.

use toml::Value;

use super::quoted;

/// What a key takes, in the parser's words, in ours, and as an example of a value in TOML; no example for a table.
const WANTED: [(&str, &str, &str); 10] = [
    ("a string", "text", ""),
    ("path string", "text", ""),
    ("u32", "a whole number from 0 to 4294967295", "3"),
    ("u64", "a whole number from 0 up", "3"),
    ("f32", "a number", "0.5"),
    ("f64", "a number", "0.5"),
    ("a boolean", "`true` or `false`", "true"),
    ("a duration", "a duration", "10s"),
    ("a sequence", "a list", ""),
    ("", "a table", ""),
];

/// The parser's `problem` with `value`, which the command line set for the key `path`. `None` if its problem is not the type
/// of this value.
pub(super) fn explained(path: &[String], value: &Value, problem: &str) -> Option<String> {
    let kinds = ["invalid type: ", "invalid value: "];
    let (got, expected) = kinds.iter().find_map(|kind| problem.strip_prefix(kind))?.rsplit_once(", expected ")?;
    // The problem may also be one of a value inside this one.
    let is_own = match value {
        Value::Array(_) => got.starts_with("sequence"),
        Value::Table(_) => got.starts_with("map"),
        _ => true,
    };
    let is_table = expected.starts_with("struct ") || expected.starts_with("a map") || expected.starts_with("a table");
    let entry = WANTED.iter().find(|(parsers, ..)| *parsers == if is_table { "" } else { expected });
    let (parsers, wanted, example) = *entry.filter(|_| is_own)?;
    let key = path.iter().map(|part| part_of_key(part)).collect::<Vec<_>>().join(".");
    let text = match (parsers, value) {
        ("", _) => format!("{key}.KEY=VALUE"),
        ("a string" | "path string", Value::Array(_) | Value::Table(_)) => format!("{key}=TEXT"),
        ("a string" | "path string", _) => format!("{key}=\"{value}\""),
        ("a sequence", _) => format!("{key}=[{value}]"),
        // It is right but for its quotes.
        (_, Value::String(text)) if is_of(wanted, text) => format!("{key}={text}"),
        _ => format!("{key}={example}"),
    };
    Some(format!("`{key}` must be {wanted}, got {}: write `--set {}`", described(value), quoted(&text)))
}

/// A part of a dotted key as TOML reads it.
fn part_of_key(part: &str) -> String {
    let is_bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { part.to_owned() } else { Value::from(part).to_string() }
}

/// Whether text without its quotes is a number or a truth value, as the key takes it.
fn is_of(wanted: &str, text: &str) -> bool {
    if wanted.starts_with("a whole number") {
        text.parse::<u64>().is_ok()
    } else if wanted == "a number" {
        text.parse::<f64>().is_ok_and(f64::is_finite)
    } else {
        wanted.contains('`') && text.parse::<bool>().is_ok()
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text `{text}`"),
        Value::Integer(_) | Value::Float(_) => format!("the number {value}"),
        Value::Boolean(flag) => format!("`{flag}`"),
        Value::Datetime(date) => format!("the date {date}"),
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
    fn a_value_of_another_type_is_told_with_the_way_to_write_it() {
        for (set, problem, remedy) in [
            ("application.version=3", "text, got the number 3", "'application.version=\"3\"'"),
            ("application.version=true", "text, got `true`", "'application.version=\"true\"'"),
            ("application.version=[1]", "text, got the list `[1]`", "application.version=TEXT"),
            ("data.source=5", "text, got the number 5", "'data.source=\"5\"'"),
            ("train.peers=four", "a whole number from 0 to 4294967295, got the text `four`", "train.peers=3"),
            ("train.peers=\"4\"", "a whole number from 0 to 4294967295, got the text `4`", "train.peers=4"),
            ("train.peers=-1", "a whole number from 0 to 4294967295, got the number -1", "train.peers=3"),
            ("train.seed=1.5", "a whole number from 0 up, got the number 1.5", "train.seed=3"),
            ("train.learning_rate=fast", "a number, got the text `fast`", "train.learning_rate=0.5"),
            ("train.learning_rate='0.1'", "a number, got the text `0.1`", "train.learning_rate=0.1"),
            ("model.dropout=no", "`true` or `false`, got the text `no`", "model.dropout=true"),
            ("model.hidden=16", "a list, got the number 16", "'model.hidden=[16]'"),
            ("train.optimizer=adam", "a table, got the text `adam`", "train.optimizer.KEY=VALUE"),
            ("train.wait.min=10", "a duration, got the number 10", "train.wait.min=10s"),
            ("data=3", "a table, got the number 3", "data.KEY=VALUE"),
            ("function.\"a.b\".source=5", "text, got the number 5", "'function.\"a.b\".source=\"5\"'"),
        ] {
            let key = set.split_once('=').expect("a value").0;
            let expected = format!("`--set {set}`: `{key}` must be {problem}: write `--set {remedy}`");
            assert_eq!(parse(set).expect_err(set), expected);
            // What it says to write has the right type, where it names a value.
            let written = remedy.trim_matches('\'');
            let error = parse(written).err().filter(|_| !written.contains("KEY")).unwrap_or_default();
            assert!(!error.contains(" must be a") && !error.contains("must be text"), "{error}");
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
