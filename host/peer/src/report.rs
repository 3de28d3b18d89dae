//! The reports of a run: a line of metrics for every round, and a summary at its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skein_types::Digest;
use skein_types::PeerId;

use crate::checkpoint::replace;
use crate::driver::RoundReport;
use crate::evaluation::Evaluation;
use crate::phases::Phases;
use crate::pool::{Ledger, ms};

/// Name of the file in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One round as all peers saw it.
pub struct RoundSummary<'a> {
    /// Report of one peer; those of the others differ only in their times.
    pub report: &'a RoundReport,
    /// Peers of the job.
    pub expected: usize,
    /// Mean times over the peers of this process.
    pub phases: &'a Phases,
    /// Time since the run began.
    pub elapsed: Duration,
}

impl RoundSummary<'_> {
    /// One line of `metrics.jsonl`.
    pub fn to_json(&self) -> Value {
        let RoundReport { loss, learning_rate, present, absent, state_hash, evaluation, .. } = self.report;
        let round = self.report.round();
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

/// An evaluation as JSON, for programs.
pub fn evaluation_json(evaluation: &Evaluation) -> Value {
    json!({ "loss": evaluation.loss(), "accuracy": evaluation.accuracy(), "samples": evaluation.samples })
}

/// The file of metrics, one JSON object a line: a line for each round, and a last one for the final state.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file in `dir`. Lines of rounds after `last_round` are dropped, since they are not part of the checkpoint
    /// that a run resumes from, and so is that of the final state.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(dir: &Path, last_round: u64) -> Result<Metrics> {
        let path = dir.join(METRICS_FILE);
        let lines = match File::open(&path) {
            Ok(file) => lines(file).with_context(|| format!("failed to read `{}`", path.display()))?,
            Err(_) => Vec::new(),
        };
        let is_kept = |line: &&Value| {
            let is_final = line["final"] == true;
            line["round"].as_u64().is_some_and(|round| round <= last_round) && !is_final
        };
        let kept: String = lines.iter().filter(is_kept).map(|line| format!("{line}\n")).collect();
        let failed = || format!("failed to write `{}`", path.display());
        replace(&path, kept.as_bytes()).with_context(failed)?;
        let file = File::options().append(true).open(&path).with_context(failed)?;
        Ok(Metrics { path, file })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, line: &Value) -> Result<()> {
        writeln!(self.file, "{line}").with_context(|| format!("failed to write `{}`", self.path.display()))
    }
}

/// The lines of a file; the last one of a run that was killed may be cut short.
fn lines(file: File) -> std::io::Result<Vec<Value>> {
    let mut found = Vec::new();
    for line in BufReader::new(file).lines() {
        found.extend(serde_json::from_str::<Value>(&line?));
    }
    Ok(found)
}

/// Figures of a finished run.
pub struct Summary {
    /// Run id of the run, which its checkpoints carry too.
    pub run: Digest,
    /// Last applied round; rounds before `--resume` count too.
    pub rounds: u64,
    /// Rounds of this run, without those before `--resume`.
    pub rounds_run: u64,
    /// Whether the convergence rules ended it.
    pub stopped_early: bool,
    /// Evaluation of the final state on the validation samples.
    pub validation: Option<Evaluation>,
    /// Evaluation of the final state on the held-out samples.
    pub test: Option<Evaluation>,
    /// Hash of each peer's state.
    pub state_hashes: BTreeMap<PeerId, Digest>,
    /// Mean over the peers, summed over the rounds.
    pub phases: Phases,
    /// Wall time of this run.
    pub wall_ms: f64,
    /// Resources that the functions used.
    pub ledger: Ledger,
    /// Learning rate at the end.
    pub learning_rate: f64,
}

impl Summary {
    /// The last line of `metrics.jsonl`: the final state.
    pub fn metrics(&self) -> Value {
        let of_last = |evaluation: &Evaluation| with_round(evaluation_json(evaluation), self.rounds);
        json!({
            "final": true,
            "round": self.rounds,
            "stopped_early": self.stopped_early,
            "learning_rate": self.learning_rate,
            "validation": self.validation.as_ref().map(of_last),
            "test": self.test.as_ref().map(of_last),
            "wall_ms": self.wall_ms,
        })
    }
}
