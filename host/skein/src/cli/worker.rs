//! `skein worker` and `skein queue`: more compute for a peer, and the tasks that failed everywhere.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use skein_peer::bundle::{self, WorkerFunction};
use skein_peer::worker::{QueueWorker, WorkerSummary, place};
use skein_redis::queue::{Consumer, DeadLetter, Queue, Role, ScopeReader};
use skein_redis::{Address, Options, Scope, Tls};
use skein_store::StoreError;
use skein_types::{Digest, PeerId};
use tokio::sync::watch;

use super::Interrupts;
use super::compute::{ComputeOptions, Host};
use crate::output::Output;

/// Connection to a database. Secrets come from files or the environment.
#[derive(clap::Args)]
pub(super) struct Database {
    /// The peer's database: `redis://user@host:port`, `rediss://…`, `unix://user@/path` and more
    #[arg(long, value_name = "URL")]
    redis: Address,
    /// File whose first line is the password [default: the variable `SKEIN_REDIS_PASSWORD`]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The authority that signed the server's certificate
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this client
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_certificate: Option<PathBuf>,
    /// Key of this client's certificate
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Use a server with known vulnerabilities, such as one whose distribution has fixed them
    #[arg(long)]
    allow_vulnerable: bool,
}

impl Database {
    pub(super) fn options(self) -> Options {
        let Database { redis, password_file, tls_ca, tls_certificate, tls_key, allow_vulnerable } = self;
        let tls = tls_ca.map(|ca| Tls { ca, certificate: tls_certificate, key: tls_key });
        Options { password_file, tls, allow_vulnerable, ..Options::new(redis) }
    }
}

/// The job and peer whose work is in a database.
async fn scope(database: &ScopeReader, options: &Options) -> Result<Scope> {
    let scope = database.read().await?;
    scope.with_context(|| format!("no host has used the database `{}` yet: start the host first", options.url))
}

/// How often a worker looks whether its host has begun another run.
const WATCH: Duration = Duration::from_secs(2);

/// Arguments of `skein worker`.
#[derive(clap::Args)]
pub(super) struct WorkerArguments {
    #[command(flatten)]
    database: Database,
    /// Public key of the database's host, as `skein identity` prints it: only what it signed runs here
    #[arg(long, value_name = "KEY", value_parser = peer_key)]
    peer: PeerId,
}

pub(super) fn peer_key(text: &str) -> Result<PeerId, String> {
    let key: Result<Digest, _> = text.parse();
    key.map(|key| PeerId(key.0)).map_err(|_| {
        "a public key has 64 hexadecimal digits: `skein identity --key-file FILE` prints that of a host".to_owned()
    })
}

impl WorkerArguments {
    pub(super) async fn run(self, mut compute: ComputeOptions, output: &mut Output) -> Result<()> {
        let WorkerArguments { database, peer } = self;
        let options = database.options();
        let mut interrupts = Interrupts::listen()?;
        let mut total = WorkerSummary::default();
        let scopes = ScopeReader::open(&options).await?;
        let mut next = Some(scope(&scopes, &options).await?);
        while let Some(scope) = next.take() {
            anyhow::ensure!(
                scope.peer == peer,
                "the database `{}` is that of peer {}, not of {peer} (`--peer`): ask its owner which key is right",
                options.url,
                scope.peer
            );
            let worker = tokio::select! {
                worker = prepare(&options, scope, &mut compute, output) => worker?,
                () = interrupts.next() => break,
            };
            output.info(&format!(
                "working on the queue of `{}`, up to {} calls at a time",
                options.url,
                worker.pool.concurrency()
            ));
            let (stop, stopped) = watch::channel(false);
            let run = worker.run(stopped);
            let other = other_run(&scopes, scope);
            tokio::pin!(run, other);
            let mut is_leaving = false;
            total += loop {
                tokio::select! {
                    done = &mut run => break done?,
                    other = &mut other, if !is_leaving && next.is_none() => {
                        output.info(&format!("the host has begun another run: {}", other.run));
                        next = Some(other);
                        stop.send_replace(true);
                    }
                    () = interrupts.next() => {
                        is_leaving = true;
                        stop.send_replace(true);
                    }
                }
            };
            next = next.filter(|_| !is_leaving);
        }
        Ok(output.result(|| summary(&total), || json!(total))?)
    }
}

/// A worker for the run of a host, with the function that the host has signed.
async fn prepare(
    options: &Options,
    scope: Scope,
    compute: &mut ComputeOptions,
    output: &mut Output,
) -> Result<QueueWorker> {
    let consumer = Consumer::join(options, scope, place(Role::Worker)?).await?;
    let job = bundle::read(consumer.queue(), scope).await?;
    compute.memory_mib = job.ceilings().total.memory_mib;
    let host = Host::start(compute)?;
    let unpack = bundle::unpack(job, consumer.queue(), host.tools());
    let WorkerFunction { gradient, layout, batch_size } = output.during(&host.status, unpack).await?;
    let store = skein_redis::open(options, scope).await.map_err(|error| match error {
        StoreError::Vulnerable { .. } => anyhow!("{error} (here: `--allow-vulnerable`)"),
        error => error.into(),
    })?;
    anyhow::ensure!(
        layout.len() == scope.values,
        "the model has {} values here and {} on the host: use the same version of this program",
        layout.len(),
        scope.values
    );
    Ok(QueueWorker { pool: host.pool, gradient, layout, batch_size, store, consumer })
}

/// Waits until the host of a database has begun another run than that of `scope`.
async fn other_run(scopes: &ScopeReader, scope: Scope) -> Scope {
    loop {
        tokio::time::sleep(WATCH).await;
        // Without the database there is no work: the worker itself reports it.
        if let Ok(Some(other)) = scopes.read().await
            && other.run != scope.run
        {
            return other;
        }
    }
}

/// The work of a worker, as text.
fn summary(done: &WorkerSummary) -> String {
    let WorkerSummary { counted, late, released, pauses, last_failure } = done;
    let mut text = format!("{counted} tasks counted, {late} late, {released} returned\n");
    if let Some(reason) = last_failure {
        text += &format!("paused {pauses} times because tasks failed, the last time: {reason}\n");
    }
    text
}

/// Arguments of `skein queue`.
#[derive(clap::Subcommand)]
pub(super) enum QueueCommand {
    /// List the tasks that neither a worker nor the host could complete, with the host's reasons
    Dead {
        #[command(flatten)]
        database: Database,
    },
    /// Post all of them again, for any worker or the host
    Redrive {
        #[command(flatten)]
        database: Database,
    },
}

impl QueueCommand {
    pub(super) async fn run(self, output: &mut Output) -> Result<()> {
        let (database, is_redrive) = match self {
            QueueCommand::Dead { database } => (database, false),
            QueueCommand::Redrive { database } => (database, true),
        };
        let options = database.options();
        let scope = scope(&ScopeReader::open(&options).await?, &options).await?;
        let queue = Queue::open(&options, scope).await?;
        let letters = queue.dead_letters().await?;
        if is_redrive {
            for letter in &letters {
                queue.redrive(letter).await?;
            }
        }
        let what = if is_redrive { "posted again" } else { "dead" };
        let line = |letter: &DeadLetter| {
            format!("round {} batch {}: {what}: {}\n", letter.task.round, letter.task.index, letter.reason)
        };
        Ok(output.result(
            || if letters.is_empty() { "no dead letters\n".into() } else { letters.iter().map(line).collect() },
            || {
                let letter = |letter: &DeadLetter| {
                    json!({ "round": letter.task.round, "batch": letter.task.index, "reason": letter.reason })
                };
                json!({ "letters": letters.iter().map(letter).collect::<Vec<_>>(), "redriven": is_redrive })
            },
        )?)
    }
}
