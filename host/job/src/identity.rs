//! What identifies a job and a run of it: named values with one canonical encoding, whose hash is the identity.
//!
//! The *job identity* covers what changes a bit of the result: the model, the functions with their settings, the data and
//! `[train]` without `rounds`, `wait` and `peers`. It covers no path and no name. The *run id* adds who takes part: the
//! roster, each member's commitment to private data, the number of the run and the run that it continues under other
//! settings, if any. Records, database keys and checkpoints carry the run id.
//!
//! The values are kept beside the hash, so that two that differ can be told apart by key.
//!
//! Encoding, version 1, integers little-endian: a version byte, the number of entries (4 bytes), then the entries in
//! ascending order of their keys: length of the key (2 bytes), key, tag (1 byte), value. Values by tag: 0 a boolean (1
//! byte), 1 a whole number (8 bytes), 2 a finite floating-point number other than -0 (the 8 bytes of its IEEE 754 bits), 3
//! text (length in 4 bytes, UTF-8), 4 a digest (32 bytes).

mod ancestor;
mod covered;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;
use skein_types::Digest;

pub use ancestor::Ancestor;
pub(crate) use covered::{of_job, of_run};

/// Version of the encoding.
const VERSION: u8 = 1;
/// Digits of a digest that people compare. Two digests that agree in 64 bits by chance are not to be expected.
const DIGITS_SHOWN: usize = 16;
/// Differences that are listed: a changed model may differ in each of its parameters.
const DIFFERENCES_MAX: usize = 12;

/// Named values that identify a job or a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identifier {
    values: BTreeMap<String, IdentityValue>,
}

/// One value of an [`Identifier`].
#[derive(Debug, Clone, PartialEq)]
pub enum IdentityValue {
    /// A setting that is on or off.
    Flag(bool),
    /// A number without fraction and sign.
    Whole(u64),
    /// A finite floating-point number other than -0.
    Float(f64),
    /// Text, such as the name of an optimizer.
    Text(String),
    /// A hash of content, or a public key.
    Digest(Digest),
}

/// A value that two identifiers do not share.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its key: that of the manifest, if it stands there.
    pub key: String,
    /// The value of the first identifier; `None` if it has none of that key.
    pub here: Option<IdentityValue>,
    /// The value of the second identifier; `None` if it has none of that key.
    pub there: Option<IdentityValue>,
}

/// Bytes that are not a canonical encoding of an [`Identifier`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Written by another version of the program.
    #[error("has an identifier of version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// Cut short, not in order, or not what an encoder writes.
    #[error("has a malformed identifier")]
    Malformed,
}

impl Identifier {
    /// The hash that identifies the job or the run.
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key("skein 2026-11 identity", &self.encode()))
    }

    /// The canonical encoding, which the module's documentation defines and [`Identifier::digest`] hashes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend((self.values.len() as u32).to_le_bytes());
        for (key, value) in &self.values {
            bytes.extend((key.len() as u16).to_le_bytes());
            bytes.extend(key.as_bytes());
            value.encode(&mut bytes);
        }
        bytes
    }

    /// Reads what [`Identifier::encode`] wrote.
    ///
    /// # Errors
    /// [`IdentifierError`]
    pub fn decode(mut bytes: &[u8]) -> Result<Identifier, IdentifierError> {
        let bytes = &mut bytes;
        let version = take::<1>(bytes).ok_or(IdentifierError::Malformed)?[0];
        if version != VERSION {
            return Err(IdentifierError::Version(version));
        }
        decode_values(bytes).map(|values| Identifier { values }).ok_or(IdentifierError::Malformed)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&IdentityValue> {
        self.values.get(key)
    }

    /// The value of a key, if it is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(|value| if let IdentityValue::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// The values that differ, in the order of their keys.
    pub fn differences(&self, there: &Identifier) -> Vec<Difference> {
        let keys = self.values.keys().chain(there.values.keys().filter(|key| !self.values.contains_key(*key)));
        let mut differences: Vec<Difference> = keys
            .filter(|key| self.values.get(*key) != there.values.get(*key))
            .map(|key| Difference {
                key: key.clone(),
                here: self.values.get(key).cloned(),
                there: there.values.get(key).cloned(),
            })
            .collect();
        differences.sort_by(|a, b| a.key.cmp(&b.key));
        differences
    }

    fn insert(&mut self, key: &str, value: IdentityValue) {
        assert!(key.len() <= usize::from(u16::MAX), "keys are those of a manifest, which bounds their length");
        let before = self.values.insert(key.to_owned(), value);
        assert!(before.is_none(), "`{key}` is set once");
    }

    /// Adds everything that a value serializes to, under its key: fields by name, elements by index. What is not set is not
    /// added.
    pub(crate) fn insert_all(&mut self, key: &str, value: &impl Serialize) {
        let value = serde_json::to_value(value).expect("settings can be written as JSON");
        self.insert_json(key, &value);
    }

    fn insert_json(&mut self, key: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(flag) => self.insert(key, IdentityValue::Flag(*flag)),
            Value::Number(number) => {
                let whole = number.as_u64().map(IdentityValue::Whole);
                // Adding zero leaves one zero: two values that are equal have the same bits.
                let float = || IdentityValue::Float(number.as_f64().expect("numbers fit 64 bits") + 0.0);
                self.insert(key, whole.unwrap_or_else(float));
            }
            Value::String(text) => self.insert(key, IdentityValue::Text(text.clone())),
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    self.insert_json(&format!("{key}.{index}"), value);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.insert_json(&format!("{key}.{name}"), value);
                }
            }
        }
    }

    pub(crate) fn insert_digest(&mut self, key: &str, digest: Digest) {
        self.insert(key, IdentityValue::Digest(digest));
    }
}

impl IdentityValue {
    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            IdentityValue::Flag(flag) => bytes.extend([0, u8::from(*flag)]),
            IdentityValue::Whole(number) => {
                bytes.push(1);
                bytes.extend(number.to_le_bytes());
            }
            IdentityValue::Float(number) => {
                bytes.push(2);
                bytes.extend(number.to_bits().to_le_bytes());
            }
            IdentityValue::Text(text) => {
                bytes.push(3);
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            IdentityValue::Digest(digest) => {
                bytes.push(4);
                bytes.extend(digest.0);
            }
        }
    }
}

impl fmt::Display for IdentityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityValue::Flag(flag) => write!(f, "{flag}"),
            IdentityValue::Whole(number) => write!(f, "{number}"),
            // Most settings are 32 bits wide: their shortest form is the one that was written.
            IdentityValue::Float(number) if f64::from(*number as f32) == *number => write!(f, "{:?}", *number as f32),
            IdentityValue::Float(number) => write!(f, "{number:?}"),
            IdentityValue::Text(text) => write!(f, "`{text}`"),
            IdentityValue::Digest(digest) => {
                write!(f, "{}…", &digest.to_string()[..DIGITS_SHOWN])
            }
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn take_text(bytes: &mut &[u8], len: usize) -> Option<String> {
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn decode_values(bytes: &mut &[u8]) -> Option<BTreeMap<String, IdentityValue>> {
    let count = u32::from_le_bytes(take(bytes)?);
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let len = u16::from_le_bytes(take(bytes)?);
        let key = take_text(bytes, len.into())?;
        let value = decode_value(bytes)?;
        if values.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        values.insert(key, value);
    }
    bytes.is_empty().then_some(values)
}

fn decode_value(bytes: &mut &[u8]) -> Option<IdentityValue> {
    let [tag] = take(bytes)?;
    match tag {
        0 => match take(bytes)? {
            [0] => Some(IdentityValue::Flag(false)),
            [1] => Some(IdentityValue::Flag(true)),
            _ => None,
        },
        1 => Some(IdentityValue::Whole(u64::from_le_bytes(take(bytes)?))),
        2 => {
            let number = f64::from_bits(u64::from_le_bytes(take(bytes)?));
            let is_canonical = number.is_finite() && (number != 0.0 || number.is_sign_positive());
            is_canonical.then_some(IdentityValue::Float(number))
        }
        3 => {
            let len = u32::from_le_bytes(take(bytes)?);
            take_text(bytes, len as usize).map(IdentityValue::Text)
        }
        4 => Some(IdentityValue::Digest(Digest(take(bytes)?))),
        _ => None,
    }
}

/// Differences as what follows a colon: one on the same line, several on a line each; `there` names where the second value
/// was found. What follows them begins after a semicolon, or on a line of its own.
pub fn list(differences: &[Difference], there: &str) -> String {
    let value = |value: &Option<IdentityValue>| value.as_ref().map_or("not set".to_owned(), ToString::to_string);
    let mut lines = differences.iter().take(DIFFERENCES_MAX).map(|Difference { key, here, there: other }| {
        format!("`{key}` is {} here and {} {there}", value(here), value(other))
    });
    if let [_] = differences {
        return format!(" {}; ", lines.next().unwrap_or_default());
    }
    let more = differences.len().saturating_sub(DIFFERENCES_MAX);
    let more = (more > 0).then(|| format!("and {more} more"));
    format!("\n  {}\n", lines.chain(more).collect::<Vec<_>>().join("\n  "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Identifier {
        let mut example = Identifier::default();
        example.insert("a", IdentityValue::Whole(7));
        example.insert("b.c", IdentityValue::Float(0.05));
        example.insert("d", IdentityValue::Text("adam".into()));
        example.insert("e", IdentityValue::Flag(true));
        example.insert_digest("f", Digest([9; 32]));
        example
    }

    /// A change of these bytes makes every checkpoint and every record one of another job.
    #[test]
    fn the_encoding_is_pinned() {
        let expected = "0105000000\
            01006101\
            0700000000000000\
            0300622e6302\
            9a9999999999a93f\
            0100640304000000\
            6164616d\
            0100650001\
            01006604\
            0909090909090909090909090909090909090909090909090909090909090909";
        assert_eq!(hex::encode(example().encode()), expected);
        let digest = "35e455bc71b73eb28516691fbba184d15a810a4694441d019548e22bdeaff958";
        assert_eq!(example().digest().to_string(), digest);
    }

    #[test]
    fn an_encoding_of_another_version_is_named() {
        let mut bytes = example().encode();
        bytes[0] = 2;
        let error = Identifier::decode(&bytes).expect_err("another version").to_string();
        assert_eq!(error, "has an identifier of version 2, this program reads version 1");
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let bytes = example().encode();
        for end in 0..bytes.len() {
            assert!(Identifier::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Identifier::decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
        let entry = |key: u8| [1, 0, key, 0, 1];
        let of = |keys: [u8; 2]| [&[1, 2, 0, 0, 0][..], &entry(keys[0]), &entry(keys[1])].concat();
        assert!(Identifier::decode(&of(*b"ab")).is_ok());
        assert!(Identifier::decode(&of(*b"ba")).is_err(), "out of order");
        assert!(Identifier::decode(&of(*b"aa")).is_err(), "a key twice");
    }

    #[test]
    fn differences_are_told_by_key_with_both_values() {
        let mut other = example();
        other.values.insert("a".into(), IdentityValue::Whole(8));
        other.values.remove("d");
        other.values.insert("g".into(), IdentityValue::Float(1.0));
        other.values.insert("f".into(), IdentityValue::Digest(Digest([0xab; 32])));
        let told = list(&example().differences(&other), "in the checkpoint");
        assert_eq!(
            told,
            "\n  `a` is 7 here and 8 in the checkpoint\n  `d` is `adam` here and not set in the checkpoint\n  `f` is \
             0909090909090909… here and abababababababab… in the checkpoint\n  `g` is not set here and 1.0 in the checkpoint\n"
        );
        let mut one = example();
        one.values.insert("a".into(), IdentityValue::Whole(8));
        assert_eq!(list(&example().differences(&one), "there"), " `a` is 7 here and 8 there; ");
        let many: Vec<Difference> = (0..15)
            .map(|key| Difference { key: format!("k{key}"), here: None, there: Some(IdentityValue::Whole(key)) })
            .collect();
        let told = list(&many, "there");
        assert!(told.contains("\n  `k11` is not set here and 11 there\n  and 3 more\n"), "{told}");
        assert!(example().differences(&example()).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let versioned = [&[VERSION][..], &bytes].concat();
            if let Ok(read) = Identifier::decode(&versioned) {
                prop_assert_eq!(read.encode(), versioned);
            }
        }

        #[test]
        fn what_was_encoded_is_decoded(
            entries in proptest::collection::btree_map("[a-z.]{1,12}", (0u8..5, any::<u64>(), "\\PC{0,9}"), 0..9)
        ) {
            let value = |(tag, number, text): (u8, u64, String)| match tag {
                0 => IdentityValue::Flag(number % 2 == 1),
                1 => IdentityValue::Whole(number),
                2 => IdentityValue::Float((number as f64).sqrt()),
                3 => IdentityValue::Text(text),
                _ => IdentityValue::Digest(Digest([number as u8; 32])),
            };
            let values = entries.into_iter().map(|(key, entry)| (key, value(entry))).collect();
            let identifier = Identifier { values };
            prop_assert_eq!(Identifier::decode(&identifier.encode()), Ok(identifier));
        }
    }
}
