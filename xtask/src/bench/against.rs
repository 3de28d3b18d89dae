//! Figures of two checkouts, measured alternately on one machine.
//!
//! Machines change their pace, so what counts is the ratio within a pair of runs, one right after the other.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{Format, build, measure};

/// Pairs of runs; the median counts.
const PAIRS: usize = 5;
/// What a figure may be worse by.
const WORSE_MAX: f64 = 0.05;
/// Figures of which more is better; of all others, less is.
const MORE_IS_BETTER: [&str; 1] = ["parallel_speedup"];
/// Figures that describe what was measured.
const SIZES: [&str; 1] = ["round_parameters"];

pub(super) fn run(root: &Path, before: &Path, format: Format) -> Result<()> {
    ensure!(before.join("Cargo.toml").exists(), "`{}` is not a checkout: it has no `Cargo.toml`", before.display());
    for checkout in [root, before] {
        build(checkout)?;
    }
    let mut pairs = Vec::with_capacity(PAIRS);
    for pair in 1..=PAIRS {
        eprintln!("pair {pair} of {PAIRS}");
        // The order alternates as well: the second of a pair finds a warmer machine.
        let (now, then) = if pair % 2 == 1 {
            let now = measure(root)?;
            (now, measure(before)?)
        } else {
            let then = measure(before)?;
            (measure(root)?, then)
        };
        for (name, _) in now.iter().filter(|(name, _)| pair == 1 && !then.contains_key(*name)) {
            eprintln!("`{name}` is not compared: the other checkout does not measure it");
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

/// One figure of both checkouts.
struct Compared {
    /// Medians.
    now: f64,
    before: f64,
    /// Median of the pairs' ratios, now to before.
    ratio: f64,
    /// How far the pairs' ratios are apart.
    spread: f64,
    more_is_better: bool,
}

impl Compared {
    /// Whether it is worse by more than it may be, and by more than the pairs differ among themselves.
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
        let (now, before) = (median(now), median(before));
        let compared = Compared { now, before, ratio: median(ratios), spread: highest - lowest, more_is_better };
        Ok((name.clone(), compared))
    });
    compared.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
