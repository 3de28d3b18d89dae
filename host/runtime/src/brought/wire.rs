//! Messages between a call and the process of a graph that it brought: a head, which names and describes, then the bytes
//! that it describes.
//!
//! A message begins with the length of its head, four bytes, little endian; the head is JSON. Neither side allocates more
//! than the other may make it: a head is short, and the call reads tensors only as far as its memory allows.

use std::io::{self, Read};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skein_engine::{ElementType, RANK_MAX, Tensor};

/// Longest head: names and shapes of a graph's inputs and outputs, of which large networks have a thousand.
pub(super) const HEAD_BYTES_MAX: usize = 1 << 20;

/// The first message to a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    /// Name of the engine.
    pub(super) engine: String,
    /// The engine's library, if it has one.
    pub(super) library: Option<PathBuf>,
    /// Threads of each run.
    pub(super) threads: usize,
}

/// What a process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// To compile the graph of so many bytes, which follow.
    Load(usize),
    /// To run it on these inputs, whose elements follow.
    Run(Vec<Input>),
}

/// What a process has done.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is ready for the graph. What it lacks of its sandbox, in words.
    Ready(Option<String>),
    /// The graph is compiled, and has these inputs and outputs.
    Loaded { inputs: Vec<String>, outputs: Vec<String> },
    /// The graph's outputs, in its order, whose elements follow.
    Ran(Vec<Shape>),
    /// The engine returned an error.
    Failed(Failure),
}

/// A named tensor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// An error of an engine: the name of the input or output that it is about, and the reason.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Failure {
    Input(String, String),
    Output(String, String),
    Compile(String),
    Run(String),
}

/// Type and dimensions of a tensor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Index in [`TYPES`].
    ty: usize,
    dimensions: Vec<u32>,
}

const TYPES: [ElementType; 7] = [
    ElementType::Fp16,
    ElementType::Fp32,
    ElementType::Fp64,
    ElementType::Bf16,
    ElementType::U8,
    ElementType::I32,
    ElementType::I64,
];

impl Shape {
    pub(super) fn of(tensor: &Tensor) -> Shape {
        let ty = TYPES.iter().position(|ty| *ty == tensor.ty()).expect("it has every type");
        Shape { ty, dimensions: tensor.dimensions().to_vec() }
    }

    /// Bytes of the elements.
    pub(super) fn byte_len(&self) -> io::Result<usize> {
        let Shape { ty, dimensions } = self;
        let ty = TYPES.get(*ty).ok_or_else(|| invalid("a tensor has an unknown type"))?;
        if dimensions.len() > RANK_MAX {
            return Err(invalid("a tensor has too many dimensions"));
        }
        let sizes = dimensions.iter().map(|size| *size as usize);
        let bytes = sizes.into_iter().try_fold(ty.size(), usize::checked_mul);
        bytes.ok_or_else(|| invalid("a tensor is larger than any memory"))
    }

    /// The tensor of this shape with these elements.
    pub(super) fn with(self, bytes: Vec<u8>) -> io::Result<Tensor> {
        let ty = *TYPES.get(self.ty).ok_or_else(|| invalid("a tensor has an unknown type"))?;
        Tensor::from_bytes(self.dimensions, ty, bytes).map_err(io::Error::other)
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The length of a head, and the head.
pub(super) fn encode(head: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(head)?;
    let prefix = u32::try_from(json.len()).ok().filter(|_| json.len() <= HEAD_BYTES_MAX);
    let prefix = prefix.ok_or_else(|| invalid("the names of a graph's inputs and outputs are too long"))?;
    Ok([&prefix.to_le_bytes(), json.as_slice()].concat())
}

/// The length of the head that begins with these bytes.
pub(super) fn head_len(prefix: [u8; 4]) -> io::Result<usize> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len <= HEAD_BYTES_MAX { Ok(len) } else { Err(invalid("a message is too long")) }
}

pub(super) fn decode<T: DeserializeOwned>(head: &[u8]) -> io::Result<T> {
    // Never as the end of the input, by which the end of a process is known.
    serde_json::from_slice(head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a head.
pub(super) fn read<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<T> {
    let mut prefix = [0; 4];
    input.read_exact(&mut prefix)?;
    let mut head = vec![0; head_len(prefix)?];
    input.read_exact(&mut head)?;
    decode(&head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dimensions: &[u32]) -> Shape {
        Shape { ty: 1, dimensions: dimensions.to_vec() }
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let answers = [
            Answer::Ready(Some("the kernel has no landlock".into())),
            Answer::Loaded { inputs: vec!["x".into()], outputs: vec![] },
            Answer::Ran(vec![shape(&[2, 3]), shape(&[])]),
            Answer::Failed(Failure::Input("ä".into(), "it is missing".into())),
        ];
        for answer in answers {
            let bytes = encode(&answer).expect("a short head");
            assert_eq!(read::<Answer>(&mut bytes.as_slice()).expect("what was written"), answer);
            assert!(read::<Answer>(&mut &bytes[..bytes.len() - 1]).is_err(), "it is cut");
        }
    }

    #[test]
    fn every_type_comes_back() {
        for ty in TYPES {
            let tensor = Tensor::from_bytes(vec![2, 0], ty, vec![]).expect("no elements");
            let shape = Shape::of(&tensor);
            assert_eq!(shape.byte_len().expect("it fits"), 0);
            let again = shape.with(vec![]).expect("no elements");
            assert_eq!((again.ty(), again.dimensions()), (ty, &[2, 0][..]));
        }
    }

    /// The process of a graph may be in a hostile function's hands.
    #[test]
    fn a_hostile_head_is_refused() {
        assert!(head_len(u32::MAX.to_le_bytes()).is_err());
        assert!(head_len((HEAD_BYTES_MAX as u32 + 1).to_le_bytes()).is_err());
        assert!(encode(&Answer::Ready(Some("a".repeat(HEAD_BYTES_MAX)))).is_err());
        assert!(shape(&[u32::MAX; 3]).byte_len().is_err(), "the number of bytes overflows");
        assert!(shape(&[0; RANK_MAX + 1]).byte_len().is_err());
        assert!(Shape { ty: 7, dimensions: vec![] }.byte_len().is_err());
        assert!(shape(&[2]).with(vec![0; 7]).is_err(), "fewer bytes than the shape has");
        assert!(decode::<Answer>(b"{\"Ran\":[{\"ty\":-1,\"dimensions\":[]}]}").is_err());
        assert!(decode::<Answer>("[".repeat(HEAD_BYTES_MAX).as_bytes()).is_err());
    }
}
