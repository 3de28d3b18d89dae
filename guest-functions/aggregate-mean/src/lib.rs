//! The mean of all contributions, for peers that trust each other: a single liar moves it anywhere.
//!
//! With the setting `weighted = "true"`, contributions are weighted by the samples that their peers claim.

use aggregate::bindings::skein::train::contributions::{Contribution, Sink};
use aggregate::{Error, Guest, Report, by_window, settings};
use skein_kernels::mean::{MEAN, WEIGHTED_MEAN};
use skein_kernels::rule::Rule;

/// The rule as a component.
pub struct Mean;

impl Guest for Mean {
    fn aggregate(contributions: Vec<Contribution>, faults: u32, out: &Sink) -> Result<Report, Error> {
        let contributions: Vec<&Contribution> = contributions.iter().collect();
        let rule = match settings::get("weighted").as_deref() {
            None | Some("false") => Rule::new(&MEAN, faults),
            Some("true") => {
                let weights = contributions.iter().map(|contribution| contribution.samples() as f32);
                Rule::new(&WEIGHTED_MEAN, faults).weighted(weights.collect())
            }
            Some(other) => {
                return Err(Error::Other(format!("setting `weighted` must be `true` or `false`, got `{other}`")));
            }
        };
        by_window(&contributions, out, &rule)
    }
}

aggregate::export!(Mean);
