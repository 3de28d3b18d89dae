//! Values that replace those of a manifest, as the command line sets them.
//!
//! They are applied to the parsed TOML before the manifest is read from it, so that an unknown key or a wrong value gets
//! the same error as in a file.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use toml::{Table, Value};

use super::{Manifest, ManifestError, hint, mistyped};

/// What precedes a key and its value on the command line.
const SET: &str = "--set ";

/// A value for one key of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Names of the tables, the outermost first, and of the key in the innermost one.
    path: Vec<String>,
    value: Value,
    /// Keys of the innermost table that stay; `None` if all do.
    kept: Option<&'static [&'static str]>,
    /// The option as the user wrote it, for errors.
    option: String,
}

impl Override {
    /// Sets the key `path`, because of the command line's `option`.
    pub fn new(path: [&str; 2], value: impl Into<Value>, option: String) -> Override {
        Override { path: path.map(str::to_owned).to_vec(), value: value.into(), kept: None, option }
    }

    /// The same, which also removes all other keys of the innermost table but these.
    pub fn keeping(self, kept: &'static [&'static str]) -> Override {
        Override { kept: Some(kept), ..self }
    }

    /// Sets the value in the tables of a manifest.
    ///
    /// # Errors
    /// A key on the way is not a table.
    pub(super) fn apply(&self, manifest: &mut Table) -> Result<(), String> {
        let (key, tables) = self.path.split_last().expect("a path has a key");
        let mut table = manifest;
        for name in tables {
            let inner = table.entry(name).or_insert_with(|| Table::new().into());
            table = inner.as_table_mut().ok_or_else(|| format!("`{name}` is not a table"))?;
        }
        if let Some(kept) = self.kept {
            table.retain(|key, _| kept.contains(&key));
        }
        table.insert(key.clone(), self.value.clone());
        Ok(())
    }

    /// The value as the user wrote it, for errors.
    fn given(&self) -> String {
        let set = self.option.strip_prefix(SET).and_then(|set| set.split_once('='));
        set.map_or_else(|| self.value.to_string(), |(_, value)| value.trim().to_owned())
    }
}

impl fmt::Display for Override {
    /// As [`Override::from_str`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.option.strip_prefix(SET).unwrap_or(&self.option))
    }
}

impl Manifest {
    /// As [`Manifest::parse`], with `overrides` in place of values. An error names the first of them from which on the
    /// manifest has it, or the file if it has it too.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse_with(text: &str, path: &Path, overrides: &[Override]) -> Result<Manifest, ManifestError> {
        let mut parsed = Manifest::parse(text, path);
        let Ok(mut table) = toml::from_str::<Table>(text) else { return parsed };
        let mut last_problem = Manifest::from_table(table.clone()).err();
        for set in overrides {
            let failed = |problem: String| {
                let problem = mistyped::explained(&set.path, &set.value, &set.given(), &problem).unwrap_or(problem);
                ManifestError::Override { option: set.option.clone(), problem }
            };
            set.apply(&mut table).map_err(failed)?;
            match Manifest::from_table(table.clone()) {
                Ok(manifest) => {
                    parsed = Ok(manifest);
                    last_problem = None;
                }
                Err(problem) if last_problem.as_ref() == Some(&problem) => {}
                Err(problem) => {
                    last_problem = Some(problem.clone());
                    parsed = Err(failed(problem));
                }
            }
        }
        parsed
    }

    /// Reads and checks a manifest from parsed TOML.
    ///
    /// # Errors
    /// The problem, with its key.
    fn from_table(table: toml::Table) -> Result<Manifest, String> {
        let manifest: Manifest =
            table.try_into().map_err(|error: toml::de::Error| format!("{}{}", error.message(), hint(&error)))?;
        manifest.check().map_err(|(key, problem)| format!("`{key}` {problem}"))?;
        Ok(manifest)
    }
}

impl FromStr for Override {
    type Err = String;

    /// Parses a dotted key and a TOML value, such as `train.learning_rate=0.05`; a bare word is text.
    fn from_str(text: &str) -> Result<Override, String> {
        const EXAMPLE: &str = "expected a key and a value, such as `train.learning_rate=0.05`";
        let (key, value) = text.split_once('=').ok_or(EXAMPLE)?;
        let path = path(key.trim()).ok_or(EXAMPLE)?;
        Ok(Override { path, value: self::value(value.trim())?, kept: None, option: format!("{SET}{text}") })
    }
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The parts of a dotted key; a part in quotes may contain dots.
fn path(key: &str) -> Option<Vec<String>> {
    let mut inner: Value = toml::from_str::<Table>(&format!("{key} = 0")).ok()?.into();
    let mut path = Vec::new();
    while let Value::Table(table) = inner {
        let mut entries = table.into_iter();
        let (name, value) = entries.next()?;
        // A key with a line break would set several.
        if entries.next().is_some() {
            return None;
        }
        path.push(name);
        inner = value;
    }
    Some(path)
}

/// The value as TOML; a bare word is text.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    match parsed {
        Ok(mut table) if table.len() == 1 => Ok(table.remove("value").expect("the only key")),
        Err(error) if text.starts_with(['"', '\'', '[', '{']) => {
            Err(format!("`{text}` is not a TOML value: {}", error.message()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        "skein_manifest_version = 1\n[application]\nname = \"a\"\n[data]\nsource = \"builtin:digits\"\n";

    #[track_caller]
    fn sets(text: &str, expected: &str) {
        let mut table = toml::from_str("[train]\nrounds = 3\n[train.optimizer]\nname = \"sgd\"\n").expect("TOML");
        text.parse::<Override>().expect(text).apply(&mut table).expect(text);
        assert_eq!(table, toml::from_str(expected).expect("TOML"), "{text}");
    }

    #[test]
    fn a_value_replaces_the_one_of_its_key_alone() {
        let optimizer = "[train.optimizer]\nname = \"sgd\"\n";
        sets("train.rounds=5", &format!("[train]\nrounds = 5\n{optimizer}"));
        sets(" train.rounds = 5 ", &format!("[train]\nrounds = 5\n{optimizer}"));
        sets("train.optimizer.name=adam", "[train]\nrounds = 3\n[train.optimizer]\nname = \"adam\"\n");
        sets(
            "train.optimizer={ name = \"adam\", beta1 = 0.5 }",
            "[train]\nrounds = 3\n[train.optimizer]\nname = \"adam\"\nbeta1 = 0.5\n",
        );
        sets("data.source=a=b", &format!("[train]\nrounds = 3\n{optimizer}[data]\nsource = \"a=b\"\n"));
        sets(
            "function.\"my.own\".source=a",
            &format!("[train]\nrounds = 3\n{optimizer}[function.\"my.own\"]\nsource = \"a\"\n"),
        );
    }

    #[test]
    fn values_are_toml_and_bare_words_are_text() {
        let value = |text: &str| text.parse::<Override>().map(|set| set.value);
        for (text, expected) in [
            ("a=3", Value::Integer(3)),
            ("a=1e-3", Value::Float(1e-3)),
            ("a=true", Value::Boolean(true)),
            ("a=adam", Value::String("adam".into())),
            ("a=10m", Value::String("10m".into())),
            ("a='10'", Value::String("10".into())),
            ("a=", Value::String(String::new())),
            ("a=[\"b.*\"]", Value::Array(vec![Value::String("b.*".into())])),
            ("a=x\nb = 3", Value::String("x\nb = 3".into())),
        ] {
            assert_eq!(value(text).as_ref(), Ok(&expected), "{text}");
        }
        for text in ["", "=3", "train.rounds", "a..b=3", "a b=3", "a\nb=3", "a=[1", "a=\"x", "a={b}"] {
            assert!(value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_below_a_value_is_refused() {
        let mut table = toml::from_str("train = 3").expect("TOML");
        let set: Override = "train.rounds=5".parse().expect("a key and a value");
        assert_eq!(set.apply(&mut table), Err("`train` is not a table".to_owned()));
    }

    #[test]
    fn overrides_get_the_errors_of_a_file() {
        let parse = |text: &str, sets: &[&str]| {
            let sets: Vec<Override> = sets.iter().map(|set| set.parse().expect(set)).collect();
            Manifest::parse_with(text, Path::new("skein.toml"), &sets).map_err(|error| error.to_string())
        };
        let set = |sets: &[&str]| parse(MINIMAL, sets);
        let manifest = set(&["train.rounds=5", "train.rounds=7", "train.optimizer.name=adam"]).expect("valid");
        assert_eq!(manifest.train.rounds, 7);
        assert_eq!(manifest.train.optimizer.kind().name, "adam");
        for (sets, expected) in [
            (&["train.lr=0.1"][..], "`--set train.lr=0.1`: unknown field `lr`"),
            (&["train.lr=0.1"], "; did you mean `learning_rate`?"),
            (
                &["train.rounds=5", "train.peers=0"],
                "`--set train.peers=0`: `train.peers` must be between 1 and 500, got 0",
            ),
            (&["train.peers=0", "train.rounds=5"], "`--set train.peers=0`: `train.peers` must be"),
            (&["train.peers=four"], "`--set train.peers=four`: `train.peers` must be a whole number"),
            (&["data=3"], "`--set data=3`: `data` must be a table"),
            (&["data.source.x=3"], "`--set data.source.x=3`: `source` is not a table"),
        ] {
            let error = set(sets).expect_err("refused");
            assert!(error.contains(expected), "{sets:?}: {error}");
        }
        // A value may complete or correct the file; a problem that the file has is its own.
        let headless = MINIMAL.replace("[data]\nsource = \"builtin:digits\"\n", "");
        assert!(parse(&headless, &["data.source=builtin:digits"]).is_ok());
        let error = parse(&headless, &["train.rounds=5"]).expect_err("no data");
        assert!(error.starts_with("`skein.toml` is not a valid manifest: "), "{error}");
        let error = parse(&headless, &["train.lr=3", "data.source=builtin:digits"]).expect_err("an unknown key");
        assert!(error.contains("--set train.lr=3"), "{error}");
        let broken = parse("a = [", &["train.rounds=5"]).expect_err("not TOML");
        assert!(broken.starts_with("`skein.toml` is not a valid manifest: "), "{broken}");
    }

    #[test]
    fn words_are_quoted_if_a_shell_would_change_them() {
        for (word, expected) in [
            ("train.learning_rate=0.05", "train.learning_rate=0.05"),
            ("runs/a", "runs/a"),
            ("a b", "'a b'"),
            ("model.freeze=[\"a.*\"]", "'model.freeze=[\"a.*\"]'"),
            ("it's", "'it'\\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
