//! `skein status`: what a run's folder holds.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use skein_peer::status::{Evaluated, RunStatus, runs};
use skein_types::counted;

use crate::output::Output;

/// Arguments of `skein status`.
#[derive(clap::Args)]
pub(super) struct StatusArguments {
    /// The folder of `skein train --out` or `skein up --dir`, or the `dir` of a host
    #[arg(value_name = "DIR", required_unless_present = "dir")]
    folder: Option<PathBuf>,
    /// The same, as `skein up` names it
    #[arg(long, value_name = "DIR", conflicts_with = "folder")]
    dir: Option<PathBuf>,
}

impl StatusArguments {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        let dir = self.folder.or(self.dir).expect("one of the two is required");
        let runs = runs(&dir)?;
        let is_one = runs.len() == 1 && runs[0].dir == dir;
        Ok(output.result(
            || runs.iter().map(text).collect::<Vec<_>>().join("\n"),
            || {
                let mut objects = runs.iter().map(object);
                if is_one {
                    objects.next().unwrap_or_default()
                } else {
                    json!({ "peers": objects.collect::<Vec<_>>() })
                }
            },
        )?)
    }
}

fn object(status: &RunStatus) -> Value {
    let mut object = json!(status);
    object["written"] = json!(written(status));
    object
}

fn written(status: &RunStatus) -> Option<String> {
    status.written.map(|time| humantime::format_rfc3339_seconds(time).to_string())
}

fn text(status: &RunStatus) -> String {
    let mut rows = vec![("folder", status.dir.display().to_string())];
    let known = [("job", &status.name), ("run", &status.run), ("job identity", &status.job)];
    rows.extend(known.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    let rounds = status.rounds.map_or_else(String::new, |rounds| format!(" of {rounds}"));
    rows.push(("round", format!("{}{rounds}", status.round)));
    rows.extend(status.loss.map(|loss| ("loss", format!("{loss:.4}"))));
    let evaluations = [("validation", &status.validation), ("test", &status.test)];
    rows.extend(evaluations.into_iter().filter_map(|(name, value)| Some((name, evaluation(value.as_ref()?)))));
    rows.extend(written(status).map(|time| ("last written", time)));
    rows.push(("in use", if status.held { "yes, by a process that trains" } else { "no" }.to_owned()));
    for ancestor in &status.lineage {
        rows.push(("continues", format!("run {} after round {}", ancestor.run, ancestor.round)));
    }
    rows.iter().map(|(name, value)| format!("{name:<12}  {value}\n")).collect()
}

fn evaluation(evaluation: &Evaluated) -> String {
    let Evaluated { round, loss, accuracy, samples } = evaluation;
    let parts = [
        accuracy.map(|accuracy| format!("accuracy {accuracy:.4}")),
        loss.map(|loss| format!("loss {loss:.4}")),
        samples.map(|samples| counted(samples, "sample")),
        round.map(|round| format!("after round {round}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
