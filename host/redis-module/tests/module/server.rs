//! Servers with the module, as child processes that end with the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use skein_redis::provision::install;
use tempfile::TempDir;

use crate::client::Client;
use crate::ready;

/// A running server, which is killed on drop.
pub(crate) struct Server {
    program: PathBuf,
    arguments: String,
    /// A library whose functions replace the server's own.
    preload: Option<PathBuf>,
    folder: TempDir,
    child: Child,
}

/// The servers to test on: the one of all tests, and Valkey.
pub(crate) fn programs() -> Vec<PathBuf> {
    let mut programs = vec![ready::server().to_owned()];
    let valkey = ready::valkey_root().and_then(|root| install::find(&root));
    programs.extend(valkey.filter(|valkey| valkey != ready::server()));
    programs
}

/// Runs `test` on each server.
pub(crate) fn on_each(arguments: &str, test: impl Fn(&mut Server)) {
    for program in programs() {
        println!("on {}", program.display());
        let mut server = Server::start(&program, arguments);
        test(&mut server);
        server.survives();
    }
}

/// Path of the module, which Cargo builds beside the tests.
fn module() -> PathBuf {
    let tests = std::env::current_exe().expect("the test runs");
    let module = tests.with_file_name(skein_redis_module::FILE_NAME);
    assert!(module.exists(), "`{}` is missing: Cargo builds it with the tests", module.display());
    module
}

/// File name of the library of `tests/allocator/moving.rs`.
const ALLOCATOR: &str = "libmoving_allocator.so";

/// Path of the allocator, which Cargo builds as an example.
fn moving_allocator() -> PathBuf {
    let tests = std::env::current_exe().expect("the test runs");
    let allocator = tests.with_file_name("../examples").join(ALLOCATOR);
    assert!(allocator.exists(), "`{}` is missing: `cargo test --examples` builds it", allocator.display());
    allocator
}

impl Server {
    /// Starts a server; `arguments` are those of the module, then, from the first `--` on, those of the server.
    pub(crate) fn start(program: &Path, arguments: &str) -> Server {
        Server::launched(program, arguments, None)
    }

    /// Starts a server whose allocator moves memory when it shrinks it, which every allocator may do and few do.
    pub(crate) fn start_with_moving_allocator(program: &Path, arguments: &str) -> Server {
        let server = Server::launched(program, arguments, Some(moving_allocator()));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid())).expect("the server runs");
        assert!(maps.contains(ALLOCATOR), "the server did not load the allocator:\n{maps}");
        server
    }

    fn launched(program: &Path, arguments: &str, preload: Option<PathBuf>) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let child = launch(program, arguments, preload.as_deref(), folder.path());
        Server { program: program.to_owned(), arguments: arguments.to_owned(), preload, folder, child }
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// Kills the server as a power failure would, and starts another in the same folder.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = launch(&self.program, &self.arguments, self.preload.as_deref(), self.folder.path());
    }

    /// Checks that the server answers and that nothing in the module panicked.
    #[track_caller]
    pub(crate) fn survives(&mut self) {
        assert!(self.child.try_wait().expect("a child").is_none(), "the server died");
        let mut client = self.client();
        assert_eq!(client.say("PING").text(), "PONG");
        if !self.arguments.contains("panic-command") {
            assert_eq!(client.info("panics"), 0);
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(program: &Path, arguments: &str, preload: Option<&Path>, folder: &Path) -> Child {
    let own = arguments.split_whitespace().take_while(|word| !word.starts_with("--"));
    let mut command = Command::new(program);
    command.envs(preload.map(|library| ("LD_PRELOAD", library)));
    command.args(["--save", "", "--port", "0", "--unixsocket"]).arg(folder.join("socket")).arg("--dir").arg(folder);
    command.args(["--enable-debug-command", "yes"]);
    command.args(arguments.split_whitespace().skip_while(|word| !word.starts_with("--")));
    command.arg("--loadmodule").arg(module()).args(own);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("a server is installed");
    let mut log = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut begun = String::new();
    loop {
        let from = begun.len();
        assert!(log.read_line(&mut begun).expect("a log") > 0, "the server did not start:\n{begun}");
        if begun[from..].contains("eady to accept connections") {
            break;
        }
    }
    // A pipe that is not read fills up and stops the server.
    std::thread::spawn(move || {
        log.lines().map_while(Result::ok).filter(|line| line.contains("skein")).for_each(|line| println!("{line}"));
    });
    child
}

/// The log of a server that refuses to start.
pub(crate) fn refusal(program: &Path, arguments: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program);
    command.args(["--save", "", "--port", "0", "--unixsocket"]).arg(folder.path().join("socket"));
    command.arg("--dir").arg(folder.path());
    command.arg("--loadmodule").arg(module()).args(arguments.split_whitespace());
    let output = command.output().expect("a server is installed");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}
