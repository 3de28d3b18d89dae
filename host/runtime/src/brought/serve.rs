//! The process of a graph that a function brought: compiles the graph and runs it, as it is told through standard input.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use skein_engine::{Device, Engine, EngineError, Kind, Options, Session, Stop, Tensor};

use super::wire::{self, Answer, Failure, Input, Request, Setup, Shape};
use crate::child::{Sandbox, confine};

/// Longest name or reason of an error, in bytes. A call shortens them further.
const TEXT_BYTES_MAX: usize = 4096;

/// Runs a process for the graph that a function brought, until the host kills it.
///
/// Returns the process's exit status.
pub fn run_graph_as_child() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn serve() -> io::Result<()> {
    confine(&[])?;
    let Setup { engine, library, threads } = wire::read(&mut io::stdin().lock())?;
    let kind: Kind = engine.parse().map_err(io::Error::other)?;
    let files = library.as_deref().map_or_else(Vec::new, |library| skein_engine::library::late_files(kind, library));
    let engine = skein_engine::open(kind, library).map_err(io::Error::other)?;
    let mut sandbox = Sandbox::begin(&files);
    if !files.is_empty() && !sandbox.landlock {
        return Err(io::Error::other(format!(
            "`{kind}` reads files for every graph, which cannot be confined without Landlock: choose another engine"
        )));
    }
    let options = Options { threads, device: Device::Cpu };
    skein_engine::warm_up(&*engine, options).map_err(io::Error::other)?;
    sandbox.complete(&files);
    // The message of a panic is part of the error that an engine returns; nobody reads the other copy before the end.
    std::panic::set_hook(Box::new(|_| {}));
    // Its thread belongs to what a process takes without a graph.
    let messages = messages();
    answer(&Answer::Ready(sandbox.lack().map(str::to_owned)), &[])?;
    let mut graph = Graph { engine: &*engine, options, session: None };
    for message in messages {
        match graph.handle(message) {
            Ok((done, tensors)) => answer(&done, &tensors)?,
            Err(error) => answer(&Answer::Failed(failure(error)), &[])?,
        }
    }
    Ok(())
}

/// A request with what follows its head.
enum Message {
    Load(Vec<u8>),
    Run(Vec<(String, Tensor)>),
}

/// Reads requests on a thread of its own, which ends this process when the host's end of the pipe is closed, even in
/// the middle of a run: nobody else would, if the host was killed.
fn messages() -> Receiver<Message> {
    let (send, receive) = sync_channel(0);
    std::thread::spawn(move || {
        while let Ok(message) = message() {
            if send.send(message).is_err() {
                break;
            }
        }
        std::process::abort();
    });
    receive
}

fn message() -> io::Result<Message> {
    let mut input = io::stdin().lock();
    let request = wire::read(&mut input)?;
    let mut filled = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        input.read_exact(&mut buffer).map(|()| buffer)
    };
    match request {
        Request::Load(bytes) => Ok(Message::Load(filled(bytes)?)),
        Request::Run(inputs) => {
            let mut tensors = Vec::with_capacity(inputs.len());
            for Input { name, shape } in inputs {
                let bytes = filled(shape.byte_len()?)?;
                tensors.push((name, shape.with(bytes)?));
            }
            Ok(Message::Run(tensors))
        }
    }
}

/// A graph, once it is loaded.
struct Graph<'a> {
    engine: &'a dyn Engine,
    options: Options,
    session: Option<Box<dyn Session>>,
}

impl Graph<'_> {
    fn handle(&mut self, message: Message) -> Result<(Answer, Vec<Tensor>), EngineError> {
        match (message, &mut self.session) {
            (Message::Load(file), _) => {
                let session = self.engine.compile(&file, self.options)?;
                let signature = session.signature().clone();
                self.session = Some(session);
                Ok((Answer::Loaded { inputs: signature.inputs, outputs: signature.outputs }, Vec::new()))
            }
            (Message::Run(inputs), Some(session)) => {
                let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
                let outputs = session.signature().outputs.clone();
                let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
                let tensors = session.run(&inputs, &outputs, &Stop::default())?;
                Ok((Answer::Ran(tensors.iter().map(Shape::of).collect()), tensors))
            }
            (Message::Run(_), None) => {
                Err(EngineError::Run { kind: self.engine.kind(), reason: "no graph is loaded".into() })
            }
        }
    }
}

fn answer(head: &Answer, tensors: &[Tensor]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(&wire::encode(head)?)?;
    for tensor in tensors {
        output.write_all(tensor.bytes())?;
    }
    output.flush()
}

/// An error of the engine, short enough for a head.
fn failure(error: EngineError) -> Failure {
    let cut = |mut text: String| {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text
    };
    match error {
        EngineError::Input { name, reason } => Failure::Input(cut(name), cut(reason)),
        EngineError::Output { name, reason } => Failure::Output(cut(name), cut(reason)),
        EngineError::Compile { reason, .. } => Failure::Compile(cut(reason)),
        EngineError::Run { reason, .. } => Failure::Run(cut(reason)),
        other => Failure::Run(cut(other.to_string())),
    }
}
