//! Compiles components in a child process, which has its own limits and can be stopped.
//!
//! The compiler's time and memory grow with its input, and a thread cannot be killed. So a host runs itself again to
//! call only [`compile_as_child`]: the component goes in through standard input, the artifact comes back through
//! standard output. One such child runs at a time, and it inherits no environment.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, nice, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::engine::config;
use crate::world::World;

/// Artifacts are at most some ten times larger than components.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// Exit status of a child whose input was not a valid component.
const EXIT_INVALID: i32 = 65;
/// Exit status of a child whose component is of another world.
const EXIT_WRONG_WORLD: i32 = 66;
/// Most bytes of a child's error output that an error repeats.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Threads of a compiling child, so that it leaves the other cores to calls.
const CHILD_THREADS: u64 = 2;
/// What a compiling child adds to its priority: it yields to everything else.
const CHILD_NICENESS: i32 = 19;
/// Files that a compiling child may have open: its pipes, and those that it opens for a moment as it starts.
const CHILD_FILES_MAX: u64 = 16;

/// The permit to run a compiling child. A process runs one at a time.
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

/// Limits of compiling one component.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompileLimits {
    pub(crate) time: Duration,
    pub(crate) memory_bytes: u64,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

pub(crate) enum CompileError {
    Invalid(Source),
    WrongWorld(String),
    Time,
    Compiler(Source),
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> CompileError {
        CompileError::Compiler(error.into())
    }
}

impl Compiler {
    pub(crate) async fn compile(
        &self,
        world: World,
        bytes: &[u8],
        limits: CompileLimits,
    ) -> Result<Vec<u8>, CompileError> {
        match self {
            Compiler::InProcess => compile(world, bytes),
            Compiler::Child { program, argument } => {
                let mut child = Command::new(program);
                child.arg(argument);
                compile_in_child(child, world, bytes, limits).await
            }
        }
    }
}

/// Checks the world, so that nothing is compiled in vain, and compiles.
fn compile(world: World, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    check(world, bytes)?;
    let engine = Engine::new(&config(world)).map_err(|error| CompileError::Compiler(error.into()))?;
    engine.precompile_component(bytes).map_err(|error| CompileError::Invalid(error.into()))
}

/// Checks by its types alone that a component is of this world.
fn check(world: World, bytes: &[u8]) -> Result<(), CompileError> {
    let decoded = wit_component::decode(bytes).map_err(|error| CompileError::Invalid(error.into()))?;
    let DecodedWasm::Component(resolve, own) = decoded else {
        return Err(CompileError::WrongWorld("it is a package of WIT without code".into()));
    };
    let own = &resolve.worlds[own];
    let exports: Vec<String> = own.exports.iter().map(|(key, item)| name(&resolve, key, item)).collect();
    if !exports.iter().any(|name| name == world.export()) {
        return Err(CompileError::WrongWorld(format!("it exports {exports:?}, expected `{}`", world.export())));
    }
    let imports = own.imports.iter().map(|(key, item)| name(&resolve, key, item));
    let unknown: Vec<String> = imports.filter(|name| !world.has_import(name)).collect();
    if !unknown.is_empty() {
        let reason = format!("it imports {unknown:?}, which functions of this world do not have");
        return Err(CompileError::WrongWorld(reason));
    }
    Ok(())
}

/// The name of an import or export: that of its interface, or that of a function or type of the world itself.
fn name(resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> String {
    match item {
        WorldItem::Interface { id, .. } => resolve.id_of(*id).unwrap_or_else(|| resolve.name_world_key(key)),
        WorldItem::Function(_) | WorldItem::Type { .. } => resolve.name_world_key(key),
    }
}

/// Waits for its turn, then compiles, each for at most the time limit. The child before takes no longer than that, so a
/// load that waits longer has several ahead of it; its error suggests to try again.
async fn compile_in_child(
    mut command: Command,
    world: World,
    bytes: &[u8],
    limits: CompileLimits,
) -> Result<Vec<u8>, CompileError> {
    let Ok(turn) = tokio::time::timeout(limits.time, TURN.acquire()).await else {
        let reason = format!("other functions were still compiling after {:?}: try again", limits.time);
        return Err(CompileError::Compiler(reason.into()));
    };
    // If this future is dropped, the child is dropped before the turn and thereby killed.
    let _turn = turn.expect("nothing closes the semaphore");
    let mut child = command
        // It needs no other variables: the component comes through a pipe, and the program links only the system's own
        // libraries. This process's variables may include a database's password.
        .env_clear()
        .env("RAYON_NUM_THREADS", CHILD_THREADS.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let header = header(world, limits);
    match tokio::time::timeout(limits.time, converse(&mut child, &header, bytes)).await {
        Ok(result) => result,
        Err(_) => {
            // The turn ends with the child. The kernel ends a killed process at once, unless a disk does not respond.
            let _ = tokio::time::timeout(limits.time, child.kill()).await;
            Err(CompileError::Time)
        }
    }
}

async fn converse(child: &mut Child, header: &[u8], bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let mut stdout = child.stdout.take().expect("standard output is piped").take(ARTIFACT_BYTES_MAX);
    let mut stderr = child.stderr.take().expect("standard error is piped").take(MESSAGE_BYTES_MAX);
    let mut artifact = Vec::new();
    let mut message = Vec::new();
    let send = async {
        // A child that fails closes its input early; its status is more informative than the broken pipe.
        let _ = stdin.write_all(header).await;
        let _ = stdin.write_all(bytes).await;
        drop(stdin);
        Ok(0)
    };
    tokio::try_join!(send, stdout.read_to_end(&mut artifact), stderr.read_to_end(&mut message))?;
    let status = child.wait().await?;
    // The bound may have cut a character.
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    match status.code() {
        Some(0) => Ok(artifact),
        Some(EXIT_INVALID) => Err(CompileError::Invalid(message.into())),
        Some(EXIT_WRONG_WORLD) => Err(CompileError::WrongWorld(message)),
        _ => Err(CompileError::Compiler(format!("the compiler ended with {status}: {message}").into())),
    }
}

/// Bytes before the component: its world, and the child's limits of processor time and memory.
const HEADER_BYTES: usize = 17;

fn header(world: World, limits: CompileLimits) -> [u8; HEADER_BYTES] {
    let seconds = limits.time.as_secs_f64() * CHILD_THREADS as f64;
    let mut header = [0; HEADER_BYTES];
    header[0] = u8::from(world == World::Aggregate);
    header[1..9].copy_from_slice(&(seconds.ceil() as u64).to_le_bytes());
    header[9..].copy_from_slice(&limits.memory_bytes.to_le_bytes());
    header
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
        Err(CompileError::WrongWorld(reason)) => {
            eprintln!("{reason}");
            EXIT_WRONG_WORLD
        }
        Err(CompileError::Compiler(error)) => {
            eprintln!("{error:#}");
            1
        }
        Err(CompileError::Time) => 1,
    }
}

fn compile_stdin() -> Result<(), CompileError> {
    let mut input = io::stdin().lock();
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes of the header"));
    let world = if header[0] == 0 { World::Gradient } else { World::Aggregate };
    confine(number(&header[1..9]), number(&header[9..]))?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let artifact = compile(world, &bytes)?;
    io::stdout().lock().write_all(&artifact)?;
    Ok(())
}

/// Limits this process to what compiling takes.
fn confine(cpu_seconds: u64, memory_bytes: u64) -> io::Result<()> {
    // Where there is no such file, the kernel chooses by size alone, which leads to this process as well.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    nice(CHILD_NICENESS)?;
    for (resource, bound) in [
        // Address space is not a useful measure: the engine reserves much of it and touches little.
        (Resource::Data, memory_bytes),
        (Resource::Cpu, cpu_seconds),
        (Resource::Nofile, CHILD_FILES_MAX),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    Ok(())
}
