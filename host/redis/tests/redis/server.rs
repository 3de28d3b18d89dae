//! Real servers, each in a separate folder and with only a Unix socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use skein_redis::{Address, Options};
use tempfile::TempDir;

use crate::ready;

/// Whether a server has the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Module,
}

impl Kind {
    pub(crate) const ALL: [Kind; 2] = [Kind::Plain, Kind::Module];

    /// Starts a server as this kind, with more arguments.
    pub(crate) fn start(self, arguments: &[&str]) -> Server {
        self.start_program(ready::server(), arguments)
    }

    /// Starts the server of this program as this kind, with more arguments.
    pub(crate) fn start_program(self, program: &Path, arguments: &[&str]) -> Server {
        Server::start(program, self.arguments(arguments))
    }

    fn arguments(self, more: &[&str]) -> Vec<String> {
        let own = match self {
            Kind::Plain => Vec::new(),
            Kind::Module => vec!["--loadmodule".to_owned(), module()],
        };
        own.into_iter().chain(more.iter().map(|argument| (*argument).to_owned())).collect()
    }
}

/// The file of the module, which is built together with these tests.
fn module() -> String {
    let own = std::env::current_exe().expect("a program");
    let file = own.parent().expect("a folder").join(skein_redis_module::FILE_NAME);
    file.to_str().expect("a path").to_owned()
}

/// A database server that ends with the test.
pub(crate) struct Server {
    dir: TempDir,
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Server {
    fn start(program: &Path, arguments: Vec<String>) -> Server {
        let dir = TempDir::new().expect("a folder");
        let child = spawn(program, &dir.path().join("redis.sock"), &arguments);
        Server { dir, child, program: program.to_owned(), arguments }
    }

    /// Runs the program with these arguments only.
    pub(crate) fn run(arguments: &[&str]) -> Server {
        let program = ready::server();
        let child = tied_to_parent(program).args(arguments).spawn().expect("`setpriv` is installed");
        Server { dir: TempDir::new().expect("a folder"), child, program: program.to_owned(), arguments: Vec::new() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Options to reach the server. It may still be starting; the first connection waits for it.
    pub(crate) fn options(&self) -> Options {
        let url: Address = format!("unix://{}", self.socket().display()).parse().expect("an address");
        Options::new(url)
    }

    /// Ends the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Kills the server and starts it as another kind, in the same folder.
    pub(crate) fn become_kind(&mut self, kind: Kind) {
        self.kill();
        self.arguments = kind.arguments(&[]);
        self.restart();
    }

    /// Starts the server again in its folder, with the data that it saved there.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.program, &self.socket(), &self.arguments);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that ends with the test, even if that is killed.
fn tied_to_parent(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn spawn(program: &Path, socket: &Path, arguments: &[String]) -> Child {
    let mut command = tied_to_parent(program);
    command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(socket);
    command.arg("--dir").arg(socket.parent().expect("a folder")).args(arguments);
    command.spawn().expect("`setpriv` is installed")
}
