//! Keeps the hosts and databases of `skein up --redis` running: one that dies is started again.
//!
//! A process that is killed, or crashes, dies; a host that reports an error has failed, and would fail again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skein_redis::provision::child;
use skein_redis::provision::server::Server;
use skein_types::Status;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::Interrupts;
use crate::output::Output;

/// Pauses before a process is started again: the first, and the longest. Each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A process that has run for so long starts anew without a pause.
const STEADY: Duration = Duration::from_secs(60);
/// Deaths in a row after which a process is given up.
const DEATHS_MAX: u32 = 10;

/// The processes of `skein up --redis`, whose databases have been started.
pub(super) struct Processes<'a> {
    /// Program of the servers.
    pub(super) program: PathBuf,
    /// The databases, with their folders.
    pub(super) databases: Vec<(PathBuf, Server)>,
    /// The hosts, which are to be started.
    pub(super) hosts: Vec<HostProcess<'a>>,
}

/// A host of `skein up`.
pub(super) struct HostProcess<'a> {
    /// Its configuration.
    pub(super) config: PathBuf,
    /// Options of `skein up` that it takes over.
    pub(super) passed_on: &'a [OsString],
    /// Whether it shows its progress, which is the same for all.
    pub(super) is_first: bool,
}

impl Processes<'_> {
    /// Runs all hosts to their end, and then stops the databases, which save their data; returns the hosts' summaries.
    ///
    /// # Errors
    /// A host failed, a process died too often, or the run was interrupted. All of them have ended then too.
    pub(super) async fn run(
        self,
        interrupts: &mut Interrupts,
        status: &Status,
        output: &mut Output,
    ) -> Result<Vec<Value>> {
        let Processes { program, databases, hosts } = self;
        let (notes, mut said) = mpsc::unbounded_channel();
        let stop_hosts = watch::Sender::new(false);
        let stop_databases = watch::Sender::new(false);
        let supervisor = |stop: &watch::Sender<bool>| Supervisor { stopped: stop.subscribe(), notes: notes.clone() };
        let up: Vec<watch::Sender<bool>> = databases.iter().map(|_| watch::Sender::new(true)).collect();
        let databases = databases.into_iter().zip(&up).map(|((dir, server), up)| {
            let database = Database { dir, program: &program, up };
            let database = supervisor(&stop_databases).run_database(server, database, status);
            // Without it, the hosts cannot go on.
            async { database.await.inspect_err(|_| end(&stop_hosts)) }
        });
        let hosts = hosts.into_iter().zip(&up).map(|(host, up)| {
            let host = supervisor(&stop_hosts).run_host(host, up.subscribe());
            async { host.await.inspect_err(|_| end(&stop_hosts)) }
        });
        let mut databases = pin!(all_ended(databases));
        let mut hosts = pin!(all_ended(hosts));
        // All of them failed, which has stopped the hosts too.
        let mut failed = None;
        let ended = loop {
            tokio::select! {
                biased;
                Some(note) = said.recv() => output.info(&note),
                ended = &mut hosts => break ended,
                () = interrupts.next() => end(&stop_hosts),
                ended = &mut databases, if failed.is_none() => failed = Some(ended),
            }
        };
        end(&stop_databases);
        let stopped = match failed {
            Some(failed) => failed,
            None => output.during(status, databases).await,
        };
        let summaries = ended?;
        stopped?;
        summaries.into_iter().collect::<Option<Vec<Value>>>().context("interrupted")
    }
}

/// Asks processes to end.
fn end(stop: &watch::Sender<bool>) {
    stop.send_replace(true);
}

/// Waits until all have ended, and returns the first error if there is one.
async fn all_ended<T>(runs: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    join_all(runs).await.into_iter().collect()
}

/// Keeps one process running.
struct Supervisor {
    /// Becomes true when the process is to end.
    stopped: watch::Receiver<bool>,
    /// What the operator is told.
    notes: mpsc::UnboundedSender<String>,
}

/// A database of `skein up`.
struct Database<'a> {
    dir: PathBuf,
    program: &'a Path,
    /// Whether it runs.
    up: &'a watch::Sender<bool>,
}

/// Deaths of one process in a row.
struct Deaths {
    count: u32,
    started: Instant,
}

impl Deaths {
    fn new() -> Deaths {
        Deaths { count: 0, started: Instant::now() }
    }

    /// How long to wait before the process is started again; `None` if it is given up.
    fn pause(&mut self) -> Option<Duration> {
        if self.started.elapsed() >= STEADY {
            self.count = 0;
        }
        self.count += 1;
        (self.count < DEATHS_MAX).then(|| PAUSE_MIN.saturating_mul(1 << (self.count - 1)).min(PAUSE_MAX))
    }
}

impl Supervisor {
    /// Runs a host to its end, while its database is `up`; returns its summary, or nothing if it was stopped.
    ///
    /// # Errors
    /// The host failed, or died too often.
    async fn run_host(mut self, host: HostProcess<'_>, mut up: watch::Receiver<bool>) -> Result<Option<Value>> {
        let mut deaths = Deaths::new();
        loop {
            tokio::select! {
                // Without its database it would give up soon.
                _ = up.wait_for(|up| *up) => {}
                () = asked(&mut self.stopped) => return Ok(None),
            }
            let mut child = host.spawn()?;
            deaths.started = Instant::now();
            let why = tokio::select! {
                ended = ended(&mut child) => match ended? {
                    Ended::Done(summary) => return Ok(Some(summary)),
                    Ended::Failed(status, why) if *up.borrow() => bail!("a host ended with {status}: {why}"),
                    Ended::Failed(status, _) | Ended::Died(status) => status.to_string(),
                },
                () = asked(&mut self.stopped) => {
                    stop(child).await?;
                    return Ok(None);
                }
            };
            let what = format!("the host of `{}`", host.config.display());
            if !self.waits(&what, &why, &mut deaths).await? {
                return Ok(None);
            }
        }
    }

    /// Runs a database until it is stopped.
    ///
    /// # Errors
    /// The database died too often, or cannot be started or stopped.
    async fn run_database(mut self, mut server: Server, database: Database<'_>, status: &Status) -> Result<()> {
        let Database { dir, program, up } = database;
        let mut deaths = Deaths::new();
        loop {
            let why = tokio::select! {
                ended = server.ended() => ended?,
                () = asked(&mut self.stopped) => return server.stop(status).await,
            };
            up.send_replace(false);
            if !self.waits(&format!("the database in `{}`", dir.display()), &why, &mut deaths).await? {
                return Ok(());
            }
            server = tokio::select! {
                started = Server::start(&dir, program, status) => started?,
                () = asked(&mut self.stopped) => return Ok(()),
            };
            deaths.started = Instant::now();
            up.send_replace(true);
        }
    }

    /// Tells that a process died, and waits until it may be started again; returns whether it is to be.
    async fn waits(&mut self, what: &str, why: &str, deaths: &mut Deaths) -> Result<bool> {
        let pause = deaths.pause().with_context(|| {
            format!(
                "{what} died {DEATHS_MAX} times in a row, the last time with {why}: look into its folder for the reason"
            )
        })?;
        let number = deaths.count;
        let note = format!(
            "warning: {what} died with {why}; it is started again in {:.1} s (death {number} of at most {DEATHS_MAX} in a row)",
            pause.as_secs_f64()
        );
        // If nobody listens any more, the run is ending.
        let _ = self.notes.send(note);
        tokio::select! {
            () = sleep(pause) => Ok(true),
            () = asked(&mut self.stopped) => Ok(false),
        }
    }
}

/// Waits until the processes are to end.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    // Without a sender, nobody asks any more.
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl HostProcess<'_> {
    fn spawn(&self) -> Result<Child> {
        let mut arguments: Vec<OsString> =
            vec!["host".into(), "--config".into(), self.config.clone().into(), "-o".into(), "json".into()];
        arguments.extend_from_slice(self.passed_on);
        if !self.is_first && !arguments.contains(&"--quiet".into()) {
            arguments.push("--quiet".into());
        }
        // The file that runs, even if another version has taken its place by now.
        let program = Path::new("/proc/self/exe");
        let mut command: Command = child::tied_to_parent(program, arguments.iter().map(OsString::as_os_str)).into();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().context("failed to start a host")
    }
}

/// How a host ended.
enum Ended {
    /// With its summary.
    Done(Value),
    /// With an error that it reported.
    Failed(ExitStatus, String),
    /// Without a word.
    Died(ExitStatus),
}

async fn ended(host: &mut Child) -> Result<Ended> {
    let mut text = Vec::new();
    let stdout = host.stdout.as_mut().ok_or_else(|| anyhow!("the output of a host is piped"))?;
    stdout.read_to_end(&mut text).await?;
    let status = host.wait().await?;
    let summary: Value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(match summary["error"].as_str() {
        Some(why) => Ended::Failed(status, why.to_owned()),
        None if status.success() => Ended::Done(summary),
        None => Ended::Died(status),
    })
}

/// Asks a host to write its checkpoint and end, and waits for it.
async fn stop(mut host: Child) -> Result<()> {
    if let Some(pid) = host.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        kill_process(pid, Signal::TERM).context("failed to stop a host")?;
    }
    host.wait().await.context("failed to wait for a host")?;
    Ok(())
}
