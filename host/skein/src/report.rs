//! What a run tells: a line of metrics for every round, and a summary at its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skein_kernels::Digest;
use skein_runtime::About;
use skein_workflow::announcement::Evaluation;
use skein_workflow::identity::PeerId;

use crate::job::Job;
use crate::peer::RoundReport;
use crate::phases::Phases;
use crate::workers::{Ledger, ms};

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

/// An evaluation for people.
pub fn evaluation_text(evaluation: &Evaluation) -> String {
    let accuracy = evaluation.accuracy().map_or_else(String::new, |accuracy| format!("accuracy {accuracy:.4}, "));
    format!("{accuracy}loss {:.4} on {} samples", evaluation.loss(), evaluation.samples)
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

impl Summary {
    /// The summary as one JSON object.
    /// `checkpoint` is the file that the run has left.
    pub fn to_json(&self, job: &Job, checkpoint: Option<&Path>) -> Value {
        let accuracy = |evaluation: &Option<Evaluation>| evaluation.and_then(|evaluation| evaluation.accuracy());
        let function = |about: &About| {
            json!({
                "name": about.name,
                "digest": format!("sha256:{}", about.digest),
                "world": about.world.to_string(),
                "loaded": format!("{:?}", about.origin).to_lowercase(),
                "load_ms": ms(about.load_duration),
            })
        };
        json!({
            "job": job.digest.to_string(),
            "peers": self.state_hashes.len(),
            "rounds": self.rounds,
            "rounds_run": self.rounds_run,
            "stopped_early": self.stopped_early,
            "parameters": job.layout.len(),
            "learning_rate": self.learning_rate,
            "validation_accuracy": accuracy(&self.validation),
            "validation": self.validation.as_ref().map(evaluation_json),
            "test_accuracy": accuracy(&self.test),
            "test": self.test.as_ref().map(evaluation_json),
            "checkpoint": checkpoint.map(|path| path.display().to_string()),
            "state_hashes": self.state_hashes.values().map(ToString::to_string).collect::<Vec<_>>(),
            "gradient_calls": self.ledger.gradient_calls,
            "evaluate_calls": self.ledger.evaluate_calls,
            "aggregate_calls": self.ledger.aggregate_calls,
            "cold_calls": self.ledger.cold_calls,
            "gb_seconds": self.ledger.gb_seconds,
            "function_ms": self.ledger.function_ms,
            "busy_ms": self.ledger.busy_ms,
            "phase_ms": self.phases.to_json(),
            "wall_ms": self.wall_ms,
            "functions": [function(job.gradient.about()), function(job.aggregate.about())],
        })
    }

    /// The summary as a table for people.
    pub fn to_table(&self, job: &Job, checkpoint: Option<&Path>) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let why = if self.stopped_early { ", stopped early" } else { "" };
        row("rounds", format!("{}{why}", self.rounds));
        for (name, evaluation) in [("validation", self.validation), ("test", self.test)] {
            let Some(evaluation) = evaluation else { continue };
            row(name, evaluation_text(&evaluation));
        }
        for (peer, hash) in &self.state_hashes {
            row(&format!("state of {peer:?}"), hash.to_string());
        }
        let Ledger { gradient_calls, evaluate_calls, aggregate_calls, cold_calls, gb_seconds, .. } = self.ledger;
        let warm = gradient_calls + evaluate_calls + aggregate_calls - cold_calls;
        row("calls", format!("{gradient_calls} gradient, {evaluate_calls} evaluate, {aggregate_calls} aggregate"));
        row("cold / warm", format!("{cold_calls} / {warm}"));
        row("GB-seconds", format!("{gb_seconds:.3}"));
        for (phase, ms) in self.phases.named() {
            row(phase, format!("{ms:.0} ms"));
        }
        row("wall", format!("{:.1} s", self.wall_ms / 1e3));
        for About { world, name, digest, .. } in [job.gradient.about(), job.aggregate.about()] {
            row(&format!("{world} function"), format!("{name} {}", &digest[..16]));
        }
        if let Some(path) = checkpoint {
            row("checkpoint", path.display().to_string());
        }
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
    }
}
