//! A database server as a child of this process, which ends with it.
//!
//! Loading the data at the start and saving it at the end take longer the more data there is. Neither has a deadline;
//! both are bounded by how long the server shows no progress.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use skein_store::StoreError;
use skein_types::{Busy, Status};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{CONFIG_FILE, DATA_DIR, LOG_FILE, SOCKET_FILE, child};
use crate::{Options, Startup, startup};

/// Pauses between two polls of a server that starts: the first, and the longest.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// How long a server may show no progress before it counts as hung.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest time without an answer at the start. A server that loads its data answers after every 2 MiB, and is
    /// silent only while it checks a single value, for seconds at most.
    pub silence: Duration,
    /// Longest time in which its files do not grow at the end. The server writes all the time and syncs every 4 MiB: a
    /// disk that cannot sync within this time is broken.
    pub standstill: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { silence: Duration::from_secs(60), standstill: Duration::from_secs(60) }
    }
}

/// A server process that this program started; dropping it kills the process.
pub struct Server {
    child: Child,
    dir: PathBuf,
    patience: Patience,
}

impl Server {
    /// Starts the server `program`, which [`super::program`] finds, in a folder that [`super::write`] has filled, and
    /// waits until it is ready.
    ///
    /// Call it on a thread that lives as long as the server should: the system ends the server with that thread.
    ///
    /// # Errors
    /// A server already runs in the folder, or this one does not start or become ready.
    pub fn start<'a>(dir: &'a Path, program: &'a Path, status: &'a Status) -> BoxFuture<'a, Result<Server>> {
        Box::pin(async move {
            let socket = dir.join(SOCKET_FILE);
            ensure!(
                UnixStream::connect(&socket).is_err(),
                "a server already listens at `{}`: stop it, or choose another folder",
                socket.display()
            );
            let mut command: tokio::process::Command =
                child::tied_to_parent(program, [dir.join(CONFIG_FILE).as_os_str()]).into();
            command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
            let child = command.spawn().with_context(|| format!("failed to start `{}`", program.display()))?;
            let mut server = Server { child, dir: dir.to_owned(), patience: Patience::default() };
            server.come_up(status).await?;
            Ok(server)
        })
    }

    /// Waits until the server is ready. A server that listens but still loads its data is not.
    async fn come_up(&mut self, status: &Status) -> Result<()> {
        let busy = status.begin(format!("starting the database in `{}`", self.dir.display()));
        let options = super::owner(&self.dir)?;
        let silence = self.patience.silence;
        let serves = tokio::select! {
            serves = until_it_serves(&options, silence, &busy) => serves,
            ended = self.ended() => bail!("the database has ended: {}", ended?),
        };
        serves.with_context(|| format!("the database did not become ready: {}", self.last_words()))
    }

    /// The last three lines of the server's log, which usually explain why it ended.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join(LOG_FILE)).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        if last.is_empty() { "it wrote no log".into() } else { last.into_iter().rev().collect::<Vec<_>>().join("; ") }
    }

    /// The server's process id, or `None` after it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the server ends without being stopped; returns its exit status and last log lines.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub async fn ended(&mut self) -> Result<String> {
        let status = self.child.wait().await?;
        Ok(format!("{status}: {}", self.last_words()))
    }

    /// Lets the server save its data and end, however long that takes.
    ///
    /// # Errors
    /// The server does not end and saves nothing either; it is killed then.
    pub async fn stop(mut self, status: &Status) -> Result<()> {
        let busy = status.begin(format!("saving the data of the database in `{}`", self.dir.display()));
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM).context("failed to stop the database")?;
        }
        let data = self.dir.join(DATA_DIR);
        let mut grown = (Instant::now(), bytes_in(&data));
        loop {
            // A server that saves does not answer: the growth of its files is the only sign of progress.
            if let Ok(ended) = timeout(LOOK_MAX.min(self.patience.standstill), self.child.wait()).await {
                return ended.map(drop).context("failed to wait for the database");
            }
            let now = Instant::now();
            let bytes = bytes_in(&data);
            if bytes != grown.1 {
                grown = (now, bytes);
                busy.detail(format!("{} MiB in its files", bytes >> 20));
            }
            ensure!(
                now - grown.0 < self.patience.standstill,
                "the database in `{}` did not end and saved nothing for {} s: it is killed, and its last save remains",
                self.dir.display(),
                self.patience.standstill.as_secs_f64()
            );
        }
    }
}

/// Waits until the server is ready, for as long as it answers that it is loading its data.
async fn until_it_serves(options: &Options, silence: Duration, busy: &Busy) -> Result<()> {
    let mut heard = Instant::now();
    let mut look = LOOK_MIN;
    loop {
        match timeout_at(heard + silence, startup(options)).await {
            Ok(Ok(Startup::Ready)) => return Ok(()),
            Ok(Ok(Startup::Loading { percent, left })) => {
                heard = Instant::now();
                busy.detail(loaded(percent, left));
            }
            // It does not listen yet, or others have taken all connections already.
            Ok(Err(StoreError::Unreachable { .. } | StoreError::Unready { .. }))
                if heard.elapsed() + look < silence => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => bail!("it did not answer for {} s", silence.as_secs_f64()),
        }
        // A server does not announce that it listens or is ready, so it is polled.
        sleep(look).await;
        look = (look * 2).min(LOOK_MAX).min(silence / 4);
    }
}

fn loaded(percent: Option<f64>, left: Option<Duration>) -> String {
    let percent =
        percent.map_or_else(|| "loading its data".to_owned(), |percent| format!("{percent:.0} % of its data loaded"));
    percent + &left.map_or_else(String::new, |left| format!(", {} s left", left.as_secs()))
}

/// Bytes of all files in a folder; 0 if it cannot be read.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::super::{OWNER, Settings, password_file, ready, write};
    use super::*;

    /// Far less than the servers of these tests take to load or save.
    const PATIENCE: Duration = Duration::from_millis(500);
    const KEYS: usize = 40;
    /// Time a server takes for each key, in microseconds: two seconds for all.
    const KEY_DELAY: u32 = 50_000;

    /// Starts the server of a folder, which is created if it does not exist, with `more` lines of configuration.
    fn start(dir: &Path, more: &str) -> Server {
        let config = dir.join(CONFIG_FILE);
        if !config.exists() {
            let dir = dir.to_owned();
            let made = write(&Settings { dir, listen: None, tls: None, memory_mib: 64, module: None });
            made.expect("a folder is created");
        }
        let text = std::fs::read_to_string(&config).expect("it was written");
        std::fs::write(&config, text + more).expect("written");
        let mut command = tokio::process::Command::new(ready::server());
        let child = command.arg(config).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("it starts");
        Server { child, dir: dir.to_owned(), patience: Patience { silence: PATIENCE, standstill: PATIENCE } }
    }

    /// Writes keys, each larger than the buffer of a file, and returns how many the server has.
    fn fill(dir: &Path, keys: usize) -> usize {
        let mut stream = UnixStream::connect(dir.join(SOCKET_FILE)).expect("it listens");
        let password = std::fs::read_to_string(dir.join(password_file(OWNER))).expect("it was written");
        write!(stream, "AUTH {OWNER} {}\r\n", password.trim()).expect("sent");
        let value = "x".repeat(10_000);
        for key in 0..keys {
            write!(stream, "SET {key} {value}\r\n").expect("sent");
        }
        write!(stream, "DBSIZE\r\n").expect("sent");
        let lines = BufReader::new(stream).lines().map(|line| line.expect("answered"));
        let size = lines.skip(1 + keys).find_map(|line| line.strip_prefix(':').map(str::to_owned));
        size.and_then(|size| size.parse().ok()).expect("a number of keys")
    }

    fn signal(server: &Server, signal: Signal) {
        let id = server.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        kill_process(id, signal).expect("it runs");
    }

    #[tokio::test]
    async fn a_server_that_loads_its_data_for_long_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let status = Status::default();
        let mut server = start(folder.path(), "");
        server.come_up(&status).await.expect("it is ready");
        assert_eq!(fill(folder.path(), KEYS), KEYS);
        server.stop(&status).await.expect("it ends");

        let slow = format!("key-load-delay {KEY_DELAY}\nloading-process-events-interval-bytes 1024\n");
        let begun = Instant::now();
        let mut server = start(folder.path(), &slow);
        server.come_up(&status).await.expect("it is ready");
        assert!(begun.elapsed() > 3 * PATIENCE, "it took only {:?}", begun.elapsed());
        assert_eq!(fill(folder.path(), 0), KEYS);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let status = Status::default();
        let mut server = start(folder.path(), "");
        server.come_up(&status).await.expect("it is ready");
        signal(&server, Signal::STOP);
        let error = server.come_up(&status).await.expect_err("it is stopped");
        assert!(format!("{error:#}").contains("it did not answer for 0.5 s"), "{error:#}");
    }

    #[tokio::test]
    async fn a_server_that_saves_for_long_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let status = Status::default();
        let mut server = start(folder.path(), &format!("rdb-key-save-delay {KEY_DELAY}\n"));
        server.come_up(&status).await.expect("it is ready");
        assert_eq!(fill(folder.path(), KEYS), KEYS);
        let begun = Instant::now();
        server.stop(&status).await.expect("it ends");
        assert!(begun.elapsed() > 3 * PATIENCE, "it took only {:?}", begun.elapsed());
        let mut server = start(folder.path(), "");
        server.come_up(&status).await.expect("it is ready");
        assert_eq!(fill(folder.path(), 0), KEYS, "all keys were saved");
    }

    #[tokio::test]
    async fn a_server_that_neither_ends_nor_saves_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let status = Status::default();
        let mut server = start(folder.path(), "");
        server.come_up(&status).await.expect("it is ready");
        signal(&server, Signal::STOP);
        let error = server.stop(&status).await.expect_err("it is stopped");
        assert!(error.to_string().contains("did not end and saved nothing for 0.5 s"), "{error:#}");
    }
}
