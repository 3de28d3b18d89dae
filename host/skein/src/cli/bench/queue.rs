//! `skein bench queue`: a queue of empty tasks, posted and worked off by real processes.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use skein_kernels::Digest;
use skein_store::redis::Scope;
use skein_store::redis::queue::{Completion, Consumer, Delivery, Outcome, Pace, Place, Queue as WorkQueue, Role, Task};

use crate::cli::worker::Database;
use crate::output::Output;
use crate::worker::{PACE, place};

/// Tasks that one worker has at the same time: enough to keep its connection busy.
const AT_ONCE: usize = 64;
/// Short beats: what a killed worker held is handed out again within the time of the benchmark.
const BEAT: Duration = Duration::from_millis(250);
const WAIT: Duration = Duration::from_secs(1);
const ROUND: u64 = 1;

/// Arguments of `skein bench queue`.
#[derive(clap::Args)]
pub(crate) struct Queue {
    #[command(flatten)]
    database: Database,
    /// Post so many tasks, wait until all are done and check them; without this, work until killed
    #[arg(long, value_name = "N")]
    post: Option<u32>,
}

impl Queue {
    pub(super) async fn run(self, output: &mut Output) -> Result<()> {
        let options = self.database.options();
        let scope = Scope { job: Digest([0xbe; 32]), peer: [1; 32], values: 0 };
        let Some(count) = self.post else {
            let place = Place { pace: Pace { beat: BEAT, ..PACE }, ..place(Role::Worker)? };
            let consumer = Consumer::join(&options, scope, place).await?;
            return work(&consumer).await;
        };
        let queue = WorkQueue::open(&options, scope).await?;
        let tasks: Vec<Task> = (0..count).map(|index| Task { round: ROUND, index, note: String::new() }).collect();
        let begun = std::time::Instant::now();
        queue.post(ROUND, count, &tasks).await?;
        let outcome = loop {
            if let Some(outcome) = queue.wait(ROUND, WAIT).await? {
                break outcome;
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(outcome == Outcome::Done, "a task was lost to the dead letters: {outcome:?}");
        let counted = queue.counted(ROUND).await?;
        Ok(output.result(
            || format!("{count} tasks in {seconds:.1} s, {counted:?}\n"),
            || {
                json!({
                    "tasks": count,
                    "seconds": seconds,
                    "tasks_per_second": f64::from(count) / seconds,
                    "tasks_counted": counted.tasks,
                    "count": counted.count,
                })
            },
        )?)
    }
}

/// Takes tasks and says that they are done, many at the same time.
async fn work(consumer: &Consumer) -> Result<()> {
    loop {
        let deliveries: Vec<Delivery> = consumer.next(AT_ONCE, WAIT).await?;
        let completions = deliveries.iter().map(|delivery| consumer.complete(delivery));
        for completion in futures_util::future::join_all(completions).await {
            if completion? == Completion::Fenced {
                tracing::warn!("a task was taken by another worker");
            }
        }
    }
}
