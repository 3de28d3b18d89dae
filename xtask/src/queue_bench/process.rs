//! The processes of the queue's benchmark: one posts empty tasks, the others complete them until they are killed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skein_redis::queue::{Completion, Consumer, Delivery, Outcome, Pace, Place, Queue, Role, Task};
use skein_redis::{Options, Scope};
use skein_types::{Digest, PeerId};

/// Most tasks that one worker takes at a time: enough to keep its connection busy.
const AT_ONCE: usize = 64;
/// Short beats, so that the tasks of a killed worker reach another one during the benchmark.
const PACE: Pace =
    Pace { beat: Duration::from_millis(250), rest_min: Duration::from_millis(250), rest_max: Duration::from_secs(5) };
const WAIT: Duration = Duration::from_secs(1);
const ROUND: u64 = 1;

/// Arguments of `cargo xtask queue-process`.
#[derive(clap::Args)]
pub(crate) struct Process {
    /// URL of the database, with its user.
    #[arg(long)]
    redis: String,
    /// File with the user's password.
    #[arg(long)]
    password_file: PathBuf,
    /// Post this many tasks, wait until all are done and check them; without this option, work until killed.
    #[arg(long)]
    post: Option<u32>,
}

pub(crate) fn run(process: &Process) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options =
            Options { password_file: Some(process.password_file.clone()), ..Options::new(process.redis.parse()?) };
        let scope = Scope { run: Digest([0xbe; 32]), peer: PeerId([1; 32]), values: 0 };
        match process.post {
            Some(count) => post(&options, scope, count).await,
            None => work(&options, scope).await,
        }
    })
}

/// Posts tasks, waits until they are done, and prints the figures as one JSON object.
async fn post(options: &Options, scope: Scope, count: u32) -> Result<()> {
    let queue = Queue::open(options, scope).await?;
    let tasks: Vec<Task> = (0..count).map(|index| Task { round: ROUND, index, payload: String::new() }).collect();
    let begun = Instant::now();
    queue.post(ROUND, count, &tasks).await?;
    let outcome = loop {
        if let Some(outcome) = queue.wait(ROUND, WAIT).await? {
            break outcome;
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(outcome == Outcome::Done, "a task was moved to the dead letters: {outcome:?}");
    let counted = queue.counted(ROUND).await?;
    let figures = json!({
        "tasks": count,
        "seconds": seconds,
        "tasks_per_second": f64::from(count) / seconds,
        "tasks_counted": counted.tasks,
        "count": counted.count,
    });
    println!("{figures}");
    Ok(())
}

/// Takes tasks and reports them done, many at the same time.
async fn work(options: &Options, scope: Scope) -> Result<()> {
    let place = Place { name: format!("bench-{}", std::process::id()), role: Role::Worker, pace: PACE };
    let consumer = Consumer::join(options, scope, place).await.context("failed to join the queue")?;
    loop {
        let deliveries: Vec<Delivery> = consumer.next(AT_ONCE, WAIT).await?;
        let completions = deliveries.iter().map(|delivery| consumer.complete(delivery));
        for completion in futures_util::future::join_all(completions).await {
            if completion? == Completion::Fenced {
                eprintln!("a task was taken by another worker");
            }
        }
    }
}
