//! The UCI hand-written digits that come with the program: 1,797 images of 8×8.

use std::io::Read;
use std::path::Path;

use super::contents::{Entry, Source, Use};
use super::{DataError, Raw, delimited};
use crate::manifest::data::BUILTIN_DIGITS;

/// Grey values run from 0 to 16.
pub(super) const SCALE: f32 = 16.0;

const DIGITS: &[u8] = include_bytes!("../../data/digits.csv.gz");

pub(super) fn read() -> Result<Raw, DataError> {
    let path = Path::new(BUILTIN_DIGITS);
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(DIGITS)
        .read_to_end(&mut text)
        .map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let mut raw = delimited::parse(path, &text, None)?;
    raw.shape = vec![1, 8, 8];
    let samples = raw.labels.len() as u64;
    let entry = |name: &str, shape, used_as| Entry { name: name.into(), ty: "number".into(), shape, used_as };
    let entries = vec![entry("images", vec![samples, 8, 8], Use::Inputs), entry("labels", vec![samples], Use::Labels)];
    raw.source = Source { format: "the digits that come with the program", entries };
    Ok(raw)
}
