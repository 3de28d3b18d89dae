//! Compiles components in a child process, which has its own limits and can be stopped.
//!
//! The compiler's time and memory grow with its input, and a thread cannot be killed. So a host runs itself again to
//! call only [`compile_as_child`]: the component goes in through standard input, the artifact comes back through
//! standard output. One such child runs at a time, and it inherits no environment.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, nice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use wasmtime::Engine;

use crate::child::proc::processor_time;
use crate::child::{MESSAGE_BYTES_MAX, Sandbox, command, confine, warn_of_lack};
use crate::engine::config;
use crate::interfaces::Interfaces;
use crate::world::World;

/// Artifacts are at most some ten times larger than components.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// Exit status of a child whose input was not a valid component.
const EXIT_INVALID: i32 = 65;
/// Exit status of a child whose component is of another world.
const EXIT_WRONG_WORLD: i32 = 66;
/// Threads of a compiling child, so that it leaves the other cores to calls.
const CHILD_THREADS: usize = 2;
/// What a compiling child adds to its priority: it yields to everything else.
const CHILD_NICENESS: i32 = 19;

/// A compiling child may take so many times its processor time from start to end: it gives way to everything else.
const PATIENCE: u32 = 10;
/// How often the processor time of a compiling child is read.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The permit to run a compiling child. A process runs one at a time.
static PERMIT: Semaphore = Semaphore::const_new(1);

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
    /// Processor time, of all threads together.
    pub(crate) time: Duration,
    pub(crate) memory_mib: u32,
}

impl CompileLimits {
    /// Longest time from start to end.
    pub(crate) fn wall(&self) -> Duration {
        self.time * PATIENCE
    }
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
        self.work(Work::Compile(world), bytes, limits).await
    }

    /// Reads what a component imports and exports.
    pub(crate) async fn describe(&self, bytes: &[u8], limits: CompileLimits) -> Result<Interfaces, CompileError> {
        let text = self.work(Work::Describe, bytes, limits).await?;
        let interfaces = std::str::from_utf8(&text).ok().and_then(Interfaces::from_text);
        interfaces.ok_or_else(|| CompileError::Compiler("its list of interfaces is not valid".into()))
    }

    async fn work(&self, work: Work, bytes: &[u8], limits: CompileLimits) -> Result<Vec<u8>, CompileError> {
        match self {
            Compiler::InProcess => work.of(bytes),
            Compiler::Child { program, argument } => {
                work_in_child(command(program, argument, CHILD_THREADS), work, bytes, limits).await
            }
        }
    }
}

/// What to do with a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Compile it as a function of this world; the result is the artifact.
    Compile(World),
    /// List what it imports and exports; the result is the text of [`Interfaces`].
    Describe,
}

impl Work {
    /// Each by the number that stands for it in a header.
    const ALL: [Work; 3] = [Work::Compile(World::Gradient), Work::Compile(World::Aggregate), Work::Describe];

    fn of(self, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
        match self {
            Work::Compile(world) => compile(world, bytes),
            Work::Describe => {
                let interfaces = Interfaces::decode(bytes).map_err(CompileError::Invalid)?;
                Ok(interfaces.to_text().into_bytes())
            }
        }
    }
}

/// Checks the world, so that nothing is compiled in vain, and compiles.
fn compile(world: World, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let interfaces = Interfaces::decode(bytes).map_err(CompileError::Invalid)?;
    interfaces.check(world).map_err(CompileError::WrongWorld)?;
    let engine = Engine::new(&config(world)).map_err(|error| CompileError::Compiler(error.into()))?;
    engine.precompile_component(bytes).map_err(|error| CompileError::Invalid(error.into()))
}

/// Room to compile for one load: its turn, and its memory.
pub(crate) struct Room {
    _permit: SemaphorePermit<'static>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Waits for its turn and then for `memory`, since `begun` at most for the longest time of one child: a load that waits
    /// longer has several ahead of it.
    pub(crate) async fn wait(
        limits: CompileLimits,
        begun: Instant,
        memory: impl Future<Output = Option<OwnedSemaphorePermit>>,
    ) -> Result<Room, CompileError> {
        let longest = limits.wall();
        let room = async {
            let permit = PERMIT.acquire().await.expect("nothing closes the semaphore");
            Room { _permit: permit, _memory: memory.await }
        };
        tokio::time::timeout(longest.saturating_sub(begun.elapsed()), room).await.map_err(|_| {
            let reason = format!("other functions were still compiling or running after {longest:?}: try again");
            CompileError::Compiler(reason.into())
        })
    }
}

async fn work_in_child(
    mut command: Command,
    work: Work,
    bytes: &[u8],
    limits: CompileLimits,
) -> Result<Vec<u8>, CompileError> {
    let longest = limits.wall();
    let mut child = command.spawn()?;
    let header = header(work, limits);
    let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let conversation = async {
        tokio::select! {
            result = converse(&mut child, &header, bytes) => Some(result),
            () = out_of_time(id, limits.time) => None,
        }
    };
    let ended = tokio::time::timeout(longest, conversation).await;
    if let Ok(Some(result)) = ended {
        return result;
    }
    // The caller's room is free once this ends. The kernel ends a killed process at once, unless a disk does not respond.
    let _ = tokio::time::timeout(longest, child.kill()).await;
    Err(match ended {
        Ok(_) => CompileError::Time,
        Err(_) => CompileError::Compiler(format!("it did not end within {longest:?}: try again").into()),
    })
}

/// Waits until a process has used so much processor time.
async fn out_of_time(process: Option<Pid>, time: Duration) {
    let Some(process) = process else { return std::future::pending().await };
    // A process that is gone uses no more; its end is seen elsewhere.
    loop {
        match processor_time(process) {
            Ok(used) if used >= time => return,
            Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
            Err(_) => return std::future::pending().await,
        }
    }
}

async fn converse(child: &mut Child, header: &[u8], bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let stdout = child.stdout.take().expect("standard output is piped");
    let mut stderr = child.stderr.take().expect("standard error is piped");
    let mut result = Vec::new();
    let mut message = Vec::new();
    let send = async {
        // A child that fails closes its input early; its status is more informative than the broken pipe.
        let _ = stdin.write_all(header).await;
        let _ = stdin.write_all(bytes).await;
        drop(stdin);
        Ok(0)
    };
    let receive = async {
        stdout.take(ARTIFACT_BYTES_MAX + 1).read_to_end(&mut result).await?;
        if result.len() as u64 > ARTIFACT_BYTES_MAX {
            return Err(io::Error::other(format!("its artifact has more than {ARTIFACT_BYTES_MAX} bytes")));
        }
        Ok(0)
    };
    let listen = async {
        (&mut stderr).take(MESSAGE_BYTES_MAX).read_to_end(&mut message).await?;
        // A child whose output nobody reads waits for ever.
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await
    };
    tokio::try_join!(send, receive, listen)?;
    let status = child.wait().await?;
    // The bound may have cut a character.
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    match status.code() {
        Some(0) => {
            if !message.is_empty() {
                warn_of_lack(&message);
            }
            Ok(result)
        }
        Some(EXIT_INVALID) => Err(CompileError::Invalid(message.into())),
        Some(EXIT_WRONG_WORLD) => Err(CompileError::WrongWorld(message)),
        _ => Err(CompileError::Compiler(format!("the compiler ended with {status}: {message}").into())),
    }
}

/// Bytes before the component: what to do with it, and the child's limits of processor time and memory.
const HEADER_BYTES: usize = 17;

fn header(work: Work, limits: CompileLimits) -> [u8; HEADER_BYTES] {
    // Whole seconds, after the host has ended the child: they end one whose host cannot.
    let seconds = limits.time.as_secs() + 2;
    let mut header = [0; HEADER_BYTES];
    header[0] = Work::ALL.iter().position(|listed| *listed == work).expect("all are listed") as u8;
    header[1..9].copy_from_slice(&seconds.to_le_bytes());
    header[9..].copy_from_slice(&(u64::from(limits.memory_mib) << 20).to_le_bytes());
    header
}

/// Runs a compiling child process: limits itself, reads a component, writes the artifact or the names of its interfaces.
///
/// Returns the process's exit status.
pub fn compile_as_child() -> i32 {
    match work_on_stdin() {
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

fn work_on_stdin() -> Result<(), CompileError> {
    let mut input = io::stdin().lock();
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes of the header"));
    let work = Work::ALL.get(usize::from(header[0]));
    let work = work.ok_or_else(|| CompileError::Compiler("its header is not valid".into()))?;
    nice(CHILD_NICENESS).map_err(io::Error::from)?;
    // Address space is not a useful measure: the engine reserves much of it and touches little.
    confine(&[(Resource::Cpu, number(&header[1..9])), (Resource::Data, number(&header[9..]))])?;
    if let Some(lack) = Sandbox::enter().lack() {
        eprintln!("{lack}");
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let result = work.of(&bytes)?;
    io::stdout().lock().write_all(&result)?;
    Ok(())
}
