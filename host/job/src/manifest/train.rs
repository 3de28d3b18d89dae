//! `[train]`: how the model is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skein_kernels::optimizer::{MOMENTUM, Optimizer};
use skein_protocol::convergence::{self, EarlyStopping, ReduceOnPlateau};
use skein_protocol::deadline::WaitBounds;
use skein_types::counted;

use super::Problem;

/// Most peers: more do not fit the records that they exchange.
const PEERS_MAX: u32 = 500;
/// Most samples per batch and batches per round: bounds of memory and of the queue.
const BATCH_SIZE_MAX: u32 = 1 << 20;
const BATCHES_MAX: u32 = 1 << 16;

/// How the model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Peers that train together.
    #[schemars(range(min = 1, max = PEERS_MAX))]
    pub peers: u32,
    /// Number of Byzantine peers to tolerate; the aggregation function must support it.
    pub faults: u32,
    /// Most rounds; `early_stopping` may end training earlier. The same on all hosts of a job.
    #[schemars(range(min = 1))]
    pub rounds: u64,
    /// Samples per batch, from 1 to 1048576.
    #[schemars(range(min = 1, max = BATCH_SIZE_MAX))]
    pub batch_size: u32,
    /// Batches that each peer computes in a round, in parallel.
    #[schemars(range(min = 1, max = BATCHES_MAX))]
    pub batches_per_round: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Name of the gradient function; if not set, `gradient-mlp` for a perceptron and `gradient-onnx` for a model that
    /// an engine computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient: Option<String>,
    /// Name of the aggregation function.
    pub aggregate: String,
    /// Learning rate of the first rounds.
    pub learning_rate: f64,
    /// How the aggregate updates the parameters. The constants' defaults are PyTorch's, and 0.9 for `momentum`.
    #[serde(with = "super::optimizer")]
    #[schemars(schema_with = "super::optimizer::schema")]
    pub optimizer: Optimizer,
    /// Bound on the norm of the aggregate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f32>,
    /// Bound on every value of the aggregate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_value: Option<f32>,
    /// Rounds between two evaluations on the validation samples.
    #[schemars(range(min = 1))]
    pub evaluate_every: u32,
    /// Stop when the validation loss no longer falls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Lower the learning rate when the validation loss no longer falls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce_on_plateau: Option<ReduceOnPlateau>,
    /// How long a peer waits for the others, learned between these bounds.
    pub wait: WaitBounds,
}

impl Default for Train {
    fn default() -> Train {
        Train {
            peers: 4,
            faults: 1,
            rounds: 100,
            batch_size: 32,
            batches_per_round: 2,
            seed: 1,
            gradient: None,
            aggregate: "aggregate-trimmed-mean".into(),
            learning_rate: 0.05,
            optimizer: Optimizer::new(&MOMENTUM),
            clip_norm: None,
            clip_value: None,
            evaluate_every: 5,
            early_stopping: None,
            reduce_on_plateau: None,
            wait: WaitBounds::default(),
        }
    }
}

impl Train {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let within = |key: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                Ok(())
            } else {
                Err((format!("train.{key}"), format!("must be between 1 and {max}, got {value}")))
            }
        };
        within("peers", u64::from(self.peers), u64::from(PEERS_MAX))?;
        within("rounds", self.rounds, u64::MAX)?;
        within("batch_size", u64::from(self.batch_size), u64::from(BATCH_SIZE_MAX))?;
        within("batches_per_round", u64::from(self.batches_per_round), u64::from(BATCHES_MAX))?;
        within("evaluate_every", u64::from(self.evaluate_every), u64::from(u32::MAX))?;
        if u64::from(self.faults) * 2 >= u64::from(self.peers) {
            let faults = self.faults;
            let peers = counted(self.peers, "peer");
            return Err(("train.faults".into(), format!("must be less than half of {peers}, got {faults}")));
        }
        let positive = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err((format!("train.{key}"), format!("must be a positive number, got {value}")))
            }
        };
        // A step uses it in 32 bits.
        positive("learning_rate", f64::from(self.learning_rate as f32))?;
        positive("clip_norm", self.clip_norm.map_or(1.0, f64::from))?;
        positive("clip_value", self.clip_value.map_or(1.0, f64::from))?;
        if let Some(rule) = self.reduce_on_plateau {
            positive("reduce_on_plateau.factor", rule.factor)?;
        }
        within("early_stopping.patience", self.early_stopping.map_or(1, |rule| u64::from(rule.patience)), u64::MAX)?;
        if self.wait.min > self.wait.max {
            return Err(("train.wait".into(), "has a `min` above its `max`".into()));
        }
        Ok(())
    }

    /// The options of both convergence rules.
    pub fn convergence(&self) -> convergence::Options {
        convergence::Options { early_stopping: self.early_stopping, reduce_on_plateau: self.reduce_on_plateau }
    }
}
