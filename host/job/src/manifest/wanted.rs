//! The type of a key's values, read from the schema of manifests, and how a value of it is written on the command line.

use std::collections::BTreeSet;

use humantime_serde::re::humantime;
use serde_json::Value as Json;
use toml::Value;

use super::overrides;
use super::suggest::listed;

/// Largest integer of TOML, which has 64 bits and a sign.
const INTEGER_MAX: u64 = i64::MAX.unsigned_abs();

/// What a key takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    Text,
    /// One of these texts.
    Name(Vec<String>),
    Whole {
        min: u64,
        max: u64,
    },
    Number,
    Boolean,
    Duration,
    List(Box<Wanted>),
    /// Values for these keys; for any key if there are none.
    Table(Vec<String>),
}

impl Wanted {
    /// What the key with that path takes, durations as text; `None` if there is no such key.
    pub(super) fn of<S: AsRef<str>>(path: &[S]) -> Option<Wanted> {
        let root = super::schema();
        let mut found = vec![&root];
        for key in path {
            found = found.into_iter().flat_map(|table| alternatives(member(table, key.as_ref()), &root)).collect();
        }
        Wanted::described_by(&found, &root)
    }

    fn described_by(alternatives_of_key: &[&Json], root: &Json) -> Option<Wanted> {
        let schemas = alternatives_of_key.iter().copied();
        let (schema, kind) = schemas.clone().find_map(|schema| Some((schema, kind(schema)?)))?;
        Some(match kind {
            "string" => {
                let names: Vec<String> = schemas.flat_map(names).collect();
                if names.is_empty() { Wanted::Text } else { Wanted::Name(names) }
            }
            "integer" => {
                let largest = if schema["format"] == "uint32" { u32::MAX.into() } else { INTEGER_MAX };
                let min = schema["minimum"].as_u64().unwrap_or_default();
                Wanted::Whole { min, max: schema["maximum"].as_u64().unwrap_or(largest) }
            }
            "number" => Wanted::Number,
            "boolean" => Wanted::Boolean,
            "array" => Wanted::List(Box::new(Wanted::described_by(&alternatives(&schema["items"], root), root)?)),
            "object" => {
                let tables = schemas.filter_map(|schema| schema["properties"].as_object());
                let keys: BTreeSet<String> = tables.flat_map(|table| table.keys().cloned()).collect();
                Wanted::Table(keys.into_iter().collect())
            }
            _ => return None,
        })
    }

    /// Whether a value has this type; values inside of it may have others than they should.
    pub(super) fn takes(&self, value: &Value) -> bool {
        match (self, value) {
            (Wanted::Whole { min, max }, Value::Integer(number)) => {
                u64::try_from(*number).is_ok_and(|number| (*min..=*max).contains(&number))
            }
            (Wanted::Duration, Value::String(text)) => humantime::parse_duration(text).is_ok(),
            (Wanted::Text | Wanted::Name(_), Value::String(_))
            | (Wanted::Number, Value::Integer(_) | Value::Float(_))
            | (Wanted::Boolean, Value::Boolean(_))
            | (Wanted::List(_), Value::Array(_))
            | (Wanted::Table(_), Value::Table(_)) => true,
            _ => false,
        }
    }

    /// How the value that `text` seems to mean is written after `KEY=`; `None` if it means none of this type.
    pub(super) fn written(&self, text: &str) -> Option<String> {
        let meant = self.meant(text.trim())?;
        let bare: &str = if let Value::String(meant) = &meant { meant } else { text.trim() };
        let is_read = overrides::value(bare).is_ok_and(|read| read == meant);
        Some(if is_read { bare.to_owned() } else { meant.to_string() })
    }

    fn meant(&self, text: &str) -> Option<Value> {
        Some(match self {
            Wanted::Text => Value::from(text),
            Wanted::Name(names) => {
                let name = text.to_ascii_lowercase().replace('_', "-");
                names.iter().find(|known| **known == name).map(|known| Value::from(known.as_str()))?
            }
            Wanted::Whole { min, max } => {
                let number = text.parse::<u64>().ok().filter(|number| (min..=max).contains(&number))?;
                Value::Integer(i64::try_from(number).ok()?)
            }
            Wanted::Number => Value::Float(text.parse::<f64>().ok().filter(|number| number.is_finite())?),
            Wanted::Boolean => Value::Boolean(match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => true,
                "false" | "no" | "off" => false,
                _ => return None,
            }),
            // A number without a unit is in seconds nearly everywhere.
            Wanted::Duration if text.parse::<u64>().is_ok() => Value::String(format!("{text}s")),
            Wanted::Duration => Value::from(humantime::parse_duration(text).is_ok().then_some(text)?),
            Wanted::List(items) => {
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
                let texts = inner.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(texts.map(|item| items.item(item)).collect::<Option<_>>()?)
            }
            Wanted::Table(_) => return None,
        })
    }

    /// An item of a list, which may be written in TOML.
    fn item(&self, text: &str) -> Option<Value> {
        let read = overrides::value(text).ok().filter(|read| self.takes(read));
        read.or_else(|| self.meant(text))
    }

    /// What stands for a value if none is known: an example, or all that are valid.
    pub(super) fn example(&self) -> String {
        match self {
            Wanted::Text => "TEXT".to_owned(),
            Wanted::Name(names) => names.join("|"),
            Wanted::Whole { .. } => "3".to_owned(),
            Wanted::Number => "0.5".to_owned(),
            Wanted::Boolean => "true|false".to_owned(),
            Wanted::Duration => "10s".to_owned(),
            Wanted::List(items) if **items == Wanted::Text => "[\"TEXT\"]".to_owned(),
            Wanted::List(items) => format!("[{}]", items.example()),
            Wanted::Table(_) => "{ KEY = VALUE }".to_owned(),
        }
    }

    /// In the words of a message.
    pub(super) fn described(&self) -> String {
        match self {
            Wanted::Text => "text".to_owned(),
            Wanted::Name(names) => format!("one of {}", listed(names)),
            Wanted::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Wanted::Number => "a number".to_owned(),
            Wanted::Boolean => "`true` or `false`".to_owned(),
            Wanted::Duration => "a duration".to_owned(),
            Wanted::List(_) => "a list".to_owned(),
            Wanted::Table(_) => "a table".to_owned(),
        }
    }
}

/// The schema of a key in a table, null if it has none.
fn member<'a>(table: &'a Json, key: &str) -> &'a Json {
    table["properties"].get(key).unwrap_or(&table["additionalProperties"])
}

/// The schemas that a schema refers to or chooses from.
fn alternatives<'a>(schema: &'a Json, root: &'a Json) -> Vec<&'a Json> {
    let reference = schema["$ref"].as_str().and_then(|reference| root.pointer(reference.trim_start_matches('#')));
    if let Some(definition) = reference {
        return alternatives(definition, root);
    }
    match schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        Some(choices) => choices.iter().flat_map(|choice| alternatives(choice, root)).collect(),
        None => vec![schema],
    }
}

/// The type that a schema names, beside null.
fn kind(schema: &Json) -> Option<&str> {
    let kinds = schema["type"].as_array().map_or(std::slice::from_ref(&schema["type"]), Vec::as_slice);
    kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null")
}

/// The only texts that a schema allows; none if it allows all.
fn names(schema: &Json) -> Vec<String> {
    let choices = schema["enum"].as_array().map_or(std::slice::from_ref(&schema["const"]), Vec::as_slice);
    choices.iter().filter_map(Json::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_the_schema() {
        let names = |names: &[&str]| Wanted::Name(names.iter().map(|name| (*name).to_owned()).collect());
        let keys = |keys: &[&str]| Wanted::Table(keys.iter().map(|key| (*key).to_owned()).collect());
        let of = |key: &str| Wanted::of(&key.split('.').collect::<Vec<_>>());
        for (key, expected) in [
            ("application.version", Wanted::Text),
            ("data.source", Wanted::Text),
            ("function.own.settings.any", Wanted::Text),
            ("train.peers", Wanted::Whole { min: 1, max: 500 }),
            ("train.batch_size", Wanted::Whole { min: 1, max: 1 << 20 }),
            ("data.test_samples", Wanted::Whole { min: 0, max: u64::from(u32::MAX) }),
            ("train.seed", Wanted::Whole { min: 0, max: 9_223_372_036_854_775_807 }),
            ("train.clip_norm", Wanted::Number),
            ("train.optimizer.beta1", Wanted::Number),
            ("train.optimizer.name", names(&["sgd", "momentum", "nesterov", "adam", "adamw"])),
            ("model.network", names(&["convnet", "mlp"])),
            ("model.loss", names(&["cross-entropy", "mean-squared-error", "binary-cross-entropy"])),
            ("model.dropout", Wanted::Boolean),
            ("model.hidden", Wanted::List(Box::new(Wanted::Whole { min: 0, max: u64::from(u32::MAX) }))),
            ("model.freeze", Wanted::List(Box::new(Wanted::Text))),
            ("model.parameters", Wanted::List(Box::new(keys(&["init", "name", "shape"])))),
            ("train.early_stopping", keys(&["min_delta", "patience"])),
            ("train.wait", keys(&["max", "min", "silent"])),
            ("function", keys(&[])),
        ] {
            assert_eq!(of(key), Some(expected), "{key}");
        }
        for key in ["trian", "train.lr", "train.peers.x", "data.folder"] {
            assert_eq!(of(key), None, "{key}");
        }
    }

    #[test]
    fn a_value_is_written_as_it_is_meant() {
        let bytes = Wanted::Whole { min: 1, max: 255 };
        let list = |items: &Wanted| Wanted::List(Box::new(items.clone()));
        for (wanted, text, expected) in [
            (&bytes, "04", Some("4")),
            (&bytes, "255", Some("255")),
            (&bytes, "256", None),
            (&bytes, "0", None),
            (&bytes, "-1", None),
            (&Wanted::Number, ".5", Some("0.5")),
            (&Wanted::Number, "1e-3", Some("1e-3")),
            (&Wanted::Number, "nan", None),
            (&Wanted::Boolean, "False", Some("false")),
            (&Wanted::Boolean, "on", Some("true")),
            (&Wanted::Boolean, "0.5", None),
            (&Wanted::Duration, "10", Some("10s")),
            (&Wanted::Duration, "2m", Some("2m")),
            (&Wanted::Duration, "soon", None),
            (&Wanted::Text, "1.10", Some("\"1.10\"")),
            (&Wanted::Text, "a b", Some("a b")),
            (&Wanted::Name(vec!["cross-entropy".to_owned()]), "Cross_Entropy", Some("cross-entropy")),
            (&Wanted::Name(vec!["cross-entropy".to_owned()]), "hinge", None),
            (&list(&bytes), "64", Some("[64]")),
            (&list(&bytes), "64,32", Some("[64, 32]")),
            (&list(&bytes), "[64,32]", Some("[64,32]")),
            (&list(&bytes), "wide", None),
            (&list(&Wanted::Text), "body.*", Some("[\"body.*\"]")),
            (&list(&Wanted::Table(Vec::new())), "3", None),
            (&Wanted::Table(Vec::new()), "3", None),
        ] {
            assert_eq!(wanted.written(text).as_deref(), expected, "{wanted:?} {text}");
        }
    }
}
