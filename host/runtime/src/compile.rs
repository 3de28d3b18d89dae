//! Compiles components in a child process, which has its own limits and can be stopped.
//!
//! The compiler's time and memory grow with its input, and a thread cannot be killed. So a host runs itself again to
//! call only [`compile_as_child`]: the component goes in through standard input, the artifact comes back through
//! standard output. One such child runs at a time, and it inherits no environment.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use wasmtime::Engine;

use crate::engine::new_engine;

/// Memory that a compiling child may write to. Compiling Python's interpreter takes a quarter of it.
const CHILD_DATA_BYTES_MAX: u64 = 2 << 30;
/// Artifacts are at most some ten times larger than components.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// Exit status of a child whose input was not a valid component.
const EXIT_INVALID: i32 = 65;
/// Most bytes of a child's error output that an error repeats.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// The permit to run a compiling child. A process runs one at a time: each uses all cores and up to
/// [`CHILD_DATA_BYTES_MAX`].
static TURN: Semaphore = Semaphore::const_new(1);

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// This process. For trusted components only: nothing bounds the time and memory it takes.
    InProcess,
    /// A child process, `program argument`, which must call [`compile_as_child`]. It is killed if it takes too long.
    Child {
        /// Path of the program to run.
        program: PathBuf,
        /// The program's only argument.
        argument: &'static str,
    },
}

pub(crate) enum CompileError {
    Invalid(Box<dyn std::error::Error + Send + Sync>),
    Time,
    Compiler(Box<dyn std::error::Error + Send + Sync>),
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> CompileError {
        CompileError::Compiler(error.into())
    }
}

impl Compiler {
    pub(crate) async fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, CompileError> {
        match self {
            Compiler::InProcess => {
                engine.precompile_component(bytes).map_err(|error| CompileError::Invalid(error.into()))
            }
            Compiler::Child { program, argument } => compile_in_child(program, argument, bytes, limit).await,
        }
    }
}

/// Waits for its turn, then compiles, each for at most `limit`. The child before takes no longer than that, so a load
/// that waits longer has several ahead of it; its error suggests to try again.
async fn compile_in_child(
    program: &Path,
    argument: &str,
    bytes: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, CompileError> {
    let Ok(turn) = tokio::time::timeout(limit, TURN.acquire()).await else {
        let reason = format!("other functions were still compiling after {limit:?}: try again");
        return Err(CompileError::Compiler(reason.into()));
    };
    // If this future is dropped, the child is dropped before the turn and thereby killed.
    let _turn = turn.expect("nothing closes the semaphore");
    let mut child = Command::new(program)
        .arg(argument)
        // It needs no variables: the component comes through a pipe, and the program links only the system's own
        // libraries. This process's variables may include a database's password.
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    match tokio::time::timeout(limit, converse(&mut child, bytes)).await {
        Ok(result) => result,
        Err(_) => {
            // The turn ends with the child. The kernel ends a killed process at once, unless a disk does not respond.
            let _ = tokio::time::timeout(limit, child.kill()).await;
            Err(CompileError::Time)
        }
    }
}

async fn converse(child: &mut Child, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let mut stdout = child.stdout.take().expect("standard output is piped").take(ARTIFACT_BYTES_MAX);
    let mut stderr = child.stderr.take().expect("standard error is piped").take(MESSAGE_BYTES_MAX);
    let mut artifact = Vec::new();
    let mut message = String::new();
    let send = async {
        // A child that fails closes its input early; its status is more informative than the broken pipe.
        let _ = stdin.write_all(bytes).await;
        drop(stdin);
        Ok(0)
    };
    tokio::try_join!(send, stdout.read_to_end(&mut artifact), stderr.read_to_string(&mut message))?;
    let status = child.wait().await?;
    match status.code() {
        Some(0) => Ok(artifact),
        Some(EXIT_INVALID) => Err(CompileError::Invalid(message.trim().into())),
        _ => Err(CompileError::Compiler(format!("the compiler ended with {status}: {}", message.trim()).into())),
    }
}

/// Runs a compiling child process: limits itself, reads a component, writes the artifact.
///
/// Returns the process's exit status.
pub fn compile_as_child() -> i32 {
    match compile_stdin() {
        Ok(()) => 0,
        Err(CompileError::Invalid(error)) => {
            eprintln!("{error:#}");
            EXIT_INVALID
        }
        Err(CompileError::Compiler(error)) => {
            eprintln!("{error:#}");
            1
        }
        Err(CompileError::Time) => 1,
    }
}

fn compile_stdin() -> Result<(), CompileError> {
    // Address space is not a useful measure: the engine reserves terabytes of it and touches little.
    setrlimit(Resource::Data, Rlimit { current: Some(CHILD_DATA_BYTES_MAX), maximum: Some(CHILD_DATA_BYTES_MAX) })
        .map_err(io::Error::from)?;
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let engine = new_engine(1).map_err(|error| CompileError::Compiler(error.into()))?;
    let artifact = engine.precompile_component(&bytes).map_err(|error| CompileError::Invalid(error.into()))?;
    io::stdout().lock().write_all(&artifact)?;
    Ok(())
}
