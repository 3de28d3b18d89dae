//! How `model.loss` is written in a manifest: by its name in the graph crate.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};
use skein_graph::{LOSSES, Loss};

pub(super) fn serialize<S: Serializer>(loss: &Loss, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(loss)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Loss, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

pub(super) fn schema(_generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": LOSSES.map(|(name, _)| name) })
}
