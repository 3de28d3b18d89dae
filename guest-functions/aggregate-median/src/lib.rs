//! Coordinate-wise median: tolerates any minority of liars.

use aggregate::bindings::skein::train::contributions::{Contribution, Sink};
use aggregate::{Error, Guest, Report, by_window};
use skein_kernels::order::median;

/// The rule as a component.
pub struct Median;

impl Guest for Median {
    fn aggregate(contributions: Vec<Contribution>, faults: u32, out: &Sink) -> Result<Report, Error> {
        // The median has no parameter, but more liars than a minority would own it.
        let needed = faults.saturating_mul(2).saturating_add(1);
        if contributions.len() < needed as usize {
            return Err(Error::TooFew(needed));
        }
        by_window(&contributions, out, median)
    }
}

aggregate::export!(Median);
