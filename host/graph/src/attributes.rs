//! A node's attributes, typed and by name.

use std::collections::BTreeMap;

use crate::constant::Constant;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attribute {
    Int(i64),
    Float(f32),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Tensor(Constant),
}

/// Attributes of one node, ordered by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Attributes(BTreeMap<String, Attribute>);

impl Attributes {
    /// Adds or replaces the attribute `name`.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Attribute>) -> Attributes {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Attribute> {
        self.0.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Attribute)> {
        self.0.iter()
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        match self.0.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Attribute::Text(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.0.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }
}

impl From<i64> for Attribute {
    fn from(value: i64) -> Attribute {
        Attribute::Int(value)
    }
}

impl From<f32> for Attribute {
    fn from(value: f32) -> Attribute {
        Attribute::Float(value)
    }
}

impl From<&str> for Attribute {
    fn from(value: &str) -> Attribute {
        Attribute::Text(value.to_owned())
    }
}

impl From<Vec<i64>> for Attribute {
    fn from(values: Vec<i64>) -> Attribute {
        Attribute::Ints(values)
    }
}

impl From<Constant> for Attribute {
    fn from(tensor: Constant) -> Attribute {
        Attribute::Tensor(tensor)
    }
}
