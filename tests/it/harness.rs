//! Runs the program under test in a temporary folder.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::ready;

/// The folder of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A component of `guest-functions/dist`.
pub(crate) fn dist(name: &str) -> PathBuf {
    root().join("guest-functions/dist").join(format!("{name}.wasm"))
}

/// Whether a process of this status in `/proc` has given up privileges and system calls that this one has. On a kernel
/// without filters of system calls, nothing can be seen of it.
pub(crate) fn is_confined(status: &str) -> bool {
    let field = |status: &str, name: &str| -> Option<u32> {
        status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let Some(own_filters) = field(&own, "Seccomp_filters:") else {
        assert!(std::env::var_os("SKEIN_SANDBOX_REQUIRED").is_none(), "this kernel has no seccomp");
        println!("skipped: this kernel has no seccomp");
        return true;
    };
    field(status, "NoNewPrivs:") == Some(1) && field(status, "Seccomp_filters:").is_some_and(|own| own > own_filters)
}

/// A folder to run the program in.
pub(crate) struct Place(TempDir);

/// Output and result of a finished command.
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) success: bool,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Place {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Writes `skein.toml` for the digits, with `rest` at the end.
    pub(crate) fn job(&self, rest: &str) -> &Place {
        self.job_on("source = \"builtin:digits\"\n", rest)
    }

    /// Writes `skein.toml` with the `[data]` section `data`, and `rest` at the end.
    pub(crate) fn job_on(&self, data: &str, rest: &str) -> &Place {
        let head = "skein_manifest_version = 1\n[application]\nname = \"test\"\n[data]\n";
        // Peers of several processes have one result only if all of them wait for each other, however busy the machine is.
        let patient = if rest.contains("wait = ") { "" } else { "[train.wait]\nmin = \"1m\"\nsilent = \"1m\"\n" };
        self.write("skein.toml", format!("{head}{data}{rest}{patient}"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skein"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        // Components are compiled once for all tests.
        command.env("SKEIN_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        command.env_remove("SKEIN_LOG");
        if runs_servers(arguments) {
            command.env("SKEIN_SERVERS", ready::installed());
        }
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        finished(self.command(arguments).output().unwrap())
    }

    /// Runs the program from a shell that first runs `setup`.
    pub(crate) fn run_after(&self, setup: &str, arguments: &[&str]) -> Finished {
        let program = self.command(arguments);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{setup}; exec \"$@\"")).arg("sh").arg(program.get_program());
        shell.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        shell.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        finished(shell.output().unwrap())
    }

    /// Runs a command with JSON output, which must succeed and write exactly one object.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let finished = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(finished.success, "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
    }

    /// Runs a command that must fail, and returns its standard error.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments);
        assert!(!finished.success, "{arguments:?}: {}", finished.stdout);
        assert_eq!(finished.stdout, "", "nothing goes to standard output");
        finished.stderr
    }

    /// Starts the program and waits until it has logged `lines` calls of functions, so that it is in mid-run.
    pub(crate) fn start(&self, arguments: &[&str], lines: usize) -> Child {
        self.start_watched(arguments, lines).0
    }

    /// As [`Place::start`]; the receiver gets a message when the program and all processes that it started have ended,
    /// since they share its standard error.
    pub(crate) fn start_watched(&self, arguments: &[&str], lines: usize) -> (Child, Receiver<()>) {
        let mut command = self.command(arguments);
        command.env("SKEIN_LOG", "skein_runtime=debug").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut last = String::new();
        for _ in 0..lines {
            let line = stderr.next().unwrap_or_else(|| panic!("the program has ended: {last}"));
            last = line.unwrap();
        }
        // Keep reading, or the program would block on a full pipe.
        let (ended, receiver) = channel();
        std::thread::spawn(move || {
            stderr.map_while(Result::ok).for_each(drop);
            // Most tests do not wait for it.
            let _ = ended.send(());
        });
        (child, receiver)
    }
}

/// A database run by the program; it ends when this is dropped.
pub(crate) struct Database {
    runner: Child,
    /// The JSON object that the program printed when the database was up; a line of text for [`Database::running`].
    pub(crate) printed: Value,
}

impl Database {
    /// Runs the database of a folder and waits until it is up.
    pub(crate) fn start(place: &Place, dir: &str, options: &[&str]) -> Database {
        let arguments = [&["redis", "run", "--dir", dir, "-o", "json"], options].concat();
        Database::start_by(place.command(&arguments))
    }

    /// Runs the command, which prints JSON, and waits until its database is up.
    pub(crate) fn start_by(mut command: Command) -> Database {
        let mut runner = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let line = first_line(&mut runner);
        let mut log = runner.stderr.take().unwrap();
        let printed: Value = serde_json::from_str(&line).unwrap_or_default();
        if printed["users"].is_null() {
            let mut said = String::new();
            log.read_to_string(&mut said).unwrap();
            panic!("the database did not start: {line}{said}");
        }
        // Keep reading, or the program would block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Database { runner, printed }
    }

    /// Wraps a database started by the caller, and waits until it is up.
    pub(crate) fn running(mut runner: Child) -> Database {
        let line = first_line(&mut runner);
        assert!(!line.is_empty(), "the program ended before its database was up");
        Database { runner, printed: Value::String(line) }
    }
}

/// Whether a command starts database servers, for which tests install one if the machine has none that fits.
fn runs_servers(arguments: &[&str]) -> bool {
    match arguments {
        ["redis", "run", ..] | ["bench", "store", ..] => true,
        ["up", rest @ ..] => rest.contains(&"--redis"),
        _ => false,
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

impl Drop for Database {
    fn drop(&mut self) {
        // It may have ended already; if not, its server must end with it.
        let _ = kill_process(Pid::from_child(&self.runner), Signal::TERM);
        let _ = self.runner.wait();
    }
}

fn finished(output: Output) -> Finished {
    Finished {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        success: output.status.success(),
    }
}

/// The hash that all peers have at the end.
pub(crate) fn state_hash(summary: &Value) -> String {
    let hashes = summary["state_hashes"].as_array().unwrap();
    assert!(!hashes.is_empty() && hashes.iter().all(|hash| hash == &hashes[0]), "{hashes:?}");
    hashes[0].as_str().unwrap().to_owned()
}
