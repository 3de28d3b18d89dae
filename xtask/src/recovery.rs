//! Kills hosts and databases, and times how soon the others go on and how soon the killed peer takes part again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{Format, output};
use crate::cluster::{Cluster, Follower};
use crate::{cargo, program};

const SEED: u64 = 5;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rounds without a fault before the next one.
const QUIET_ROUNDS: u64 = 10;

/// Arguments of `cargo xtask recovery`.
#[derive(clap::Args)]
pub(crate) struct Recovery {
    /// Peers of the job, at least 4.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(4..=16))]
    peers: u32,
    /// How often a host, a database or both of one peer are killed.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Folder for the peers, which is kept; the variable `SKEIN_LOG` says what their hosts log into `notes.txt` there
    /// [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// What is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Host,
    Database,
    Both,
}

pub(crate) fn run(root: &Path, options: &Recovery) -> Result<()> {
    output(cargo().args(["build", "--quiet", "--release"]).current_dir(root))?;
    let manifest = format!(
        "skein_manifest_version = 1\n[application]\nname = \"recovery\"\n[data]\nsource = \"builtin:digits\"\n\
         [model]\nhidden = [16]\n[train]\nseed = {SEED}\npeers = {}\nrounds = 10000000\nlearning_rate = 0.01\n",
        options.peers
    );
    let mut cluster = Cluster::start(&program(root)?, &manifest, options.dir.as_deref())?;
    let mut followers: Vec<Follower> = (0..options.peers).map(|peer| Follower::of(&cluster, peer)).collect();
    let mut outages = Vec::new();
    let mut rejoins = Vec::new();
    for kill in 0..options.kills {
        let peer = kill % options.peers;
        let victim = [Victim::Host, Victim::Database, Victim::Both][(kill / options.peers) as usize % 3];
        let (outage, rejoin) = kill_once(&mut cluster, &mut followers, peer, victim)?;
        if let Format::Text = options.output {
            println!(
                "peer {peer}, {victim:?}: the others go on after {outage:.0} ms, it takes part after {rejoin:.0} ms"
            );
        }
        outages.push(outage);
        rejoins.push(rejoin);
    }
    let last = in_step(&mut cluster, &mut followers)?;
    let figures = json!({
        "peers": options.peers,
        "kills": options.kills,
        "rounds": last,
        "median_ms": median(&mut outages),
        "max_ms": outages.last(),
        "rejoin_median_ms": median(&mut rejoins),
        "rejoin_max_ms": rejoins.last(),
    });
    println!("{figures}");
    Ok(())
}

/// Kills something of one peer while all take part. Returns how long it took the others to apply a round without it, and,
/// from the start of what was killed, how long until all took part again; in milliseconds.
fn kill_once(cluster: &mut Cluster, followers: &mut [Follower], peer: u32, victim: Victim) -> Result<(f64, f64)> {
    let all = followers.len() as u64;
    let quiet = in_step(cluster, followers)? + QUIET_ROUNDS;
    let survivors: Vec<usize> = (0..followers.len()).filter(|other| *other != peer as usize).collect();
    for survivor in &survivors {
        followers[*survivor].wait(cluster, PATIENCE, |round| round.round >= quiet && round.present == all)?;
    }
    let begun = Instant::now();
    if let Victim::Host | Victim::Both = victim {
        cluster.kill_host(peer);
    }
    if let Victim::Database | Victim::Both = victim {
        cluster.kill_database(peer)?;
    }
    for survivor in &survivors {
        followers[*survivor].wait(cluster, PATIENCE, |round| round.present < all)?;
    }
    let outage = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    if let Victim::Database | Victim::Both = victim {
        cluster.start_database(peer)?;
    }
    if let Victim::Host | Victim::Both = victim {
        cluster.start_host(peer)?;
    }
    for survivor in &survivors {
        followers[*survivor].wait(cluster, PATIENCE, |round| round.present == all)?;
    }
    Ok((outage, begun.elapsed().as_secs_f64() * 1e3))
}

/// Waits until all hosts have applied one round, checks that they have the same state after it, and returns it.
fn in_step(cluster: &mut Cluster, followers: &mut [Follower]) -> Result<u64> {
    let first = followers[0].wait(cluster, PATIENCE, |_| true)?;
    let mut latest = first.round;
    for follower in &mut followers[1..] {
        latest = latest.max(follower.wait(cluster, PATIENCE, |_| true)?.round);
    }
    let mut hashes = Vec::new();
    for follower in followers {
        hashes.push(follower.wait(cluster, PATIENCE, |round| round.round > latest)?);
    }
    let common = hashes.iter().map(|round| round.round).max().unwrap_or_default();
    let same: Vec<_> = hashes.iter().filter(|round| round.round == common).collect();
    ensure!(
        same.iter().all(|round| round.state_hash == same[0].state_hash),
        "the hosts have different states: {same:?}"
    );
    Ok(common)
}

/// The median; the values are sorted afterwards.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let len = values.len();
    if len == 0 { f64::NAN } else { (values[(len - 1) / 2] + values[len / 2]) / 2.0 }
}
