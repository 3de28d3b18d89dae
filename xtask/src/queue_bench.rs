//! Times the work queue: empty tasks, and four worker processes, one of which is killed every second.

pub(crate) mod process;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::{Format, output};
use crate::{cargo, program};

const WORKERS: usize = 4;
const KILL_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `cargo xtask queue-bench`.
#[derive(clap::Args)]
pub(crate) struct QueueBench {
    /// Number of tasks to post.
    #[arg(long, default_value_t = 100_000)]
    tasks: u32,
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(crate) fn run(root: &Path, options: &QueueBench) -> Result<()> {
    output(cargo().args(["build", "--quiet", "--release"]).current_dir(root))?;
    let skein = program(root)?;
    let dir = tempfile::tempdir()?;
    let database = dir.path().join("redis");
    let mut server = Command::new(&skein);
    server.args(["redis", "run", "--without-module", "-o", "json", "--dir"]).arg(&database).stdout(Stdio::piped());
    let mut server = Ended(server.spawn()?);
    let mut line = String::new();
    BufReader::new(server.0.stdout.as_mut().context("it is piped")?).read_line(&mut line)?;
    let ready: Value = serde_json::from_str(&line).with_context(|| format!("`skein redis run` printed `{line}`"))?;
    let user = &ready["users"]["worker"];
    let url = user["url"].as_str().context("`skein redis run` printed no `url` of the worker")?;
    let password =
        user["password_file"].as_str().context("`skein redis run` printed no `password_file` of the worker")?;
    let own = std::env::current_exe()?;
    let queue = |rest: &[&str]| {
        let mut command = Command::new(&own);
        command.args(["queue-process", "--redis", url, "--password-file", password]).args(rest);
        command
    };
    let worker = || -> Result<Ended> { Ok(Ended(queue(&[]).stderr(Stdio::null()).spawn()?)) };
    let mut workers: VecDeque<Ended> = (0..WORKERS).map(|_| worker()).collect::<Result<_>>()?;
    let (done, ended) = channel();
    let mut host = queue(&["--post", &options.tasks.to_string()]);
    let host = std::thread::spawn(move || {
        let text = output(&mut host);
        // The receiver is dropped if the main thread has failed.
        let _ = done.send(());
        text
    });
    let mut killed = 0;
    while ended.recv_timeout(KILL_EVERY) == Err(RecvTimeoutError::Timeout) {
        // Kills the worker that has run longest, while it holds tasks.
        drop(workers.pop_front());
        workers.push_back(worker()?);
        killed += 1;
    }
    let text = host.join().map_err(|_| anyhow::anyhow!("the host panicked"))??;
    let mut figures: Value = serde_json::from_str(&text)?;
    let tasks = u64::from(options.tasks);
    ensure!(figures["tasks_counted"] == tasks && figures["count"] == tasks, "tasks were lost or counted twice: {text}");
    figures["workers"] = json!(WORKERS);
    figures["workers_killed"] = json!(killed);
    match options.output {
        Format::Json => println!("{figures}"),
        Format::Text => println!(
            "{} tasks by {WORKERS} workers, {killed} killed and replaced: {:.0} a second, none lost or counted twice",
            tasks,
            figures["tasks_per_second"].as_f64().unwrap_or(f64::NAN)
        ),
    }
    Ok(())
}

/// A process that is killed on drop.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
