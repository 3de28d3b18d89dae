//! Coordinate-wise trimmed mean: tolerates as many Byzantine peers as the job's `faults`.

use aggregate::bindings::skein::train::contributions::{Contribution, Sink};
use aggregate::{Error, Guest, Report, by_window};
use skein_kernels::order::TRIMMED_MEAN;
use skein_kernels::rule::Rule;

/// The rule as a component.
pub struct TrimmedMean;

impl Guest for TrimmedMean {
    fn aggregate(contributions: Vec<Contribution>, faults: u32, out: &Sink) -> Result<Report, Error> {
        by_window(&contributions.iter().collect::<Vec<_>>(), out, &Rule::new(&TRIMMED_MEAN, faults))
    }
}

aggregate::export!(TrimmedMean);
