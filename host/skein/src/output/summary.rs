//! The end of a run, as a table for people and as one JSON object.

use std::path::Path;

use serde_json::{Value, json};
use skein_peer::pool::{Ledger, ms};
use skein_peer::prepare::PreparedJob;
use skein_peer::report::{Summary, evaluation_json};
use skein_protocol::announcement::Evaluation;
use skein_runtime::About;

/// An evaluation as text.
pub(crate) fn evaluation_text(evaluation: &Evaluation) -> String {
    let accuracy = evaluation.accuracy().map_or_else(String::new, |accuracy| format!("accuracy {accuracy:.4}, "));
    format!("{accuracy}loss {:.4} on {} samples", evaluation.loss(), evaluation.samples)
}

/// The summary as one JSON object. `checkpoint` is the file that the run wrote.
pub(crate) fn to_json(summary: &Summary, prepared: &PreparedJob, checkpoint: Option<&Path>) -> Value {
    let job = &prepared.job;
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
        "run": job.run_id.to_string(),
        "peers": summary.state_hashes.len(),
        "rounds": summary.rounds,
        "rounds_run": summary.rounds_run,
        "stopped_early": summary.stopped_early,
        "parameters": job.layout.len(),
        "learning_rate": summary.learning_rate,
        "validation_accuracy": accuracy(&summary.validation),
        "validation": summary.validation.as_ref().map(evaluation_json),
        "test_accuracy": accuracy(&summary.test),
        "test": summary.test.as_ref().map(evaluation_json),
        "checkpoint": checkpoint.map(|path| path.display().to_string()),
        "state_hashes": summary.state_hashes.values().map(ToString::to_string).collect::<Vec<_>>(),
        "gradient_calls": summary.ledger.gradient_calls,
        "evaluate_calls": summary.ledger.evaluate_calls,
        "aggregate_calls": summary.ledger.aggregate_calls,
        "cold_calls": summary.ledger.cold_calls,
        "gb_seconds": summary.ledger.gb_seconds,
        "function_ms": summary.ledger.function_ms,
        "busy_ms": summary.ledger.busy_ms,
        "phase_ms": summary.phases.to_json(),
        "wall_ms": summary.wall_ms,
        "functions": [function(prepared.gradient.about()), function(prepared.aggregate.about())],
    })
}

/// The summary as a table for people.
pub(crate) fn to_table(summary: &Summary, prepared: &PreparedJob, checkpoint: Option<&Path>) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    let why = if summary.stopped_early { ", stopped early" } else { "" };
    row("rounds", format!("{}{why}", summary.rounds));
    for (name, evaluation) in [("validation", summary.validation), ("test", summary.test)] {
        let Some(evaluation) = evaluation else { continue };
        row(name, evaluation_text(&evaluation));
    }
    for (peer, hash) in &summary.state_hashes {
        row(&format!("state of {peer:?}"), hash.to_string());
    }
    let Ledger { gradient_calls, evaluate_calls, aggregate_calls, cold_calls, gb_seconds, .. } = summary.ledger;
    let warm = gradient_calls + evaluate_calls + aggregate_calls - cold_calls;
    row("calls", format!("{gradient_calls} gradient, {evaluate_calls} evaluate, {aggregate_calls} aggregate"));
    row("cold / warm", format!("{cold_calls} / {warm}"));
    row("GB-seconds", format!("{gb_seconds:.3}"));
    for (phase, ms) in summary.phases.named() {
        row(phase, format!("{ms:.0} ms"));
    }
    row("wall", format!("{:.1} s", summary.wall_ms / 1e3));
    for About { world, name, digest, .. } in [prepared.gradient.about(), prepared.aggregate.about()] {
        row(&format!("{world} function"), format!("{name} {}", &digest[..16]));
    }
    if let Some(path) = checkpoint {
        row("checkpoint", path.display().to_string());
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}
