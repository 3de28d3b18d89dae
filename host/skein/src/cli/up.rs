//! `skein up`: the peers of a job on this machine, in one command.

mod supervise;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use skein_graph::Lowering;
use skein_job::manifest::quoted;
use skein_job::{Job, Manifest, Members};
use skein_peer::ceilings::Ceilings;
use skein_peer::checkpoint::{self, CheckpointFile, KEEP_DEFAULT, MANIFEST_FILE};
use skein_peer::host::config::{CheckpointConfig, Config, HOST_FILE, Key, Member};
use skein_protocol::identity::Identity;
use skein_redis::provision::asked::{Module, RequestedSettings};
use skein_redis::provision::program::Places;
use skein_redis::provision::server::Server;
use skein_redis::provision::{owner, reader};
use skein_types::{Status, counted};

use self::supervise::{HostProcess, Processes};
use super::Interrupts;
use super::compute::{ComputeOptions, in_host, on_this_thread};
use super::job::JobArguments;
use super::model::warn_of_removed_parts;
use super::train::{Train, nothing_is_kept};
use crate::output::Output;
use crate::output::summary::{merge, to_table};

/// The commands that keep the trained model; without databases this command does not.
const HINT_IN_ONE_PROCESS: &str = "`skein train --out DIR` or `skein up --redis --dir DIR`";
/// Memory of each database by default, in MiB.
const MEMORY_MIB: u64 = 2048;

/// Arguments of `skein up`.
#[derive(clap::Args)]
pub(super) struct Up {
    #[command(flatten)]
    job: JobArguments,
    /// Run each peer as a process with its own Redis; without this, all run in one process and need no server
    #[arg(long)]
    redis: bool,
    /// Load no module into the databases: the hosts compute
    #[arg(long, requires = "redis")]
    without_module: bool,
    /// Program of the servers [default: as for `skein redis run`]
    #[arg(long, value_name = "FILE", requires = "redis")]
    server: Option<PathBuf>,
    /// Memory of each database, in MiB [default: 2048]
    #[arg(long, value_name = "MIB", requires = "redis")]
    memory: Option<u64>,
    /// Folder for databases, checkpoints and metrics; a run in it is resumed [default: a temporary folder]
    #[arg(long, value_name = "DIR", requires = "redis")]
    dir: Option<PathBuf>,
    /// Number of the run: another number trains the same job once more as a run of its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    run: u64,
    /// Checkpoints of the last rounds that each peer keeps, beside the best one
    #[arg(long, value_name = "N", default_value_t = KEEP_DEFAULT, requires = "dir")]
    keep: NonZeroU32,
}

impl Up {
    pub(super) fn run(self, options: &ComputeOptions, quiet: bool, output: &mut Output) -> Result<()> {
        if !self.redis {
            return in_host(options, async |host| {
                Train::of(self.job, self.run, HINT_IN_ONE_PROCESS).run(host, output).await
            });
        }
        // Child processes end with the thread that started them, which is this one.
        let mut passed_on = options.passed_on();
        if quiet {
            passed_on.push("--quiet".into());
        }
        on_this_thread(self.run_on_redis(&passed_on, output))
    }

    async fn run_on_redis(self, passed_on: &[OsString], output: &mut Output) -> Result<()> {
        if self.dir.is_none() {
            output.info(&nothing_is_kept("`--dir DIR`"));
        }
        let temporary = tempfile::tempdir()?;
        let dir = self.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
        std::fs::create_dir_all(&dir).with_context(|| format!("failed to create the folder `{}`", dir.display()))?;
        let dir = dir.canonicalize()?;
        let manifest = self.job.manifest_in_place()?;
        self.check_folder(&dir, &manifest)?;
        warn_of_removed_parts(&manifest)?;
        let text = toml::to_string(&manifest).context("failed to write the manifest")?;
        std::fs::write(dir.join(MANIFEST_FILE), text).context("failed to write the manifest")?;

        let mut interrupts = Interrupts::listen()?;
        let status = Status::default();
        let peers = manifest.train.peers;
        let program = Places::of_user(self.server.as_deref()).find(false)?;
        let start = async {
            let mut servers = Vec::new();
            for index in 0..peers {
                servers.push(self.start_database(&program, &dir.join(format!("peer-{index}")), &status).await?);
            }
            anyhow::Ok(servers)
        };
        let databases = tokio::select! {
            databases = output.during(&status, start) => databases?,
            () = interrupts.next() => bail!("interrupted before the databases were up"),
        };
        output.info(&format!("{} in `{}`", counted(peers, "database"), dir.display()));
        let configs: Vec<_> = (0..peers).map(|i| self.host_config(&dir, &manifest, i)).collect::<Result<_>>()?;
        let host = |(index, config)| HostProcess { config, passed_on, is_first: index == 0 };
        let hosts = configs.into_iter().enumerate().map(host).collect();
        let finished = Processes { program, databases, hosts }.run(&mut interrupts, &status, output).await;
        let run = if self.run == 0 { String::new() } else { format!(" --run {}", self.run) };
        let job = self.job.repeated() + &run;
        let resumed = |dir: &PathBuf| format!(": resume with `--dir {}{job}`", quoted(&dir.to_string_lossy()));
        let hint = self.dir.as_ref().map(resumed).unwrap_or_default();
        let mut summaries = finished.with_context(|| format!("the peers did not finish{hint}"))?;
        if self.dir.is_none() {
            // They name files that are about to be removed.
            summaries.iter_mut().for_each(|summary| summary["checkpoint"] = Value::Null);
        }
        let summary = merge(&summaries);
        Ok(output.result(|| to_table(&summary), || summary.clone())?)
    }

    /// Checks that the checkpoints in the folder, if any, belong to this run, before anything in it changes.
    fn check_folder(&self, dir: &Path, manifest: &Manifest) -> Result<()> {
        let checkpoints =
            (0..manifest.train.peers).map(|index| dir.join(format!("peer-{index}")).join(checkpoint::FILE));
        let checkpoints: Vec<PathBuf> = checkpoints.filter(|path| path.exists()).collect();
        if checkpoints.is_empty() {
            return Ok(());
        }
        // The lowering changes no identity.
        let members = Members::derived(&manifest.train, self.run);
        let job = Job::prepare(manifest, &members, || Ok(Lowering::portable()))?;
        for path in checkpoints {
            CheckpointFile::open(&path)?.check_run(&job, "undo the change, or choose another folder with `--dir`")?;
        }
        Ok(())
    }

    /// Starts the database of the peer with this folder; returns the database's folder too.
    async fn start_database(&self, program: &Path, dir: &Path, status: &Status) -> Result<(PathBuf, Server)> {
        let asked = RequestedSettings {
            dir: dir.join("redis"),
            listen: None,
            tls: None,
            memory_mib: self.memory,
            module: if self.without_module { Module::Without } else { Module::Own },
        };
        asked.settle(MEMORY_MIB)?;
        let server = Server::start(&asked.dir, program, status).await?;
        Ok((asked.dir, server))
    }

    /// Writes the configuration of one host.
    fn host_config(&self, dir: &Path, manifest: &Manifest, index: u32) -> Result<PathBuf> {
        let database = |index: u32| dir.join(format!("peer-{index}/redis"));
        let member = |index: u32| -> Result<Member> {
            let id = Identity::derived(manifest.train.seed, index).id();
            Ok(Member { id, store: Some(reader(&database(index), None, false)?), invitation: None })
        };
        let config = Config {
            job: dir.join(MANIFEST_FILE),
            dir: dir.join(format!("peer-{index}")),
            identity: Key::Index(index),
            run: self.run,
            checkpoint: CheckpointConfig { keep: self.keep },
            ceilings: Ceilings::default(),
            wait: None,
            store: owner(&database(index))?,
            roster: (0..manifest.train.peers).map(member).collect::<Result<_>>()?,
        };
        let path = config.dir.join(HOST_FILE);
        std::fs::write(&path, toml::to_string(&config)?)
            .with_context(|| format!("failed to write `{}`", path.display()))?;
        Ok(path)
    }
}
