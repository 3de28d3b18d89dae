//! When to lower the learning rate and when to stop, from the validation loss that all peers agree on.
//!
//! Both rules compare like PyTorch's `ReduceLROnPlateau` in its mode `min` with an absolute threshold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Stop when the validation loss no longer falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// Evaluations without improvement before training stops.
    pub patience: u32,
    /// A loss has to fall by more than this to count as an improvement.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> EarlyStopping {
        EarlyStopping { patience: 10, min_delta: 0.0 }
    }
}

/// Lower the learning rate when the validation loss no longer falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReduceOnPlateau {
    /// Factor by which the learning rate is multiplied.
    pub factor: f64,
    /// Evaluations without improvement that are tolerated.
    pub patience: u32,
    /// A loss has to fall by more than this to count as an improvement.
    pub min_delta: f64,
    /// The learning rate never falls below this.
    pub learning_rate_min: f64,
}

impl Default for ReduceOnPlateau {
    fn default() -> ReduceOnPlateau {
        ReduceOnPlateau { factor: 0.1, patience: 5, min_delta: 0.0, learning_rate_min: 1e-6 }
    }
}

/// Both rules, each optional.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Options {
    /// Stop when the loss no longer falls.
    pub early_stopping: Option<EarlyStopping>,
    /// Lower the learning rate when the loss no longer falls.
    pub reduce_on_plateau: Option<ReduceOnPlateau>,
}

/// Memory of the rules between evaluations; persisted with the state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Learning rate of the next step.
    pub learning_rate: f64,
    /// Best loss as early stopping sees it.
    pub stopping_best: Option<f64>,
    /// Evaluations since that best loss.
    pub stopping_waited: u32,
    /// Best loss as the plateau rule sees it.
    pub plateau_best: Option<f64>,
    /// Evaluations since that best loss, or since the learning rate was last lowered.
    pub plateau_waited: u32,
    /// The round after which the optimizer began with empty state: a run that changed its optimizer counts its steps
    /// from there.
    pub optimizer_since: u64,
}

impl Progress {
    /// The progress before the first evaluation.
    pub fn new(learning_rate: f64) -> Progress {
        Progress {
            learning_rate,
            stopping_best: None,
            stopping_waited: 0,
            plateau_best: None,
            plateau_waited: 0,
            optimizer_since: 0,
        }
    }

    /// Records the loss of an evaluation; returns `true` if training should stop.
    pub fn observe(&mut self, options: &Options, loss: f64) -> bool {
        assert!(!loss.is_nan(), "an agreed loss is not NaN");
        if let Some(rule) = &options.reduce_on_plateau {
            self.observe_plateau(rule, loss);
        }
        let Some(rule) = &options.early_stopping else { return false };
        if improves(loss, self.stopping_best, rule.min_delta) {
            self.stopping_best = Some(loss);
            self.stopping_waited = 0;
        } else {
            self.stopping_waited += 1;
        }
        self.stopping_waited >= rule.patience
    }

    fn observe_plateau(&mut self, rule: &ReduceOnPlateau, loss: f64) {
        if improves(loss, self.plateau_best, rule.min_delta) {
            self.plateau_best = Some(loss);
            self.plateau_waited = 0;
            return;
        }
        self.plateau_waited += 1;
        if self.plateau_waited > rule.patience {
            let lowered = (self.learning_rate * rule.factor).max(rule.learning_rate_min);
            // A rate that starts below the minimum is kept.
            self.learning_rate = lowered.min(self.learning_rate);
            self.plateau_waited = 0;
        }
    }
}

fn improves(loss: f64, best: Option<f64>, min_delta: f64) -> bool {
    best.is_none_or(|best| loss < best - min_delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_stops_after_patience_evaluations_without_improvement() {
        let early_stopping = Some(EarlyStopping { patience: 2, min_delta: 0.1 });
        let options = Options { early_stopping, reduce_on_plateau: None };
        let mut progress = Progress::new(0.1);
        let stops = [1.0, 0.5, 0.45, 0.3, 0.29, 0.3].map(|loss| progress.observe(&options, loss));
        assert_eq!(stops, [false, false, false, false, false, true]);
        assert_eq!(progress.learning_rate, 0.1);
    }

    #[test]
    fn the_learning_rate_falls_on_a_plateau_down_to_its_minimum() {
        let rule = ReduceOnPlateau { factor: 0.1, patience: 1, min_delta: 0.0, learning_rate_min: 0.005 };
        let options = Options { early_stopping: None, reduce_on_plateau: Some(rule) };
        let mut progress = Progress::new(0.1);
        let rates = [1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9].map(|loss| {
            assert!(!progress.observe(&options, loss));
            progress.learning_rate
        });
        let expected = [0.1, 0.1, 0.01, 0.01, 0.01, 0.005, 0.005, 0.005];
        assert!(rates.iter().zip(expected).all(|(rate, expected)| (rate - expected).abs() < 1e-12), "{rates:?}");
    }
}
