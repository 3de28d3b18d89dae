//! The call's side of a process that runs a graph: starts it, limits it, talks to it and ends it.

use std::fmt::Display;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use skein_engine::{EngineError, Kind, Signature, Tensor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::OwnedSemaphorePermit;

use super::wire::{self, Answer, Input, Request, Setup, Shape};
use super::{Allowance, BroughtError, Caller, Loader};
use crate::child::proc::{Memory, has_ended, processor_time};
use crate::child::{MESSAGE_BYTES_MAX, command, warn_of_lack};
use crate::clock::CpuClock;
use crate::slot::CallSlot;

/// How long the error output of a process is waited for that has closed its other output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A process, which is killed when this is dropped.
pub(super) struct Process {
    /// Taken in `drop` only.
    running: Option<Running>,
    stdin: ChildStdin,
    stdout: ChildStdout,
    engine: Kind,
    /// Its memory before it got a graph.
    first: Memory,
    /// What it may take in all.
    memory_bytes_max: usize,
    /// Processor time that the call was charged with.
    charged: Duration,
    has_ended: bool,
    /// Whether the kernel ended it at the end of its processor time.
    is_out_of_cpu: bool,
}

/// The process, and what it holds of the call until it has ended.
struct Running {
    child: Child,
    clock: CpuClock,
    _alive: OwnedSemaphorePermit,
    _slot: CallSlot,
}

impl Process {
    /// Starts a process and waits until it is in its sandbox.
    pub(super) async fn start(
        loader: &Loader,
        alive: OwnedSemaphorePermit,
        caller: Caller,
    ) -> Result<Process, BroughtError> {
        let Loader { program, engine, library, threads } = loader;
        let failed = |error: &dyn Display| BroughtError::Host(format!("the process of a graph did not start: {error}"));
        let mut command = command(program, super::RUN_GRAPH, *threads);
        // Otherwise ONNX Runtime keeps a database of events about its use in the user's cache folder.
        command.env("ORT_DISABLE_TELEMETRY", "1");
        // Libraries of engines find their own in the same places as this process's.
        if let Some(folders) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", folders);
        }
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let stdin = child.stdin.take().expect("standard input is piped");
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut process = Process {
            running: Some(Running { child, clock: caller.clock, _alive: alive, _slot: caller.slot }),
            stdin,
            stdout,
            engine: *engine,
            first: Memory::default(),
            memory_bytes_max: 0,
            charged: Duration::ZERO,
            has_ended: false,
            is_out_of_cpu: false,
        };
        let setup = Setup { engine: engine.name().into(), library: library.clone(), threads: *threads };
        match process.ask(&setup, &[]).await {
            Ok(Answer::Ready(lack)) => {
                if let Some(lack) = lack {
                    warn_of_lack(&lack);
                }
                process.first = process.memory().map_err(|error| failed(&error))?;
                process.charge();
                Ok(process)
            }
            Ok(_) => Err(failed(&"it did not become ready")),
            Err(error) => Err(failed(&process.end(&error).await)),
        }
    }

    /// Limits what the process may take in all: its memory, and processor time beyond what it used.
    pub(super) async fn limit(&mut self, allowed: Allowance) -> Result<(), BroughtError> {
        let Memory { data_bytes, touched_bytes, .. } = self.first;
        self.memory_bytes_max = allowed.memory_bytes;
        let growth = allowed.memory_bytes.checked_sub(touched_bytes).ok_or(BroughtError::Memory(touched_bytes))?;
        let cpu = self.charged.saturating_add(allowed.cpu);
        let bounds = [
            (Resource::Data, (data_bytes + growth) as u64),
            // The kernel counts whole seconds. The call's own limit is compared after each run.
            (Resource::Cpu, cpu.as_secs() + 1),
        ];
        for (resource, bound) in bounds {
            // Only this process can raise it again: the child's sandbox does not let it.
            let maximum = getrlimit(resource).maximum;
            let current = Some(maximum.map_or(bound, |maximum| maximum.min(bound)));
            // Without an identifier, the limit would be that of this process.
            let id = self.id().expect("nobody has waited for its end");
            if let Err(error) = prlimit(Some(id), resource, Rlimit { current, maximum }) {
                return Err(self.broken(error.into()).await);
            }
        }
        Ok(())
    }

    /// Has the process compile a graph.
    pub(super) async fn load(&mut self, graph: Vec<u8>) -> Result<Signature, BroughtError> {
        let kind = self.engine;
        let answer = self.ask(&Request::Load(graph.len()), &[&graph]).await;
        self.charge();
        match answer {
            Ok(Answer::Loaded { inputs, outputs }) => Ok(Signature { inputs, outputs }),
            Ok(Answer::Failed(failure)) => Err(failure.into_error(kind).into()),
            Ok(_) => Err(self.broken(io::Error::other("it did not load the graph")).await),
            Err(error) => {
                let reason = self.loss(&error).await;
                Err(if self.is_out_of_cpu { BroughtError::Cpu } else { EngineError::Compile { kind, reason }.into() })
            }
        }
    }

    /// Has the process run its graph, which has so many outputs.
    pub(super) async fn run(&mut self, inputs: &[(&str, Tensor)], outputs: usize) -> Result<Vec<Tensor>, BroughtError> {
        let described = inputs.iter().map(|(name, tensor)| Input { name: (*name).into(), shape: Shape::of(tensor) });
        let request = Request::Run(described.collect());
        let payload: Vec<&[u8]> = inputs.iter().map(|(_, tensor)| tensor.bytes()).collect();
        let answer = self.ask(&request, &payload).await;
        let result = match answer {
            Ok(Answer::Ran(shapes)) if shapes.len() == outputs => self.tensors(shapes).await,
            Ok(Answer::Failed(failure)) => Err(failure.into_error(self.engine).into()),
            Ok(_) => Err(self.broken(io::Error::other("it did not run the graph")).await),
            Err(error) => Err(self.broken(error).await),
        };
        self.charge();
        result
    }

    /// Reads tensors of these shapes, if the call has the memory for them beside that of the process.
    async fn tensors(&mut self, shapes: Vec<Shape>) -> Result<Vec<Tensor>, BroughtError> {
        let mut free = self.memory_bytes_max.saturating_sub(self.bytes());
        let mut tensors = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let tensor = match shape.byte_len() {
                Ok(bytes) if bytes > free => return Err(self.too_large(bytes).await),
                Ok(bytes) => {
                    free -= bytes;
                    let mut elements = vec![0; bytes];
                    let read = self.stdout.read_exact(&mut elements).await;
                    read.and_then(|_| shape.with(elements))
                }
                Err(error) => Err(error),
            };
            match tensor {
                Ok(tensor) => tensors.push(tensor),
                Err(error) => return Err(self.broken(error).await),
            }
        }
        Ok(tensors)
    }

    /// Sends a message and reads the head of the answer.
    async fn ask(&mut self, head: &impl serde::Serialize, payload: &[&[u8]]) -> io::Result<Answer> {
        self.stdin.write_all(&wire::encode(head)?).await?;
        for part in payload {
            self.stdin.write_all(part).await?;
        }
        let mut prefix = [0; 4];
        self.stdout.read_exact(&mut prefix).await?;
        let mut head = vec![0; wire::head_len(prefix)?];
        self.stdout.read_exact(&mut head).await?;
        wire::decode(&head)
    }

    /// Ends the process because of an output that is larger than the call's memory.
    async fn too_large(&mut self, bytes: usize) -> BroughtError {
        self.end(&io::ErrorKind::OutOfMemory.into()).await;
        // Beside the process, that much is more than the call has.
        BroughtError::Memory(self.memory_bytes_max.saturating_add(bytes))
    }

    /// Ends a process that cannot be talked to any longer.
    async fn broken(&mut self, error: io::Error) -> BroughtError {
        let reason = self.loss(&error).await;
        if self.is_out_of_cpu { BroughtError::Cpu } else { EngineError::Run { kind: self.engine, reason }.into() }
    }

    /// Ends the process, for a function to read how.
    async fn loss(&mut self, error: &io::Error) -> String {
        let how = self.end(error).await;
        format!("its process, which may take {} MiB, {how}", self.memory_bytes_max >> 20)
    }

    /// Ends the process and says how it ended: by itself, or because of `error`.
    async fn end(&mut self, error: &io::Error) -> String {
        self.has_ended = true;
        let Running { child, .. } = self.running.as_mut().expect("it is taken in `drop` only");
        // It has closed its pipes already if it ended by itself. Its status is more informative than a broken pipe.
        let is_gone = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        if is_gone {
            // Some programs close their pipes a moment before they end.
            let end = async {
                while child.id().is_some_and(|id| !has_ended(id)) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, end).await;
        } else {
            let _ = child.start_kill();
        }
        let mut message = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            // A process that closed one pipe may have kept the other.
            let mut stderr = stderr.take(MESSAGE_BYTES_MAX);
            let _ = tokio::time::timeout(LAST_WORDS, stderr.read_to_end(&mut message)).await;
        }
        let message = String::from_utf8_lossy(&message);
        // Rust adds advice that is not for a function.
        let lines: Vec<&str> = message.lines().filter(|line| !line.starts_with("note: ")).collect();
        // As long as nobody waits for it, the kernel keeps its time.
        self.charge();
        let Running { child, .. } = self.running.as_mut().expect("it is taken in `drop` only");
        let _ = child.start_kill();
        let status = child.wait().await;
        self.is_out_of_cpu = status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::XCPU.as_raw()));
        let how = match status {
            Ok(status) if is_gone => format!("ended with {status}"),
            _ => format!("was ended: {error}"),
        };
        format!("{how}: {}", lines.join(" ").trim()).trim_end_matches(": ").into()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Memory that the process takes now: what it had touched before it got a graph, and all data since then.
    pub(super) fn bytes(&self) -> usize {
        let now = self.memory().map_or(self.memory_bytes_max, |memory| memory.data_bytes);
        self.first.touched_bytes + now.saturating_sub(self.first.data_bytes)
    }

    /// Most memory that the process took since it started, as far as it touched it.
    pub(super) fn bytes_peak(&self) -> usize {
        let peak = self.memory().map_or(0, |memory| memory.peak_bytes);
        (self.first.touched_bytes + peak.saturating_sub(self.first.peak_bytes)).min(self.memory_bytes_max)
    }

    /// Charges the call with the processor time since the last charge.
    fn charge(&mut self) {
        // The files of `/proc` do not block.
        let Some(used) = self.id().and_then(|id| processor_time(id).ok()) else { return };
        if let Some(Running { clock, .. }) = &self.running {
            clock.charge(used.saturating_sub(self.charged), 1);
        }
        self.charged = self.charged.max(used);
    }

    /// Processor time that the call was charged with.
    pub(super) fn charged(&self) -> Duration {
        self.charged
    }

    fn memory(&self) -> io::Result<Memory> {
        Memory::of(self.id().ok_or(io::ErrorKind::NotFound)?)
    }

    /// Its identifier, as long as nobody has waited for its end.
    fn id(&self) -> Option<Pid> {
        let id = self.running.as_ref()?.child.id()?;
        Pid::from_raw(i32::try_from(id).ok()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.charge();
        let Some(mut running) = self.running.take() else { return };
        // Without an executor, the process is killed as the child is dropped.
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            let _ = running.child.start_kill();
            // The kernel ends a killed process at once; only then do the slot and the place become free.
            executor.spawn(async move {
                let _ = running.child.wait().await;
                drop(running);
            });
        }
    }
}

impl wire::Failure {
    fn into_error(self, kind: Kind) -> EngineError {
        match self {
            wire::Failure::Input(name, reason) => EngineError::Input { name, reason },
            wire::Failure::Output(name, reason) => EngineError::Output { name, reason },
            wire::Failure::Compile(reason) => EngineError::Compile { kind, reason },
            wire::Failure::Run(reason) => EngineError::Run { kind, reason },
        }
    }
}
