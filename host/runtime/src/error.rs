//! Why a function could not be loaded or called, and who is to blame.

use std::fmt;
use std::time::Duration;

use crate::world::World;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A component that is not admitted. Loading the same bytes again returns the same error, except for
/// [`LoadError::Compiler`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them; `function` is always the job's name of the function")]
pub enum LoadError {
    #[error(
        "function `{function}` is not WebAssembly: it does not begin with `\\0asm`; pass the `.wasm` file that its \
         build wrote"
    )]
    NotWasm { function: String },
    #[error(
        "function `{function}` is a core module, not a component: build it for `wasm32-wasip2`, or wrap it with \
         `wasm-tools component new`"
    )]
    CoreModule { function: String },
    #[error("function `{function}` is already compiled: native code is not accepted, pass the component itself")]
    Precompiled { function: String },
    #[error(
        "function `{function}` has {bytes} bytes, at most {bytes_max} are accepted: build it for release, or remove its \
         debug information with `wasm-tools strip`"
    )]
    TooLarge { function: String, bytes: usize, bytes_max: usize },
    #[error("function `{function}` is not a valid component: it may be truncated; build or copy it again")]
    Invalid { function: String, source: Source },
    #[error("function `{function}` does not implement the world `{expected}`: {reason}")]
    WrongWorld { function: String, expected: World, reason: String },
    #[error(
        "function `{function}` has more memories, tables or instances than a call may have; use fewer, or link its \
         modules into one: {reason}"
    )]
    TooComplex { function: String, reason: String },
    #[error(
        "a call of function `{function}` may take {needed_mib} MiB with its engine, all functions together \
         {memory_mib} MiB (`[ceilings.total] memory_mib`): lower the function's `memory_mib` or its batches, or raise the \
         ceiling"
    )]
    TotalMemory { function: String, needed_mib: u32, memory_mib: u32 },
    #[error(
        "function `{function}` did not compile within {limit:?} of processor time: build it for release, or split its largest functions"
    )]
    CompileTime { function: String, limit: Duration },
    #[error("failed to compile function `{function}`")]
    Compiler { function: String, source: Source },
}

/// A limit that a call can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Memories, tables, handles and the data behind them in total; [`Limits::memory_mib`](crate::Limits::memory_mib).
    Memory,
    /// Processor time of the guest and of engines that compute for it; [`Limits::cpu`](crate::Limits::cpu).
    Cpu,
    /// Time from start to end; [`Limits::wall`](crate::Limits::wall).
    Wall,
    /// Handles held at the same time; [`Limits::handles`](crate::Limits::handles).
    Handles,
    /// Data that one call into the host carries; [`Limits::hostcall_mib`](crate::Limits::hostcall_mib).
    Hostcall,
    /// Calls that wait for a slot; [`Limits::queue`](crate::Limits::queue).
    Queue,
    /// How long a call waits for a slot; [`Limits::queue_wait`](crate::Limits::queue_wait).
    QueueWait,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Memory => "memory_mib",
            Limit::Cpu => "cpu",
            Limit::Wall => "wall",
            Limit::Handles => "handles",
            Limit::Hostcall => "hostcall_mib",
            Limit::Queue => "queue",
            Limit::QueueWait => "queue_wait",
        })
    }
}

/// The end of a guest's program without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// The cause in few words.
    pub reason: String,
    /// Names of the functions that ran, innermost first; empty if the component has no names.
    pub frames: Vec<String>,
    /// The end of what the call printed to its standard output and standard error.
    pub printed: String,
}

/// A limit that a call has hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The limit.
    pub limit: Limit,
    /// Its value, as a manifest has it.
    pub bound: String,
    /// The end of what the call printed to its standard output and standard error.
    pub printed: String,
}

/// Frames of a trap that its message shows: those of a panic or an exception come first, then the function's own.
const FRAMES_SHOWN: usize = 16;
/// Lines of what a guest printed that a message shows.
const LINES_SHOWN: usize = 40;

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.frames.iter().take(FRAMES_SHOWN).try_for_each(|frame| write!(f, "\n  in {frame}"))?;
        write_printed(f, &self.printed)
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{} = {}`", self.limit, self.bound)?;
        write_printed(f, &self.printed)
    }
}

/// Writes the last lines of what a guest printed, indented.
fn write_printed(f: &mut fmt::Formatter<'_>, printed: &str) -> fmt::Result {
    let lines: Vec<&str> = printed.trim_end().lines().collect();
    if lines.is_empty() {
        return Ok(());
    }
    f.write_str("\n  it printed:")?;
    let hidden = lines.len().saturating_sub(LINES_SHOWN);
    if hidden > 0 {
        write!(f, "\n    ({hidden} lines before)")?;
    }
    lines[hidden..].iter().try_for_each(|line| write!(f, "\n    {line}"))
}

/// A call that returned no result.
///
/// The guest causes all but [`CallError::Busy`] and [`CallError::Host`]. Calling again with the same input does not help,
/// except after these two and after a limit that a busy machine may have caused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them; `function` is always the job's name of the function")]
pub enum CallError {
    #[error("function `{function}` trapped: {trap}")]
    Trap { function: String, trap: Box<Trap> },
    #[error("function `{function}` hit its limit {hit}")]
    Limit { function: String, hit: Box<Hit> },
    #[error("function `{function}` refused its input: {reason}")]
    Refused { function: String, reason: String },
    #[error("function `{function}` needs at least {needed} contributions, got {present}")]
    TooFew { function: String, needed: u32, present: usize },
    #[error("function `{function}` returned a bad result: {reason}")]
    BadOutput { function: String, reason: String },
    #[error("function `{function}` is busy, its limit is `{limit} = {bound}`: try again later")]
    Busy { function: String, limit: Limit, bound: String },
    #[error("the host failed to run function `{function}`")]
    Host { function: String, source: Source },
}
