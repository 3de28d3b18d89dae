//! Measures averaging and updating in the database, against clients and scripts that do the same.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use skein_peer::pool::ms;
use skein_redis::provision::program::Places;
use skein_redis::provision::server::Server;
use skein_redis::provision::{SOCKET_FILE, Settings, module_file, owner, write};
use skein_types::Status;

use crate::paths::{Bench, LUA_PARAMETERS, Measured};

/// The sizes and repetitions to measure.
#[derive(Debug, Clone, Copy)]
pub struct StoreBench {
    /// Number of parameters of the model.
    pub parameters: u32,
    /// Number of gradients to average.
    pub gradients: u16,
    /// How often each path is measured; the median counts.
    pub repetitions: u32,
}

/// Answers to `PING` to measure while the database aggregates.
const PINGS: usize = 2000;

/// Measurements of the paths, one entry per repetition.
#[derive(Default)]
struct Paths {
    in_database: Vec<Measured>,
    accumulated: Vec<Measured>,
    plain: Vec<Measured>,
    raw: Vec<Measured>,
    lua: Vec<Measured>,
    channel_in: Vec<Duration>,
    channel_out: Vec<Duration>,
    pings: Map<String, Value>,
}

impl StoreBench {
    /// Measures every path, with and without the module, on databases started for it. Returns the figures by name.
    ///
    /// # Errors
    /// A database does not start or fails a command.
    pub fn run(self) -> BoxFuture<'static, Result<Map<String, Value>>> {
        Box::pin(async move {
            let folder = tempfile::tempdir()?;
            let mut paths = Paths::default();
            self.measure(&folder.path().join("module"), true, &mut paths).await?;
            self.measure(&folder.path().join("plain"), false, &mut paths).await?;
            Ok(self.figures(&paths))
        })
    }

    /// Measures the paths of one kind of database.
    async fn measure(&self, dir: &std::path::Path, has_module: bool, paths: &mut Paths) -> Result<()> {
        let parameters = self.parameters as usize;
        let gradients = usize::from(self.gradients);
        // The gradients, as many copies of the parameters as the paths make, and a margin.
        let memory_mib = ((gradients + 24) * parameters * 4).div_ceil(1 << 20) as u64 * 2 + 1024;
        let module: Option<PathBuf> = if has_module { Some(module_file()?) } else { None };
        write(&Settings { dir: dir.to_owned(), listen: None, tls: None, memory_mib, module })?;
        // A measurement does not report its status.
        let status = Status::default();
        let server = Server::start(dir, &Places::of_user(None).find(false)?, &status).await?;
        let bench = Bench::new(&owner(dir)?, &dir.join(SOCKET_FILE), parameters, gradients)?;
        if has_module {
            self.measure_module(&bench, paths).await?;
        } else {
            self.measure_strings(&bench, paths).await?;
        }
        drop(bench);
        server.stop(&status).await
    }

    async fn measure_module(&self, bench: &Bench, paths: &mut Paths) -> Result<()> {
        bench.fill_module().await?;
        let mut round = 1;
        // The first repetition runs on cold memory and does not count.
        for repetition in 0..=self.repetitions {
            let in_database = bench.in_database(round).await?;
            let accumulated = bench.accumulated(round + 1).await?;
            round += 2;
            if repetition > 0 {
                paths.in_database.push(in_database);
                paths.accumulated.push(accumulated);
            }
        }
        for rule in ["mean", "trimmed-mean"].into_iter().filter(|_| self.gradients > 2) {
            let pings;
            (pings, round) = bench.pings_meanwhile(round, rule, PINGS).await?;
            let mut put = |what: &str, ping: usize| {
                paths.pings.insert(format!("ping_{what}_ms_{}", rule.replace('-', "_")), json!(ms(pings[ping])));
            };
            put("p99", pings.len() * 99 / 100);
            put("max", pings.len() - 1);
        }
        Ok(())
    }

    async fn measure_strings(&self, bench: &Bench, paths: &mut Paths) -> Result<()> {
        bench.fill_strings().await?;
        for repetition in 0..=self.repetitions {
            let raw = bench.raw_client().await?;
            let (stored, fetched) = bench.channel().await?;
            if repetition > 0 {
                paths.raw.push(raw);
                paths.channel_in.push(stored);
                paths.channel_out.push(fetched);
            }
        }
        let moved = bench.parameters("GET").await?;
        ensure!(moved.iter().all(|value| value.is_finite()), "the client's parameters are not finite");
        let store = bench.open_store().await?;
        for round in 1..=u64::from(self.repetitions.min(3)) {
            paths.plain.push(bench.plain_store(&store, round).await?);
            paths.lua.push(bench.lua_json().await?);
        }
        Ok(())
    }

    fn figures(&self, paths: &Paths) -> Map<String, Value> {
        let mut figures = Map::new();
        let mut put = |name: &str, value: f64| figures.insert(name.to_owned(), json!(value));
        let scale = f64::from(self.parameters) / LUA_PARAMETERS as f64;
        let raw = median(&paths.raw);
        for (name, measured, scale) in [
            ("in_database", &paths.in_database, 1.0),
            ("accumulate_on_arrival", &paths.accumulated, 1.0),
            ("raw_client", &paths.raw, 1.0),
            ("plain_redis", &paths.plain, 1.0),
            ("lua_json", &paths.lua, scale),
        ] {
            put(&format!("{name}_ms"), median(measured) * scale);
            let bytes = measured.iter().map(|measured| measured.bytes).min().unwrap_or_default();
            put(&format!("{name}_bytes"), bytes as f64 * scale);
        }
        let lua = median(&paths.lua) * scale;
        put("saved_against_raw_client", 1.0 - median(&paths.in_database) / raw);
        put("saved_on_arrival_against_raw_client", 1.0 - median(&paths.accumulated) / raw);
        put("saved_against_lua_json", 1.0 - median(&paths.in_database) / lua);
        put("lua_json_parameters_measured", LUA_PARAMETERS as f64);
        let bytes = 4.0 * f64::from(self.parameters);
        let rate = |durations: &[Duration]| {
            let mut seconds: Vec<f64> = durations.iter().map(Duration::as_secs_f64).collect();
            seconds.sort_by(f64::total_cmp);
            bytes / 1e9 / seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
        };
        put("channel_in_gb_per_s", rate(&paths.channel_in));
        put("channel_out_gb_per_s", rate(&paths.channel_out));
        put("parameters", f64::from(self.parameters));
        put("gradients", f64::from(self.gradients));
        figures.extend(paths.pings.clone());
        figures
    }
}

/// The median duration, in milliseconds.
fn median(measured: &[Measured]) -> f64 {
    let mut durations: Vec<Duration> = measured.iter().map(|measured| measured.duration).collect();
    durations.sort();
    durations.get(durations.len() / 2).copied().map_or(f64::NAN, ms)
}
