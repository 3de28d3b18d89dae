//! How `train.optimizer` is written in a manifest: a table with an optimizer's name and constants.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serializer};
use serde_json::{Map, Value, json};
use skein_kernels::optimizer::{OPTIMIZERS, Optimizer, OptimizerKind, named};

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

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Optimizer, A::Error> {
            let mut kind = None;
            let mut constants = Vec::new();
            while let Some(key) = map.next_key::<String>()? {
                if key == NAME {
                    kind = Some(known(&map.next_value::<String>()?)?);
                } else {
                    constants.push((key, map.next_value::<f32>()?));
                }
            }
            let optimizer = Optimizer::new(kind.ok_or_else(|| A::Error::missing_field(NAME))?);
            constants.into_iter().try_fold(optimizer, |optimizer, (name, value)| set(optimizer, &name, value))
        }
    }

    deserializer.deserialize_map(Table)
}

/// The optimizer of that name. An unknown name is reported as `serde` does, so that the nearest name is found.
fn known<E: Error>(name: &str) -> Result<&'static OptimizerKind, E> {
    let names = OPTIMIZERS.map(|kind| format!("`{}`", kind.name)).join(", ");
    named(name).map_err(|_| E::custom(format!("unknown variant `{name}`, expected one of {names}")))
}

fn set<E: Error>(optimizer: Optimizer, name: &str, value: f32) -> Result<Optimizer, E> {
    let known: Vec<String> = optimizer.constants().map(|(name, _)| format!("`{name}`")).collect();
    if !optimizer.constants().any(|(known, _)| known == name) {
        return Err(E::custom(format!("unknown field `{name}`, expected one of {}", known.join(", "))));
    }
    optimizer.with(name, value).map_err(E::custom)
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
