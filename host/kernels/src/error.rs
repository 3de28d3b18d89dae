//! Why a kernel refuses its input; written by hand because the kernels also run inside guests.

use std::fmt;

/// Input that a kernel refuses. The output then holds nothing that a caller may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The rule needs at least `needed` rows to tolerate its number of Byzantine peers.
    TooFew {
        /// Rows that the rule needs.
        needed: usize,
        /// Rows that the caller passed.
        present: usize,
    },
    /// Row `row` (from 0) does not have as many values as the output.
    Length {
        /// Index of the row.
        row: usize,
        /// Values in the output.
        expected: usize,
        /// Values in the row.
        actual: usize,
    },
    /// Row `row` (from 0) holds a NaN or an infinity.
    NonFinite {
        /// Index of the row.
        row: usize,
    },
    /// The weights are not one per row, one is negative, or they do not sum to a positive finite number.
    Weights,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooFew { needed, present } => {
                write!(f, "the rule needs at least {needed} contributions, {present} are there")
            }
            Error::Length { row, expected, actual } => {
                write!(f, "contribution {row} has {actual} values where {expected} are expected")
            }
            Error::NonFinite { row } => write!(f, "contribution {row} holds a value that is not finite"),
            Error::Weights => {
                f.write_str("the weights do not fit the contributions or do not sum to a positive number")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Checks that there are `needed` rows and that each is as long as `out`.
pub(crate) fn check_rows(rows: &[&[f32]], needed: usize, out: &[f32]) -> Result<(), Error> {
    if rows.len() < needed {
        return Err(Error::TooFew { needed, present: rows.len() });
    }
    match rows.iter().position(|row| row.len() != out.len()) {
        Some(row) => Err(Error::Length { row, expected: out.len(), actual: rows[row].len() }),
        None => Ok(()),
    }
}
