//! A database server as a child of this process, which ends with it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::{CONFIG_FILE, LOG_FILE, SOCKET_FILE, child};

/// Programs that are servers, by what they say of themselves. A program of the same name may be something else.
const PROGRAMS: [(&str, &str); 2] = [("redis-server", "Redis server v="), ("valkey-server", "Valkey server v=")];
/// How long a server may take to come up, and to save its data at the end.
const START_WAIT: Duration = Duration::from_secs(20);
const STOP_WAIT: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    /// Starts the server of a folder that [`super::write`] has filled, and waits until it answers its owner.
    ///
    /// Has to be called on a thread that lives as long as the server shall: the system ends it with that thread.
    ///
    /// # Errors
    /// No server is installed, one runs in the folder already, or it does not come up.
    pub async fn start(dir: &Path, program: Option<&Path>) -> Result<Server> {
        let socket = dir.join(SOCKET_FILE);
        ensure!(
            UnixStream::connect(&socket).is_err(),
            "a server listens at `{}` already: it is left alone",
            socket.display()
        );
        let program = find(program)?;
        let mut command: tokio::process::Command = child::bound(&program, [dir.join(CONFIG_FILE).as_os_str()])?.into();
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("failed to start `{}`", program.display()))?;
        let mut server = Server { child, dir: dir.to_owned() };
        let options = super::owner(dir)?;
        // Answering is more than listening: a server that still reads its data is not up.
        let answers = tokio::select! {
            answers = skein_store::redis::reach(&options, START_WAIT) => answers,
            ended = server.ended() => bail!("the database has ended: {}", ended?),
        };
        answers.with_context(|| format!("the database does not come up: {}", server.last_words()))?;
        Ok(server)
    }

    /// What the server wrote last, which says why it ended.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join(LOG_FILE)).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        match last.is_empty() {
            true => "it wrote no log".into(),
            false => last.into_iter().rev().collect::<Vec<_>>().join("; "),
        }
    }

    /// The server's process, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it ends by itself; gives why.
    ///
    /// # Errors
    /// It can not be waited for.
    pub async fn ended(&mut self) -> Result<String> {
        let status = self.child.wait().await?;
        Ok(format!("{status}: {}", self.last_words()))
    }

    /// Lets it save its data and end.
    ///
    /// # Errors
    /// It does not end; it is killed then.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM).context("failed to stop the database")?;
        }
        match tokio::time::timeout(STOP_WAIT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).context("failed to wait for the database"),
            Err(_) => bail!("the database in `{}` did not end, and was killed", self.dir.display()),
        }
    }
}

/// The server's program: the one that is asked for, or the first on the path that says that it is one.
fn find(program: Option<&Path>) -> Result<PathBuf> {
    if let Some(program) = program {
        ensure!(is_server(program), "`{}` does not say that it is a Redis or Valkey server", program.display());
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = PROGRAMS.iter().flat_map(|(name, _)| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    let found = programs.filter(|program| program.is_file()).find(|program| is_server(program));
    found.context("no `redis-server` or `valkey-server` is installed: on Debian `apt install redis-server`")
}

fn is_server(program: &Path) -> bool {
    let Ok(output) = Command::new(program).arg("--version").stdin(Stdio::null()).output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    PROGRAMS.iter().any(|(_, begins)| text.starts_with(begins))
}
