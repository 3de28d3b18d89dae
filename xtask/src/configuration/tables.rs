//! Tables of the keys of a manifest, from its JSON schema.

use serde_json::Value;

/// The page with the tables.
pub(crate) const PAGE: &str = "docs/configuration.md";
/// What is before and after the tables on the page.
const MARKS: [&str; 2] = ["<!-- tables: cargo xtask configuration -->\n", "<!-- end of tables -->\n"];

/// The page with other tables between its marks; `None` if it has no marks.
pub(crate) fn replaced(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    Some([before, MARKS[0], tables, MARKS[1], after].concat())
}

/// A table for each table of the manifest that `schema` describes.
pub(crate) fn of(schema: &Value) -> String {
    let mut tables = Tables { schema, text: String::new() };
    tables.add("The top level", "", schema);
    tables.text
}

struct Tables<'a> {
    schema: &'a Value,
    text: String,
}

impl<'a> Tables<'a> {
    /// Adds the table with the keys of `object`, whose path in a manifest is `path`, and the tables below it.
    fn add(&mut self, title: &str, path: &str, object: &'a Value) {
        let description = text(object, "description");
        self.text +=
            &format!("\n### {title}\n\n{description}\n\n| key | type | default | meaning |\n|---|---|---|---|\n");
        let is_needed = |key: &str| list(&object["required"]).any(|needed| needed == key);
        let mut below = Vec::new();
        for (key, property) in entries(&object["properties"]) {
            let (inner, kind) = self.resolve(property);
            let title = match kind {
                Kind::Value => String::new(),
                Kind::Table => format!("{path}{key}"),
                Kind::Named => format!("{path}{key}.<name>"),
                Kind::Array => format!("{path}{key}[]"),
            };
            if kind != Kind::Value {
                below.push((title.clone(), inner));
            }
            let ty = if kind == Kind::Value { type_of(inner) } else { format!("table `{title}`") };
            let default = match &property["default"] {
                _ if is_needed(key) => "needed".into(),
                _ if kind != Kind::Value => String::new(),
                Value::Null => String::new(),
                value => format!("`{}`", short(value, property)),
            };
            let meaning = [text(property, "description"), choices(inner)].concat();
            self.text += &format!("| `{key}` | {ty} | {default} | {meaning} |\n");
        }
        for (title, inner) in below {
            if inner["oneOf"].is_array() {
                self.add_variants(&title, inner);
            } else {
                self.add(&format!("`{title}`"), &format!("{title}."), inner);
            }
        }
    }

    /// Adds a table of tables that differ by their `name`.
    fn add_variants(&mut self, title: &str, inner: &Value) {
        self.text += &format!(
            "\n### `{title}`\n\n{}\n\n| `name` | other keys and their defaults | meaning |\n|---|---|---|\n",
            text(inner, "description")
        );
        for variant in list_values(&inner["oneOf"]) {
            let name = variant["properties"]["name"]["const"].as_str().unwrap_or_default();
            let keys = entries(&variant["properties"]).filter(|(key, _)| *key != "name");
            let keys: Vec<String> =
                keys.map(|(key, property)| format!("`{key} = {}`", short(&property["default"], property))).collect();
            self.text += &format!("| `{name}` | {} | {} |\n", keys.join(", "), text(variant, "description"));
        }
    }

    /// What a property is made of, past references and `null`.
    fn resolve(&self, property: &'a Value) -> (&'a Value, Kind) {
        let referred = |value: &'a Value| {
            let reference = value["$ref"].as_str()?.strip_prefix("#/$defs/")?;
            Some(&self.schema["$defs"][reference])
        };
        let kind_of = |inner: &'a Value, kind: Kind| {
            if inner["properties"].is_object() { (inner, kind) } else { (inner, Kind::Value) }
        };
        let whole = referred(property).or_else(|| list_values(&property["anyOf"]).find_map(referred));
        if let Some(inner) = whole {
            return kind_of(inner, Kind::Table);
        }
        if let Some(inner) = referred(&property["additionalProperties"]) {
            return kind_of(inner, Kind::Named);
        }
        if let Some(inner) = referred(&property["items"]) {
            return kind_of(inner, Kind::Array);
        }
        if list_values(&property["oneOf"]).any(|variant| variant["properties"].is_object()) {
            return (property, Kind::Table);
        }
        (property, Kind::Value)
    }
}

/// What the value of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value,
    Table,
    /// A table of tables with names of the user's choice.
    Named,
    /// A list of tables.
    Array,
}

fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn list_values(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}

fn list(array: &Value) -> impl Iterator<Item = &str> {
    list_values(array).filter_map(Value::as_str)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().replace('\n', " ")
}

fn type_of(value: &Value) -> String {
    let own = value["type"].as_str().or_else(|| list(&value["type"]).find(|ty| *ty != "null"));
    match own {
        _ if value["oneOf"].is_array() || value["enum"].is_array() => "name".into(),
        Some("array") => format!("list of {}s", value["items"]["type"].as_str().unwrap_or("table")),
        Some("object") => "table of strings".into(),
        Some(own) => own.into(),
        None => String::new(),
    }
}

/// The names that a value may have, with what they mean.
fn choices(value: &Value) -> String {
    let described = list_values(&value["oneOf"])
        .filter_map(|choice| Some(format!(" `{}`: {}", choice["const"].as_str()?, text(choice, "description"))));
    let plain: Vec<String> = list(&value["enum"]).map(|name| format!("`{name}`")).collect();
    let plain = if plain.is_empty() { String::new() } else { format!(" One of {}.", plain.join(", ")) };
    described.collect::<String>() + &plain
}

/// A default as a manifest has it; 32-bit floats with the digits that they need.
fn short(value: &Value, property: &Value) -> String {
    match value.as_f64() {
        Some(number) if property["format"] == "float" => format!("{}", number as f32),
        Some(number) if value.is_f64() => format!("{number}"),
        _ => value.to_string(),
    }
}
