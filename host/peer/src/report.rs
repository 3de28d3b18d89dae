//! What a run tells: a line of metrics for every round, and a summary at its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skein_protocol::announcement::Evaluation;
use skein_types::Digest;
use skein_types::PeerId;

use crate::driver::RoundReport;
use crate::phases::Phases;
use crate::pool::{Ledger, ms};

/// Name of the file in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One round as all peers saw it.
pub struct RoundSummary<'a> {
    /// Of one peer; the others report the same but for their times.
    pub report: &'a RoundReport,
    /// Peers of the job.
    pub expected: usize,
    /// Mean over the peers.
    pub phases: &'a Phases,
    /// Since the run began.
    pub elapsed: Duration,
}

impl RoundSummary<'_> {
    /// One line of `metrics.jsonl`.
    pub fn to_json(&self) -> Value {
        let RoundReport { round, loss, learning_rate, present, absent, state_hash, evaluation, .. } = self.report;
        let absent: BTreeMap<String, String> =
            absent.iter().map(|(peer, why)| (peer.to_string(), why.to_string())).collect();
        json!({
            "round": round,
            "loss": loss,
            "learning_rate": learning_rate,
            "present": present,
            "expected": self.expected,
            "absent": absent,
            "validation": evaluation.map(|evaluation| with_round(evaluation_json(&evaluation), round - 1)),
            "state_hash": state_hash.to_string(),
            "phase_ms": self.phases.to_json(),
            "elapsed_ms": ms(self.elapsed),
        })
    }
}

/// The round whose state was evaluated: the one that the reported round builds on.
fn with_round(mut evaluation: Value, round: u64) -> Value {
    evaluation["round"] = round.into();
    evaluation
}

/// An evaluation for programs.
pub fn evaluation_json(evaluation: &Evaluation) -> Value {
    json!({ "loss": evaluation.loss(), "accuracy": evaluation.accuracy(), "samples": evaluation.samples })
}

/// The file of metrics: one JSON object a line, one line a round.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file in `dir`, which is made if it is not there. Lines of rounds behind `last_round` are dropped:
    /// they were not part of the checkpoint that a run goes on from.
    ///
    /// # Errors
    /// The folder or the file can not be written.
    pub fn open(dir: &Path, last_round: u64) -> Result<Metrics> {
        std::fs::create_dir_all(dir).with_context(|| format!("failed to make the folder `{}`", dir.display()))?;
        let path = dir.join(METRICS_FILE);
        let kept = match File::open(&path) {
            Ok(file) => kept_lines(file, last_round).with_context(|| format!("failed to read `{}`", path.display()))?,
            Err(_) => Vec::new(),
        };
        let mut metrics = Metrics {
            file: File::create(&path).with_context(|| format!("failed to write `{}`", path.display()))?,
            path,
        };
        kept.iter().try_for_each(|line| metrics.write(line))?;
        Ok(metrics)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The file can not be written.
    pub fn write(&mut self, line: &Value) -> Result<()> {
        writeln!(self.file, "{line}").with_context(|| format!("failed to write `{}`", self.path.display()))
    }
}

fn kept_lines(file: File, last_round: u64) -> std::io::Result<Vec<Value>> {
    let mut kept = Vec::new();
    for line in BufReader::new(file).lines() {
        // The last line of a run that was killed may be cut short.
        let Ok(line) = serde_json::from_str::<Value>(&line?) else { continue };
        if line["round"].as_u64().is_some_and(|round| round <= last_round) {
            kept.push(line);
        }
    }
    Ok(kept)
}

/// A finished run.
pub struct Summary {
    /// Last applied round.
    pub rounds: u64,
    /// Rounds of this run, without those before `--resume`.
    pub rounds_run: u64,
    /// Whether the convergence rules ended it.
    pub stopped_early: bool,
    /// How the final state does on the validation samples.
    pub validation: Option<Evaluation>,
    /// How it does on the samples held out.
    pub test: Option<Evaluation>,
    /// Hash of each peer's state.
    pub state_hashes: BTreeMap<PeerId, Digest>,
    /// Mean over the peers, summed over the rounds.
    pub phases: Phases,
    /// Wall time.
    pub wall_ms: f64,
    /// What the functions used.
    pub ledger: Ledger,
    /// Learning rate at the end.
    pub learning_rate: f64,
}
