//! CSV: one sample per line, the label in the last column or in a named one.

use std::path::Path;

use super::contents::{Entry, Source, Use};
use super::{DataError, Inputs, Raw, read_bytes};

pub(super) fn read(path: &Path, label_column: Option<&str>) -> Result<Raw, DataError> {
    parse(path, &read_bytes(path)?, label_column)
}

/// Parses the text; a first line that holds anything but numbers is a heading.
pub(super) fn parse(path: &Path, text: &[u8], label_column: Option<&str>) -> Result<Raw, DataError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(text);
    let mut inputs = Vec::new();
    let mut labels = Vec::new();
    let mut label_index = None;
    let mut headings = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| DataError::content(path, format!("is not a table: {error}")))?;
        if index == 0 {
            let is_heading = record.iter().any(|field| field.parse::<f32>().is_err());
            let heading = |(column, field): (usize, &str)| {
                if is_heading { field.to_owned() } else { format!("column {}", column + 1) }
            };
            headings = record.iter().enumerate().map(heading).collect();
            label_index = Some(find_label(path, &record, label_column, is_heading)?);
            if is_heading {
                continue;
            }
        }
        let at_fault = |column: usize, field: &str| {
            DataError::content(path, format!("line {}, column {}: `{field}` is not a number", index + 1, column + 1))
        };
        for (column, field) in record.iter().enumerate() {
            if Some(column) == label_index {
                labels.push(label(field).ok_or_else(|| {
                    let place = format!("line {}, column {}", index + 1, column + 1);
                    DataError::content(path, format!("{place}: label `{field}` is not a class index, a whole number from 0: choose the column of the labels by \
                             its heading with `data.label_column`, or number the classes"))
                })?);
            } else {
                inputs.push(field.parse().map_err(|_| at_fault(column, field))?);
            }
        }
    }
    let shape = vec![u32::try_from(headings.len().saturating_sub(1)).unwrap_or(u32::MAX)];
    let source = source(headings, label_index, labels.len());
    Ok(Raw { inputs: Inputs::Floats(inputs), shape, labels, source })
}

/// The columns of a table with so many samples.
fn source(headings: Vec<String>, label_index: Option<usize>, samples: usize) -> Source {
    let entry = |(column, name)| {
        let used_as = if Some(column) == label_index { Use::Labels } else { Use::Inputs };
        Entry { name, ty: "number".into(), shape: vec![samples as u64], used_as }
    };
    Source { format: "CSV", entries: headings.into_iter().enumerate().map(entry).collect() }
}

fn find_label(
    path: &Path,
    first: &csv::StringRecord,
    column: Option<&str>,
    is_heading: bool,
) -> Result<usize, DataError> {
    let Some(column) = column else { return Ok(first.len() - 1) };
    if !is_heading {
        return Err(DataError::content(path, format!("has no heading, which the column `{column}` needs")));
    }
    first.iter().position(|heading| heading == column).ok_or_else(|| {
        let hint = crate::manifest::did_you_mean_or_choose(column, first.iter());
        DataError::content(path, format!("has no column `{column}`{hint}"))
    })
}

/// A class index, which spreadsheets may write as `3.0`.
fn label(field: &str) -> Option<i64> {
    let number: f64 = field.parse().ok()?;
    (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
}
