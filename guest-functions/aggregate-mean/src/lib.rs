//! The mean of all contributions, for peers that trust each other: a single liar moves it anywhere.
//!
//! With the setting `weighted = "true"` a contribution counts by the samples its peer says it saw.

use aggregate::bindings::skein::train::contributions::{Contribution, Sink};
use aggregate::{Error, Guest, Report, by_window, settings};
use skein_kernels::mean::{mean, weighted_mean};

/// The rule as a component.
pub struct Mean;

impl Guest for Mean {
    fn aggregate(contributions: Vec<Contribution>, _faults: u32, out: &Sink) -> Result<Report, Error> {
        match settings::get("weighted").as_deref() {
            None | Some("false") => by_window(&contributions, out, mean),
            Some("true") => {
                let weights: Vec<f32> = contributions.iter().map(|c| c.samples() as f32).collect();
                by_window(&contributions, out, |rows, out| weighted_mean(rows, &weights, out))
            }
            Some(other) => Err(Error::Other(format!("setting `weighted` is `true` or `false`, not `{other}`"))),
        }
    }
}

aggregate::export!(Mean);
