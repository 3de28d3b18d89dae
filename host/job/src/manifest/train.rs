//! `[train]`: how the model is trained.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skein_kernels::optimizer::{MOMENTUM, Optimizer};
use skein_protocol::convergence::{self, EarlyStopping, ReduceOnPlateau};
use skein_protocol::fault_model::{FaultModel, TooFewMembers};
use skein_protocol::pace;
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
    /// Peers that may be Byzantine, which lie in whatever way; the aggregation function must tolerate as many. If not set, as
    /// many as possible: less than a third.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byzantine: Option<u32>,
    /// Further peers that may be crashed or cut off while the others go on. If not set, as many as possible beside
    /// `byzantine`: `peers` must be at least 3 × `byzantine` + 2 × `crashed` + 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crashed: Option<u32>,
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
    /// How long this host waits for the others. Hosts of a job may have different bounds.
    pub wait: WaitBounds,
}

/// Bounds of a wait for other peers. A peer that shows that it is alive is waited for as long as the others suggest: at most
/// ten times as long as the contributions took that are needed at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WaitBounds {
    /// Shortest wait for a peer that is alive, once the contributions are there that are needed at least.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub min: Duration,
    /// Longest wait for such a peer.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max: Duration,
    /// How long a peer has to be silent to be no longer waited for; at least 750 ms, which is three beats.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub silent: Duration,
}

impl Default for WaitBounds {
    fn default() -> WaitBounds {
        WaitBounds { min: Duration::from_secs(1), max: Duration::from_secs(600), silent: pace::SILENT }
    }
}

impl WaitBounds {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The key that is out of bounds, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.min > self.max {
            return Err(("wait", "has a `min` above its `max`".into()));
        }
        if self.silent < pace::SILENT {
            let problem = format!("must be at least {:?}, which is three beats, got {:?}", pace::SILENT, self.silent);
            return Err(("wait.silent", problem));
        }
        Ok(())
    }
}

impl Default for Train {
    fn default() -> Train {
        Train {
            peers: 4,
            byzantine: None,
            crashed: None,
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
        self.check_faults()?;
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
        self.wait.check().map_err(|(key, problem)| (format!("train.{key}"), problem))
    }

    fn check_faults(&self) -> Result<(), Problem> {
        let Err(TooFewMembers { members, byzantine, crashed, needed }) = self.tolerated() else { return Ok(()) };
        let (key, is, other) = match self.byzantine {
            Some(_) => ("train.byzantine", byzantine, format!("`train.crashed` {crashed}")),
            None => ("train.crashed", crashed, format!("`train.byzantine` {byzantine}")),
        };
        let problem = format!(
            "is {is} and {other}, which needs at least {needed} peers, and `train.peers` is {members}: add peers, or tolerate \
             fewer: {} tolerate at most `byzantine = {}`, or `crashed = {}`",
            counted(members, "peer"),
            (members - 1) / 3,
            (members - 1) / 2,
        );
        Err((key.into(), problem))
    }

    /// How many peers may fail; what is not set is as large as the other allows.
    fn tolerated(&self) -> Result<FaultModel, TooFewMembers> {
        let peers = self.peers;
        let (byzantine, crashed) = match (self.byzantine, self.crashed) {
            (Some(byzantine), Some(crashed)) => (byzantine, crashed),
            (Some(byzantine), None) => {
                (byzantine, peers.saturating_sub(byzantine.saturating_mul(3).saturating_add(1)) / 2)
            }
            (None, Some(crashed)) => (peers.saturating_sub(crashed.saturating_mul(2).saturating_add(1)) / 3, crashed),
            (None, None) => return Ok(FaultModel::most(peers)),
        };
        FaultModel::new(peers, byzantine, crashed)
    }

    /// How many peers may fail, and how.
    ///
    /// # Panics
    /// If the manifest was not checked.
    pub fn fault_model(&self) -> FaultModel {
        self.tolerated().expect("a checked manifest tolerates no more than its peers allow")
    }

    /// The options of both convergence rules.
    pub fn convergence(&self) -> convergence::Options {
        convergence::Options { early_stopping: self.early_stopping, reduce_on_plateau: self.reduce_on_plateau }
    }
}
