//! An aggregation rule: its name, parameters, requirements and computation. [`crate::rules`] lists all rules.

use std::fmt;
use std::num::NonZeroU32;

use crate::error::{Error, check_rows};
use crate::parallel::{in_parallel, part_len};
use crate::text::{self, TextError};

/// Values that a thread processes before it yields.
const WINDOW: usize = 1 << 14;

/// A rule's name, parameters, requirements and computation.
#[derive(Debug)]
pub struct RuleKind {
    /// Name in records, commands and text forms.
    pub name: &'static str,
    /// The built-in function that computes the same. Its setting `weighted` distinguishes two rules of one function.
    pub function: &'static str,
    /// Whether it takes one weight per contribution: the samples that its peer claims.
    pub takes_weights: bool,
    /// Parameters that it takes, named like the function's settings.
    pub parameters: &'static [RuleParameter],
    /// Fewest contributions that it aggregates, given its Byzantine peers and parameters.
    pub rows_min: fn(rule: &Rule) -> usize,
    /// Aggregates at least as many rows as it needs, all of one length, into one row of that length.
    pub aggregate: Aggregate,
}

/// How a rule aggregates: by coordinate or by whole vector.
#[derive(Debug, Clone, Copy)]
pub enum Aggregate {
    /// Each coordinate is aggregated independently, so any window of the rows will do.
    Coordinates(ByCoordinate),
    /// Whole rows are compared, on so many threads; their number changes no bit.
    Vectors(ByVector),
}

/// Aggregates one window of coordinates, which all `rows` and `out` have in common.
pub type ByCoordinate = fn(rule: &Rule, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error>;

/// Aggregates whole rows, all as long as `out`, on at most `threads` threads.
pub type ByVector = fn(rule: &Rule, threads: usize, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error>;

/// A parameter of a rule: a whole number from 1 up.
#[derive(Debug)]
pub struct RuleParameter {
    /// Name in text forms, and of the function's setting.
    pub name: &'static str,
    /// Value if it is not set, for so many rows and Byzantine peers. [`RuleKind::rows_min`] ensures that there are
    /// enough rows.
    pub default: fn(rows: usize, faults: usize) -> usize,
}

/// A rule with its number of Byzantine peers, its parameters and its weights.
///
/// Its text form is the name with the parameters that are set; Byzantine peers and weights are not part of it.
///
/// ```
/// use skein_kernels::rules;
///
/// let rule = rules::parse("trimmed-mean", 1)?;
/// assert_eq!((rule.to_string().as_str(), rule.rows_min()), ("trimmed-mean", 3));
/// # Ok::<(), skein_kernels::TextError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rule {
    kind: &'static RuleKind,
    faults: u32,
    parameters: Vec<Option<NonZeroU32>>,
    weights: Vec<f32>,
}

impl Rule {
    /// A rule that tolerates `faults` Byzantine peers. One that takes weights needs [`Rule::weighted`] as well.
    pub fn new(kind: &'static RuleKind, faults: u32) -> Rule {
        Rule { kind, faults, parameters: vec![None; kind.parameters.len()], weights: Vec::new() }
    }

    /// The same rule for another number of Byzantine peers.
    pub fn tolerating(self, faults: u32) -> Rule {
        Rule { faults, ..self }
    }

    /// The same rule with one weight for each contribution.
    pub fn weighted(self, weights: Vec<f32>) -> Rule {
        Rule { weights, ..self }
    }

    /// The same rule with one parameter set to `value`, read from text.
    ///
    /// # Errors
    /// It has no such parameter, or the value is not a whole number from 1 up.
    pub fn with(mut self, parameter: &str, value: &str) -> Result<Rule, TextError> {
        let names: Vec<&str> = self.kind.parameters.iter().map(|parameter| parameter.name).collect();
        let index = text::position(self.kind.name, &names, parameter)?;
        let unfit = |_| text::unfit(self.kind.name, parameter, "a whole number from 1 up", value);
        self.parameters[index] = Some(value.parse().map_err(unfit)?);
        Ok(self)
    }

    /// Its name, parameters, requirements and computation.
    pub fn kind(&self) -> &'static RuleKind {
        self.kind
    }

    /// Byzantine peers that it tolerates.
    pub fn faults(&self) -> u32 {
        self.faults
    }

    /// The weights of the contributions; empty if it takes none.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The value of parameter number `index` if it is set.
    pub fn set_parameter(&self, index: usize) -> Option<usize> {
        self.parameters[index].map(|value| value.get() as usize)
    }

    /// The value of parameter number `index`, or its default for so many rows.
    pub fn parameter(&self, index: usize, rows: usize) -> usize {
        let default = || (self.kind.parameters[index].default)(rows, self.faults as usize);
        self.set_parameter(index).unwrap_or_else(default)
    }

    /// Fewest contributions that it aggregates.
    pub fn rows_min(&self) -> usize {
        (self.kind.rows_min)(self)
    }

    /// Values that it processes for so many rows of `len` values each, an estimate of its time.
    pub fn values(&self, rows: usize, len: usize) -> usize {
        match self.kind.aggregate {
            Aggregate::Coordinates(_) => rows.saturating_mul(len),
            // Every pair of rows is compared, and even a pair of empty rows takes some time.
            Aggregate::Vectors(_) => (rows * rows.saturating_sub(1) / 2).saturating_mul(len.saturating_add(1)),
        }
    }

    /// Aggregates `rows`, or the same window of each of them if the rule works by [`Aggregate::Coordinates`].
    ///
    /// # Errors
    /// Too few rows for the faults, rows of different lengths, a value that is not finite, invalid weights.
    pub fn apply(&self, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        check_rows(rows, self.rows_min(), out)?;
        match self.kind.aggregate {
            Aggregate::Coordinates(aggregate) => aggregate(self, rows, out),
            Aggregate::Vectors(aggregate) => aggregate(self, 1, rows, out),
        }
    }

    /// As [`Rule::apply`], on several threads. Every value is computed by one of them, so the bits are the same.
    ///
    /// # Errors
    /// As [`Rule::apply`].
    pub fn apply_on(&self, threads: usize, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        check_rows(rows, self.rows_min(), out)?;
        match self.kind.aggregate {
            Aggregate::Coordinates(_) => self.by_window(threads, rows, out),
            Aggregate::Vectors(aggregate) => aggregate(self, threads, rows, out),
        }
    }

    fn by_window(&self, threads: usize, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        let part = part_len(out.len(), threads);
        let parts = out.chunks_mut(part).enumerate().map(|(index, out)| {
            let rows: Vec<&[f32]> = rows.iter().map(|row| &row[index * part..][..out.len()]).collect();
            move || {
                for (index, out) in out.chunks_mut(WINDOW).enumerate() {
                    // Other threads wait for the processor no longer than one window takes.
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

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        let parts = |rule: &Rule| (rule.kind.name, rule.faults, rule.parameters.clone(), rule.weights.clone());
        parts(self) == parts(other)
    }
}

impl fmt::Display for Rule {
    /// Writes the text form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.kind.parameters.iter().zip(&self.parameters);
        let set = parameters.filter_map(|(parameter, value)| Some((parameter.name, value.as_ref()?)));
        text::write(f, self.kind.name, set)
    }
}
