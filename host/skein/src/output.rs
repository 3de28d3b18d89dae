//! What a command shows: bars on a terminal, plain lines where there is none, one object as JSON.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::report::RoundSummary;

/// Longest silence of a run that writes plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// How results are written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// Exactly one JSON object.
    Json,
}

/// Where a command writes. Progress goes to standard error, results to standard output.
pub struct Output {
    format: Format,
    progress: Progress,
}

enum Progress {
    Bar(ProgressBar),
    Lines { next: Instant },
    Silent,
}

impl Output {
    /// An output whose progress fits the terminal, or its absence.
    pub fn new(format: Format, quiet: bool) -> Output {
        let progress = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Progress::Silent,
            (false, true) => Progress::Bar(bar()),
            (false, false) => Progress::Lines { next: Instant::now() },
        };
        Output { format, progress }
    }

    /// Says what is about to happen, before the first round.
    pub fn note(&self, text: &str) {
        if !matches!(self.progress, Progress::Silent) {
            eprintln!("{text}");
        }
    }

    /// Shows that a round was applied.
    pub fn round(&mut self, summary: &RoundSummary<'_>, rounds: u64, rounds_per_second: f64) {
        let report = summary.report;
        let accuracy = report.evaluation.and_then(|evaluation| evaluation.accuracy());
        match &mut self.progress {
            Progress::Bar(bar) => {
                bar.set_length(rounds);
                bar.set_position(report.round);
                let shown = accuracy.map_or_else(|| bar.message(), |accuracy| format!("accuracy {accuracy:.3}"));
                bar.set_message(shown);
                bar.set_prefix(format!("loss {:.4}  {rounds_per_second:.1} rounds/s", report.loss));
            }
            Progress::Lines { next } if Instant::now() >= *next || report.round == rounds => {
                *next = Instant::now() + LINE_EVERY;
                let accuracy = accuracy.map_or_else(String::new, |a| format!("  validation accuracy {a:.3}"));
                let present = format!("{}/{} peers", report.present, summary.expected);
                let left = Duration::from_secs_f64((rounds - report.round) as f64 / rounds_per_second.max(1e-9));
                eprintln!(
                    "round {}/{rounds}  loss {:.4}  {present}  {rounds_per_second:.1} rounds/s  {} s left{accuracy}",
                    report.round,
                    report.loss,
                    left.as_secs(),
                );
            }
            Progress::Lines { .. } | Progress::Silent => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Progress::Bar(bar) = &self.progress {
            bar.finish_and_clear();
        }
    }

    /// Writes the result: as text for people, or the object.
    ///
    /// # Errors
    /// Standard output can not be written. Whoever reads it may stop early, as `head` does.
    pub fn result(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> std::io::Result<()> {
        let result = match self.format {
            Format::Text => text(),
            Format::Json => format!("{}\n", json()),
        };
        match std::io::stdout().write_all(result.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes why the command failed, with every cause.
    pub fn error(&mut self, error: &anyhow::Error) {
        self.finish();
        match self.format {
            Format::Text => eprintln!("error: {error:#}"),
            Format::Json => println!("{}", json!({ "error": format!("{error:#}") })),
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {prefix}  {msg}  {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
