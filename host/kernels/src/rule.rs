//! What an aggregation rule is: what it is called, takes and needs, and how it is computed. Which rules there are is in
//! [`crate::rules`].

use std::fmt;

use crate::error::{Error, check_rows};
use crate::parallel::{in_parallel, part_len};

/// Values that a thread works on before others get their turn.
const WINDOW: usize = 1 << 14;

/// What is known of a rule.
#[derive(Debug)]
pub struct RuleKind {
    /// Its name, as records, commands and texts spell it.
    pub name: &'static str,
    /// The built-in function that does the same. Its setting `weighted` tells two rules of one function apart.
    pub function: &'static str,
    /// Whether it takes one weight for each contribution: the samples that its peer claims.
    pub takes_weights: bool,
    /// Numbers that it takes, by the names of the function's settings.
    pub parameters: &'static [RuleParameter],
    /// What it has to see at once.
    pub scope: Scope,
    /// Fewest contributions of which so many may be Byzantine.
    pub rows_min: fn(faults: usize) -> usize,
    /// Aggregates rows of one length, at least as many as it needs.
    pub aggregate: Aggregate,
}

/// Aggregates rows into as many values as each of them has.
pub type Aggregate = fn(rule: &Rule, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error>;

/// A number that a rule takes.
#[derive(Debug)]
pub struct RuleParameter {
    /// Its name.
    pub name: &'static str,
    /// Its value if it is not set, for so many rows and Byzantine peers.
    pub default: fn(rows: usize, faults: usize) -> usize,
}

/// What a rule has to see at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each coordinate is aggregated by itself, so any window of the rows will do.
    Coordinates,
    /// Rows are compared as a whole.
    Vectors,
}

/// How contributions become one aggregate: a kind of rule and what it needs beside the contributions.
#[derive(Debug, Clone)]
pub struct Rule {
    kind: &'static RuleKind,
    faults: u32,
    parameters: Vec<Option<u32>>,
    weights: Vec<f32>,
}

impl Rule {
    /// A rule that tolerates `faults` Byzantine peers. One that takes weights needs [`Rule::weighted`] as well.
    pub fn new(kind: &'static RuleKind, faults: u32) -> Rule {
        Rule { kind, faults, parameters: vec![None; kind.parameters.len()], weights: Vec::new() }
    }

    /// The same rule with one weight for each contribution.
    pub fn weighted(self, weights: Vec<f32>) -> Rule {
        Rule { weights, ..self }
    }

    /// The same rule with values for its parameters, in the order of [`RuleKind::parameters`].
    pub fn with_parameters(self, parameters: Vec<Option<u32>>) -> Rule {
        assert_eq!(parameters.len(), self.kind.parameters.len(), "one value for each parameter");
        Rule { parameters, ..self }
    }

    /// What is known of it.
    pub fn kind(&self) -> &'static RuleKind {
        self.kind
    }

    /// Byzantine peers that it tolerates.
    pub fn faults(&self) -> u32 {
        self.faults
    }

    /// The weights of the contributions; none if it takes none.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Values of its parameters, as far as they are set.
    pub fn parameters(&self) -> &[Option<u32>] {
        &self.parameters
    }

    /// The value of parameter number `index` for so many rows.
    pub fn parameter(&self, index: usize, rows: usize) -> usize {
        let set = self.parameters[index].map(|value| value as usize);
        set.unwrap_or_else(|| (self.kind.parameters[index].default)(rows, self.faults as usize))
    }

    /// Aggregates `rows`, or the same window of each of them if the scope of the rule allows that.
    ///
    /// # Errors
    /// Too few rows for the faults, rows of different lengths, a value that is not finite, senseless weights.
    pub fn apply(&self, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        check_rows(rows, (self.kind.rows_min)(self.faults as usize), out)?;
        (self.kind.aggregate)(self, rows, out)
    }

    /// As [`Rule::apply`], on several threads. Every value is computed by one of them, so the bits are the same.
    ///
    /// # Errors
    /// As [`Rule::apply`].
    pub fn apply_on(&self, threads: usize, rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
        check_rows(rows, 1, out)?;
        if self.kind.scope == Scope::Vectors {
            return self.apply(rows, out);
        }
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

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        let parts = |rule: &Rule| (rule.kind.name, rule.faults, rule.parameters.clone(), rule.weights.clone());
        parts(self) == parts(other)
    }
}

impl fmt::Display for Rule {
    /// The rule's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)
    }
}
