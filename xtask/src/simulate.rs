//! Simulates many schedules of the protocol, and prints what happened in them and which broke an invariant.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use skein_simulator::campaign::{self, ROUNDS, Report, Tally, Traffic};
use skein_simulator::{Counts, Model, Outcome, Schedule, Weather};

use crate::bench::Format;
use crate::cargo;

/// Sizes at which the traffic is measured.
const SIZES: [u32; 3] = [4, 16, 64];

/// Arguments of `cargo xtask simulate`.
#[derive(clap::Args)]
pub(crate) struct Simulate {
    /// Number of schedules, besides one of 64 members for 500 others
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Seed of the first schedule
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only of this model: members, Byzantine and crashed ones, as in `7,1,1`
    #[arg(long, value_name = "N,B,C", conflicts_with = "mutants")]
    model: Option<String>,
    /// Print every event and action of the first schedule
    #[arg(long, requires = "model")]
    trace: bool,
    /// Look for a schedule that finds each way to break the protocol, in a build of its own
    #[arg(long)]
    mutants: bool,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(crate) fn run(root: &Path, options: &Simulate) -> Result<()> {
    if options.mutants { find_mutants(root, options) } else { simulate(options) }
}

fn simulate(options: &Simulate) -> Result<()> {
    let schedules = schedules(options)?;
    if let Some(schedule) = schedules.first().filter(|_| options.trace) {
        let outcome = skein_simulator::trace(*schedule, Box::new(|line| println!("{line}")));
        return outcome.violation.map_or(Ok(()), |violation| bail!("{violation}"));
    }
    let begun = Instant::now();
    let report = campaign::run(&schedules, usize::MAX);
    let elapsed = begun.elapsed().as_secs_f64();
    let traffic = SIZES.map(|members| (campaign::traffic(members), campaign::expected_traffic(members)));
    match options.output {
        Format::Json => println!("{}", to_json(&report, &traffic, elapsed)),
        Format::Text => print(&report, &traffic, elapsed),
    }
    ensure!(
        report.failures.is_empty(),
        "{} of {} schedules broke an invariant",
        report.failures.len(),
        schedules.len()
    );
    Ok(())
}

fn schedules(options: &Simulate) -> Result<Vec<Schedule>> {
    let Some(model) = &options.model else { return Ok(campaign::schedules(options.seeds, options.from, None)) };
    let numbers: Result<Vec<u32>, _> = model.split(',').map(str::parse).collect();
    let numbers = numbers.ok().filter(|numbers| numbers.len() == 3);
    let numbers = numbers.with_context(|| format!("`--model` must be three numbers as in `7,1,1`, got `{model}`"))?;
    let model = Model { members: numbers[0], byzantine: numbers[1], crashed: numbers[2] };
    let least = 3 * model.byzantine + 2 * model.crashed + 1;
    ensure!(
        (least..=64).contains(&model.members),
        "`--model` must have between 3b + 2c + 1 = {least} and 64 members, got {}",
        model.members
    );
    let seeds = options.from..options.from + options.seeds;
    let weather = Weather::Foul;
    Ok(seeds.map(|seed| Schedule { seed, model, rounds: ROUNDS, weather, mutant: None }).collect())
}

fn name(model: Model) -> String {
    let Model { members, byzantine, crashed } = model;
    format!("{members},{byzantine},{crashed}")
}

fn to_json(report: &Report, traffic: &[(Traffic, Traffic)], elapsed: f64) -> Value {
    let models = report.tallies.iter().map(|Tally { model, schedules, counts }| {
        json!({
            "model": name(*model), "schedules": schedules, "rounds": counts.rounds, "faults": counts.faults,
            "later_views": counts.later_views, "proofs": counts.proofs, "healings": counts.healings,
            "rollbacks": counts.rollbacks, "recoveries": counts.recoveries, "records": counts.records,
            "bytes": counts.bytes, "events": counts.events, "kept_bytes_max": counts.kept_max,
            "virtual_s": counts.elapsed_ms / 1000,
        })
    });
    let failures = report.failures.iter().map(|Outcome { schedule, violation, .. }| {
        let violation = violation.as_ref().map(ToString::to_string);
        json!({ "seed": schedule.seed, "model": name(schedule.model), "violation": violation })
    });
    let traffic = traffic.iter().map(|(measured, expected)| {
        json!({
            "members": measured.members, "records": measured.records, "bytes": measured.bytes,
            "records_expected": expected.records, "bytes_expected": expected.bytes,
        })
    });
    json!({
        "schedules": report.tallies.iter().map(|tally| tally.schedules).sum::<u64>(),
        "rounds_each": ROUNDS,
        "models": models.collect::<Vec<_>>(),
        "failures": failures.collect::<Vec<_>>(),
        "traffic": traffic.collect::<Vec<_>>(),
        "elapsed_s": elapsed,
    })
}

fn print(report: &Report, traffic: &[(Traffic, Traffic)], elapsed: f64) {
    println!(
        "{:>9} {:>9} {:>7} {:>7} {:>11} {:>7} {:>8} {:>9} {:>10}",
        "model", "schedules", "rounds", "faults", "later views", "proofs", "healings", "rollbacks", "recoveries"
    );
    for Tally { model, schedules, counts } in &report.tallies {
        let Counts { rounds, faults, later_views, proofs, healings, rollbacks, recoveries, .. } = counts;
        println!(
            "{:>9} {schedules:>9} {rounds:>7} {faults:>7} {later_views:>11} {proofs:>7} {healings:>8} {rollbacks:>9} \
             {recoveries:>10}",
            name(*model)
        );
    }
    println!("\n{:>9} {:>22} {:>22}", "members", "records a round each", "bytes a round each");
    for (measured, expected) in traffic {
        let records = format!("{:.2} (formula {:.2})", measured.records, expected.records);
        let bytes = format!("{:.0} (formula {:.0})", measured.bytes, expected.bytes);
        println!("{:>9} {records:>22} {bytes:>22}", measured.members);
    }
    for Outcome { schedule, violation, .. } in &report.failures {
        let violation = violation.as_ref().map(ToString::to_string).unwrap_or_default();
        let model = name(schedule.model);
        println!("\nseed {}: {violation}\n  cargo xtask simulate --seeds 1 --from {0} --model {model}", schedule.seed);
    }
    println!("\n{elapsed:.1} s");
}

/// Builds the simulator with the protocol's mutants, and runs it.
fn find_mutants(root: &Path, options: &Simulate) -> Result<()> {
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "skein-simulator",
        "--features",
        "mutants",
        "--example",
        "mutants",
    ]);
    command.args(["--", &options.seeds.to_string(), &options.from.to_string()]).current_dir(root);
    let output = command.stderr(std::process::Stdio::inherit()).output().context("failed to run cargo")?;
    let text = String::from_utf8(output.stdout).context("the mutants are not text")?;
    let mutants: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    match options.output {
        Format::Json => {
            let rows = mutants.iter().map(|row| {
                let field = |index: usize| row.get(index).copied();
                let number = |index: usize| field(index).and_then(|text| text.parse::<u64>().ok());
                json!({
                    "mutant": field(0), "schedules": number(1), "seed": number(2), "model": field(3),
                    "violation": field(4),
                })
            });
            println!("{}", json!({ "mutants": rows.collect::<Vec<_>>() }));
        }
        Format::Text => mutants.iter().for_each(|row| match row[..] {
            [mutant, tried, seed, model, violation] => {
                println!("{mutant}: found after {tried} schedules (seed {seed}, model {model}): {violation}");
            }
            _ => println!("{}: not found", row.join(", schedules: ")),
        }),
    }
    if !output.status.success() {
        bail!("not all mutants were found");
    }
    Ok(())
}
