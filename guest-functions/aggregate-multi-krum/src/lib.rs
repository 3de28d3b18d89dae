//! Multi-Krum: the mean of the contributions closest to their neighbours.
//!
//! The settings `neighbours` and `selected` set how many neighbours count and how many contributions are averaged; the
//! defaults are n − f − 2 and n − f. The first pass over the contributions computes their distances, the second
//! averages the selected ones.

use aggregate::bindings::skein::train::contributions::{Contribution, Sink};
use aggregate::{Error, Guest, Report, by_window, settings, windows};
use skein_kernels::mean::MEAN;
use skein_kernels::multi_krum::{Distances, MULTI_KRUM};
use skein_kernels::rule::Rule;

/// The rule as a component.
pub struct MultiKrum;

impl Guest for MultiKrum {
    fn aggregate(contributions: Vec<Contribution>, faults: u32, out: &Sink) -> Result<Report, Error> {
        let rule = rule(faults)?;
        if contributions.len() < rule.rows_min() {
            return Err(Error::TooFew(rule.rows_min() as u32));
        }
        let all: Vec<&Contribution> = contributions.iter().collect();
        let mut distances = Distances::new(all.len());
        windows(&all, |_, rows| distances.add(rows))?;
        let selected = distances.selected(&rule);
        let averaged: Vec<&Contribution> = selected.iter().map(|row| all[*row]).collect();
        by_window(&averaged, out, &Rule::new(&MEAN, 0))?;
        let is_rejected = |row: &usize| selected.binary_search(row).is_err();
        Ok(Report { rejected: (0..all.len()).filter(is_rejected).map(|row| all[row].peer()).collect() })
    }
}

fn rule(faults: u32) -> Result<Rule, Error> {
    let mut set =
        MULTI_KRUM.parameters.iter().filter_map(|parameter| Some((parameter.name, settings::get(parameter.name)?)));
    let with = |rule: Rule, (parameter, value): (&str, String)| rule.with(parameter, &value);
    set.try_fold(Rule::new(&MULTI_KRUM, faults), with).map_err(|error| Error::Other(error.to_string()))
}

aggregate::export!(MultiKrum);
