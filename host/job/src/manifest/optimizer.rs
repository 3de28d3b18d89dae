//! How `train.optimizer` is written in a manifest: a table with an optimizer's name and constants.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Error, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serializer};
use serde_json::{Map, Value, json};
use skein_kernels::optimizer::{OPTIMIZERS, Optimizer, OptimizerKind, named};

use super::suggest::listed;

/// The key of the table in a manifest, for errors.
const KEY: &str = "train.optimizer";
/// The key of the name; all others are constants.
const NAME: &str = "name";

pub(super) fn serialize<S: Serializer>(optimizer: &Optimizer, serializer: S) -> Result<S::Ok, S::Error> {
    let constants = optimizer.constants();
    let mut map = serializer.serialize_map(Some(1 + constants.len()))?;
    map.serialize_entry(NAME, optimizer.kind().name)?;
    for (name, value) in constants {
        map.serialize_entry(name, &value)?;
    }
    map.end()
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Optimizer, D::Error> {
    struct Table;

    impl<'de> Visitor<'de> for Table {
        type Value = Optimizer;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table with the `name` of an optimizer and its constants")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Optimizer, E> {
            let all = || OPTIMIZERS.map(|kind| kind.name).join("|");
            let name = named(&text.to_ascii_lowercase()).map_or_else(|_| all(), |kind| kind.name.to_owned());
            let table = format!("a table for `{KEY}`: write `optimizer = {{ name = \"{name}\" }}`");
            Err(E::invalid_type(Unexpected::Str(text), &table.as_str()))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Optimizer, A::Error> {
            let mut kind = None;
            let mut constants = Vec::new();
            let mut others = Vec::new();
            while let Some(key) = map.next_key::<String>()? {
                if key == NAME {
                    kind = Some(known(&map.next_value::<String>()?)?);
                } else if with_constant(&key).next().is_some() {
                    constants.push((key, map.next_value::<f32>()?));
                } else {
                    // Of any type, since the problem is the key.
                    map.next_value::<IgnoredAny>()?;
                    others.push(key);
                }
            }
            let kind = kind.ok_or_else(|| {
                A::Error::custom(format!(
                    "`{KEY}`: missing field `{NAME}`, one of {}",
                    listed(&OPTIMIZERS.map(|kind| kind.name))
                ))
            })?;
            if let Some(key) = others.first() {
                return Err(unknown(kind, key));
            }
            constants
                .into_iter()
                .try_fold(Optimizer::new(kind), |optimizer, (name, value)| set(optimizer, &name, value))
        }
    }

    deserializer.deserialize_map(Table)
}

/// The optimizer of that name. An unknown name is reported as `serde` does, so that the nearest name is found.
fn known<E: Error>(name: &str) -> Result<&'static OptimizerKind, E> {
    let names = listed(&OPTIMIZERS.map(|kind| kind.name));
    named(name).map_err(|_| E::custom(format!("`{KEY}`: unknown variant `{name}`, expected one of {names}")))
}

fn set<E: Error>(optimizer: Optimizer, name: &str, value: f32) -> Result<Optimizer, E> {
    if !optimizer.constants().any(|(known, _)| known == name) {
        return Err(unknown(optimizer.kind(), name));
    }
    optimizer.with(name, value).map_err(|error| E::custom(format!("`{KEY}`: {error}")))
}

/// The optimizers that have a constant of that name.
fn with_constant(name: &str) -> impl Iterator<Item = &'static OptimizerKind> {
    OPTIMIZERS.into_iter().filter(move |kind| kind.constants.iter().any(|constant| constant.name == name))
}

/// A key that the optimizer does not have, reported as `serde` does after the name of the table, so that the nearest key is
/// found.
fn unknown<E: Error>(kind: &OptimizerKind, key: &str) -> E {
    let constants = kind.constants.iter().map(|constant| constant.name);
    let known = listed(&[NAME].into_iter().chain(constants).collect::<Vec<_>>());
    let others = listed(&with_constant(key).map(|kind| kind.name).collect::<Vec<_>>());
    let others = if others.is_empty() { others } else { format!("; optimizers that have it: {others}") };
    let name = kind.name;
    E::custom(format!("`{KEY}` with the name `{name}`: unknown field `{key}`, expected one of {known}{others}"))
}

pub(super) fn schema(_generator: &mut SchemaGenerator) -> Schema {
    let tables: Vec<Value> = OPTIMIZERS.iter().map(|kind| table(kind)).collect();
    json_schema!({ "oneOf": tables })
}

fn table(kind: &OptimizerKind) -> Value {
    let constants = kind.constants.iter().map(|constant| {
        let mut schema = json!({
            "description": constant.about,
            "type": "number",
            "format": "float",
            "default": constant.default,
            "minimum": constant.range.start,
        });
        if constant.range.end.is_finite() {
            schema["exclusiveMaximum"] = constant.range.end.into();
        }
        (constant.name.to_owned(), schema)
    });
    let name = (NAME.to_owned(), json!({ "type": "string", "const": kind.name }));
    json!({
        "description": kind.about,
        "type": "object",
        "properties": constants.chain([name]).collect::<Map<_, _>>(),
        "additionalProperties": false,
        "required": [NAME],
    })
}
