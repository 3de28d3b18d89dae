//! The end of a run, as a table for people and as one JSON object.

use std::path::Path;

use serde_json::{Value, json};
use skein_peer::evaluation::Evaluation;
use skein_peer::pool::ms;
use skein_peer::prepare::PreparedJob;
use skein_peer::report::{Summary, evaluation_json};
use skein_runtime::FunctionInfo;
use skein_types::counted;

/// An evaluation, as [`evaluation_json`] writes it, in words.
pub(crate) fn evaluation_text(evaluation: &Value) -> String {
    let number = |key: &str| evaluation[key].as_f64();
    let accuracy = number("accuracy").map_or_else(String::new, |accuracy| format!("accuracy {accuracy:.4}, "));
    let samples = counted(evaluation["samples"].as_u64().unwrap_or_default(), "sample");
    format!("{accuracy}loss {:.4} on {samples}", number("loss").unwrap_or_default())
}

/// The summary as one JSON object. `checkpoint` is the file that the run wrote.
pub(crate) fn to_json(summary: &Summary, prepared: &PreparedJob, checkpoint: Option<&Path>) -> Value {
    let job = &prepared.job;
    let accuracy = |evaluation: &Option<Evaluation>| evaluation.and_then(|evaluation| evaluation.accuracy());
    let function = |about: &FunctionInfo| {
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
        "run": summary.run.to_string(),
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
        "peer_ids": summary.state_hashes.keys().map(ToString::to_string).collect::<Vec<_>>(),
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
        "functions": [function(prepared.gradient.info()), function(prepared.aggregate.info())],
    })
}

/// The summaries of hosts that ran one job, as one object like that of a run in one process. Calls and their resources
/// are summed, times of phases averaged.
pub(crate) fn merge(hosts: &[Value]) -> Value {
    let mut merged = hosts.first().cloned().unwrap_or_default();
    let each = |key: &'static str| hosts.iter().map(move |host| &host[key]);
    for key in ["gradient_calls", "evaluate_calls", "aggregate_calls", "cold_calls"] {
        merged[key] = each(key).filter_map(Value::as_u64).sum::<u64>().into();
    }
    for key in ["gb_seconds", "function_ms", "busy_ms"] {
        merged[key] = each(key).filter_map(Value::as_f64).sum::<f64>().into();
    }
    merged["wall_ms"] = each("wall_ms").filter_map(Value::as_f64).fold(0.0, f64::max).into();
    for (phase, ms) in merged["phase_ms"].as_object_mut().into_iter().flatten() {
        let all = hosts.iter().filter_map(|host| host["phase_ms"][phase].as_f64());
        *ms = (all.sum::<f64>() / hosts.len() as f64).into();
    }
    for key in ["peer_ids", "state_hashes"] {
        merged[key] = each(key).filter_map(Value::as_array).flatten().cloned().collect();
    }
    merged["peers"] = hosts.len().into();
    merged["hosts"] = hosts.into();
    merged
}

/// A summary as a table for people.
pub(crate) fn to_table(summary: &Value) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let why = if summary["stopped_early"] == true { ", stopped early" } else { "" };
    row("rounds", format!("{}{why}", summary["rounds"]));
    for name in ["validation", "test"] {
        if summary[name].is_object() {
            row(name, evaluation_text(&summary[name]));
        }
    }
    let list = |key: &str| summary[key].as_array().into_iter().flatten();
    for (peer, hash) in list("peer_ids").zip(list("state_hashes")) {
        let peer = text(peer);
        row(&format!("state of {}", peer.get(..8).unwrap_or(&peer)), text(hash));
    }
    let calls = |purpose: &str| summary[format!("{purpose}_calls")].as_u64().unwrap_or_default();
    let all = calls("gradient") + calls("evaluate") + calls("aggregate");
    row(
        "calls",
        format!("{} gradient, {} evaluate, {} aggregate", calls("gradient"), calls("evaluate"), calls("aggregate")),
    );
    row("cold / warm", format!("{} / {}", calls("cold"), all.saturating_sub(calls("cold"))));
    row("GB-seconds", format!("{:.3}", number(&summary["gb_seconds"])));
    for (phase, ms) in summary["phase_ms"].as_object().into_iter().flatten() {
        row(phase, format!("{:.0} ms", number(ms)));
    }
    row("wall", format!("{:.1} s", number(&summary["wall_ms"]) / 1e3));
    for function in list("functions") {
        let digest = text(&function["digest"]);
        let digest = digest.trim_start_matches("sha256:");
        let digest = digest.get(..16).unwrap_or(digest);
        row(&format!("{} function", text(&function["world"])), format!("{} {digest}", text(&function["name"])));
    }
    if let Some(path) = summary["checkpoint"].as_str() {
        row("checkpoint", path.to_owned());
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}
