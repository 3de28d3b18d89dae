//! An aggregation rule chosen at run time, with what it needs beside the contributions.

use std::fmt;

use crate::error::{Error, check_rows};
use crate::mean::{mean, weighted_mean};
use crate::order::{median, trimmed_mean};
use crate::parallel::{in_parallel, part_len};

/// Values that a thread works on before others get their turn.
const WINDOW: usize = 1 << 14;

/// How contributions become one aggregate.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// [`mean`]
    Mean,
    /// [`weighted_mean`], one weight for each contribution.
    WeightedMean(Vec<f32>),
    /// [`median`], which needs `2 * faults + 1` contributions.
    Median {
        /// Contributions of which nothing good is assumed.
        faults: u32,
    },
    /// [`trimmed_mean`], which needs as many.
    TrimmedMean {
        /// Contributions of which nothing good is assumed.
        faults: u32,
    },
}

impl Rule {
    /// Aggregates `rows`, or the same window of each of them.
    ///
    /// # Errors
    /// Too few rows for the faults, rows of different lengths, a value that is not finite, senseless weights.
    pub fn apply(&self, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        match self {
            Rule::Mean => mean(rows, out),
            Rule::WeightedMean(weights) => weighted_mean(rows, weights, out),
            Rule::Median { faults } => {
                check_rows(rows, 2 * *faults as usize + 1, out)?;
                median(rows, out)
            }
            Rule::TrimmedMean { faults } => trimmed_mean(rows, *faults as usize, out),
        }
    }

    /// As [`Rule::apply`], on several threads. Every value is computed by one of them, so the bits are the same.
    ///
    /// # Errors
    /// As [`Rule::apply`].
    pub fn apply_on(&self, threads: usize, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        check_rows(rows, 1, out)?;
        let part = part_len(out.len(), threads);
        let parts = out.chunks_mut(part).enumerate().map(|(index, out)| {
            let rows: Vec<&[f32]> = rows.iter().map(|row| &row[index * part..][..out.len()]).collect();
            move || {
                for (index, out) in out.chunks_mut(WINDOW).enumerate() {
                    // Whoever waits for the processor waits no longer than for a window.
                    std::thread::yield_now();
                    let rows: Vec<&[f32]> = rows.iter().map(|row| &row[index * WINDOW..][..out.len()]).collect();
                    self.apply(&rows, out)?;
                }
                Ok(())
            }
        });
        in_parallel(parts)
    }
}

impl fmt::Display for Rule {
    /// The rule's name, as records, commands and manifests spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Mean => "mean",
            Rule::WeightedMean(_) => "weighted-mean",
            Rule::Median { .. } => "median",
            Rule::TrimmedMean { .. } => "trimmed-mean",
        })
    }
}
