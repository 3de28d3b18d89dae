//! Compares the figures of two checkouts, measured alternately on one machine.
//!
//! Machines change their speed, so only the ratio within a pair of consecutive runs counts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{Format, build, measure};
use crate::target_folder;

/// Pairs of runs; the median counts.
const PAIRS: usize = 5;
/// Share by which a figure may be worse.
const WORSE_MAX: f64 = 0.05;
/// Figures that should be high; all others should be low.
const MORE_IS_BETTER: [&str; 1] = ["parallel_speedup"];
/// Figures that describe the measured job, and are not compared.
const SIZES: [&str; 1] = ["round_parameters"];

pub(super) fn run(root: &Path, before: &Path, format: Format) -> Result<()> {
    ensure!(before.join("Cargo.toml").exists(), "`{}` is not a checkout: it has no `Cargo.toml`", before.display());
    let folder = target_folder(root)?;
    ensure!(
        folder != target_folder(before)?,
        "both checkouts build in `{}`, where each would replace the other: unset `CARGO_TARGET_DIR` and \
         `CARGO_BUILD_TARGET_DIR`, and remove `build.target-dir` from cargo's configuration",
        folder.display()
    );
    for checkout in [root, before] {
        build(checkout)?;
    }
    let mut pairs = Vec::with_capacity(PAIRS);
    for pair in 1..=PAIRS {
        eprintln!("pair {pair} of {PAIRS}");
        // The order alternates too: the second run of a pair finds a warmer machine.
        let (now, then) = if pair % 2 == 1 {
            let now = measure(root)?;
            (now, measure(before)?)
        } else {
            let then = measure(before)?;
            (measure(root)?, then)
        };
        for (name, _) in now.iter().filter(|(name, _)| pair == 1 && !then.contains_key(*name)) {
            eprintln!("skipping `{name}`: the other checkout does not measure it");
        }
        pairs.push((now, then));
    }
    let compared = compare(&pairs)?;
    let worse: Vec<&str> = compared.iter().filter(|(_, c)| c.is_worse()).map(|(name, _)| name.as_str()).collect();
    match format {
        Format::Json => {
            let figures: Map<String, Value> = compared.iter().map(|(name, c)| (name.clone(), c.to_json())).collect();
            println!("{}", json!({ "pairs": PAIRS, "figures": figures, "worse": worse }));
        }
        Format::Text => {
            let head = format!("median of {PAIRS} pairs");
            println!("{head:<28} {:>12} {:>12} {:>8} {:>8}", "now", "before", "ratio", "spread");
            for (name, c) in &compared {
                let verdict = if c.is_worse() { "  worse" } else { "" };
                println!("{name:<28} {:>12.3} {:>12.3} {:>8.3} {:>8.3}{verdict}", c.now, c.before, c.ratio, c.spread);
            }
        }
    }
    Ok(())
}

/// One figure, measured in both checkouts.
struct Compared {
    /// Median in this checkout.
    now: f64,
    /// Median in the other checkout.
    before: f64,
    /// Median of the pairs' ratios, now to before.
    ratio: f64,
    /// Highest minus lowest of the pairs' ratios.
    spread: f64,
    more_is_better: bool,
}

impl Compared {
    /// Whether the figure is worse by more than [`WORSE_MAX`] and by more than the spread of the pairs.
    fn is_worse(&self) -> bool {
        let worse_by = if self.more_is_better { 1.0 - self.ratio } else { self.ratio - 1.0 };
        worse_by > WORSE_MAX && worse_by > self.spread
    }

    fn to_json(&self) -> Value {
        let Compared { now, before, ratio, spread, .. } = self;
        json!({ "now": now, "before": before, "ratio": ratio, "spread": spread, "is_worse": self.is_worse() })
    }
}

/// Figures by their names.
type Figures = Map<String, Value>;

fn compare(pairs: &[(Figures, Figures)]) -> Result<BTreeMap<String, Compared>> {
    let (now, then) = pairs.first().context("no pair was measured")?;
    let names = now.keys().filter(|name| !SIZES.contains(&name.as_str()) && then.contains_key(*name));
    let compared = names.map(|name| {
        let figure = |figures: &Figures| {
            figures.get(name).and_then(Value::as_f64).with_context(|| format!("a run has no figure `{name}`"))
        };
        let now = pairs.iter().map(|(now, _)| figure(now)).collect::<Result<Vec<_>>>()?;
        let before = pairs.iter().map(|(_, before)| figure(before)).collect::<Result<Vec<_>>>()?;
        let ratios: Vec<f64> =
            now.iter().zip(&before).map(|(now, before)| now / before.max(f64::MIN_POSITIVE)).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let more_is_better = MORE_IS_BETTER.contains(&name.as_str());
        let spread = highest - lowest;
        let compared =
            Compared { now: median(now), before: median(before), ratio: median(ratios), spread, more_is_better };
        Ok((name.clone(), compared))
    });
    compared.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
