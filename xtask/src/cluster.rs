//! Hosts and databases of one job as processes of this machine, which a measurement kills and starts again.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skein_job::{Manifest, Members};
use tempfile::TempDir;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A job whose peers are processes.
pub(crate) struct Cluster {
    dir: PathBuf,
    _temporary: Option<TempDir>,
    skein: PathBuf,
    peers: Vec<Peer>,
}

/// The processes of one peer.
struct Peer {
    host: Option<Ended>,
    database: Option<Database>,
}

struct Database {
    /// The program that started the server, and ends with it.
    runner: Ended,
    server: Pid,
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

/// What an applied round says in the metrics of a host.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// Its number.
    pub(crate) round: u64,
    /// Peers whose contributions were aggregated.
    pub(crate) present: u64,
    /// Hash of the state after it.
    pub(crate) state_hash: String,
}

impl Cluster {
    /// Writes the configurations of the peers of a job, and starts their databases and hosts.
    /// They stay in `dir` if that is given.
    pub(crate) fn start(skein: &Path, manifest: &str, dir: Option<&Path>) -> Result<Cluster> {
        let temporary = if dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let dir = dir.or(temporary.as_ref().map(TempDir::path)).context("there is a folder")?;
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let path = dir.join("skein.toml");
        std::fs::write(&path, manifest)?;
        let ids = Members::derived(&Manifest::load(&path)?.train, 0).peers;
        let peers = ids.len() as u32;
        let none = || Peer { host: None, database: None };
        let peers_started = (0..peers).map(|_| none()).collect();
        let mut cluster = Cluster { dir, _temporary: temporary, skein: skein.to_owned(), peers: peers_started };
        for peer in 0..peers {
            cluster.start_database(peer)?;
        }
        for peer in 0..peers {
            let store = |of: u32, user: &str| {
                let redis = cluster.path(of, "redis");
                format!(
                    "url = \"unix://{user}@{0}/redis.sock\"\npassword_file = \"{0}/{user}.password\"\n",
                    redis.display()
                )
            };
            let mut text = format!(
                "job = \"../skein.toml\"\ndir = \".\"\nidentity = {{ index = {peer} }}\n[store]\n{}",
                store(peer, "owner")
            );
            for (other, id) in (0..).zip(&ids) {
                text += &format!("[[roster]]\nid = \"{id}\"\n[roster.store]\n{}", store(other, "peer"));
            }
            std::fs::write(cluster.path(peer, "host.toml"), text)?;
        }
        for peer in 0..peers {
            cluster.start_host(peer)?;
        }
        Ok(cluster)
    }

    /// A file in the folder of a peer.
    pub(crate) fn path(&self, peer: u32, name: &str) -> PathBuf {
        self.dir.join(format!("peer-{peer}")).join(name)
    }

    /// Starts the database of a peer and waits until it is ready.
    pub(crate) fn start_database(&mut self, peer: u32) -> Result<()> {
        let mut command = Command::new(&self.skein);
        command.args(["redis", "run", "--memory", "1024", "-o", "json", "--dir"]).arg(self.path(peer, "redis"));
        let mut runner = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let mut line = String::new();
        BufReader::new(runner.0.stdout.as_mut().context("it is piped")?).read_line(&mut line)?;
        let ready: Value =
            serde_json::from_str(&line).with_context(|| format!("`skein redis run` printed `{line}`"))?;
        let server = ready["process"].as_i64().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let server = server.with_context(|| format!("`skein redis run` printed `{line}`"))?;
        self.peers[peer as usize].database = Some(Database { runner, server });
        Ok(())
    }

    /// Starts the host of a peer, which writes its notes to a file.
    pub(crate) fn start_host(&mut self, peer: u32) -> Result<()> {
        let notes = File::options().create(true).append(true).open(self.path(peer, "notes.txt"))?;
        let mut command = Command::new(&self.skein);
        command.args(["host", "-o", "json", "--config"]).arg(self.path(peer, "host.toml"));
        command.stdin(Stdio::null()).stdout(notes.try_clone()?).stderr(notes);
        self.peers[peer as usize].host = Some(Ended(command.spawn()?));
        Ok(())
    }

    /// Kills the host of a peer.
    pub(crate) fn kill_host(&mut self, peer: u32) {
        self.peers[peer as usize].host = None;
    }

    /// Kills the database of a peer.
    pub(crate) fn kill_database(&mut self, peer: u32) -> Result<()> {
        let Some(database) = &mut self.peers[peer as usize].database else { return Ok(()) };
        kill_process(database.server, Signal::KILL).context("failed to kill a database")?;
        // Its runner has noticed when it ends, and the next one may start.
        database.runner.0.wait()?;
        self.peers[peer as usize].database = None;
        Ok(())
    }

    /// Fails if a host has ended that should run.
    pub(crate) fn check_hosts(&mut self) -> Result<()> {
        for peer in 0..self.peers.len() {
            let Some(host) = &mut self.peers[peer].host else { continue };
            if let Some(status) = host.0.try_wait()? {
                let notes = std::fs::read_to_string(self.path(peer as u32, "notes.txt")).unwrap_or_default();
                let last: Vec<&str> = notes.lines().rev().take(5).collect();
                bail!("the host of peer {peer} ended with {status}: {}", last.join("; "));
            }
        }
        Ok(())
    }
}

/// Reads the rounds that a host applies as they appear in its metrics.
pub(crate) struct Follower {
    path: PathBuf,
    /// Number of the file, and how much of it was read.
    number: u64,
    at: u64,
    rest: Vec<u8>,
}

impl Follower {
    pub(crate) fn of(cluster: &Cluster, peer: u32) -> Follower {
        Follower { path: cluster.path(peer, "metrics.jsonl"), number: 0, at: 0, rest: Vec::new() }
    }

    /// The rounds since the last call.
    pub(crate) fn next(&mut self) -> Result<Vec<Round>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        let number = file.metadata()?.ino();
        if number != self.number {
            // A host that starts writes the file anew, without the rounds that its state does not have.
            self.number = number;
            self.at = 0;
            self.rest.clear();
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = std::mem::take(&mut self.rest);
        self.at += file.read_to_end(&mut bytes)? as u64;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.rest = bytes.split_off(end);
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let rounds = lines.map(|line| {
            let line: Value = serde_json::from_slice(line).context("a line of metrics is not JSON")?;
            let number = |key: &str| line[key].as_u64().with_context(|| format!("a round has no `{key}`: {line}"));
            let state_hash = line["state_hash"].as_str().unwrap_or_default().to_owned();
            Ok(Round { round: number("round")?, present: number("present")?, state_hash })
        });
        rounds.collect()
    }

    /// Waits for a round that `is_it`, and returns it.
    pub(crate) fn wait(
        &mut self,
        cluster: &mut Cluster,
        patience: Duration,
        is_it: impl Fn(&Round) -> bool,
    ) -> Result<Round> {
        let begun = std::time::Instant::now();
        loop {
            if let Some(round) = self.next()?.into_iter().find(&is_it) {
                return Ok(round);
            }
            cluster.check_hosts()?;
            ensure!(
                begun.elapsed() < patience,
                "nothing happened for {} s in {}",
                patience.as_secs(),
                self.path.display()
            );
            std::thread::sleep(LOOK);
        }
    }
}
