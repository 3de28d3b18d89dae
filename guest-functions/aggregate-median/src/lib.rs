//! Coordinate-wise median: tolerates any minority of Byzantine peers.

use aggregate::bindings::skein::train::contributions::{Contribution, Sink};
use aggregate::{Error, Guest, Report, by_window};
use skein_kernels::order::MEDIAN;
use skein_kernels::rule::Rule;

/// The rule as a component.
pub struct Median;

impl Guest for Median {
    fn aggregate(contributions: Vec<Contribution>, faults: u32, out: &Sink) -> Result<Report, Error> {
        by_window(&contributions.iter().collect::<Vec<_>>(), out, &Rule::new(&MEDIAN, faults))
    }
}

aggregate::export!(Median);
