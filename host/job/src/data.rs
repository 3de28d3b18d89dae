//! Labelled samples in memory: read from common formats, split, and returned in batches.

mod cifar10;
pub mod contents;
mod delimited;
mod digits;
mod idx;
pub(crate) mod labels;
mod npz;
pub mod split;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skein_types::Digest;

use self::contents::Source;
use crate::manifest;
use crate::manifest::data::{BUILTIN_DIGITS, unknown_builtin};

/// Samples of one shape, each with a class. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Dataset(Arc<Samples>);

#[derive(Debug)]
struct Samples {
    raw: Raw,
    classes: u32,
    scale: f32,
    hash: Digest,
}

/// The content of a data file.
#[derive(Debug, Clone, PartialEq)]
struct Raw {
    inputs: Inputs,
    /// Shape of one sample.
    shape: Vec<u32>,
    labels: Vec<i64>,
    source: Source,
}

/// Values of all samples, one sample after the other; bytes stay bytes, which takes a quarter of the memory.
#[derive(Debug, Clone, PartialEq)]
enum Inputs {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

/// Data that cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file is missing or not readable.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Why it could not be read.
        source: std::io::Error,
    },
    /// The content does not match the format or cannot be trained on.
    #[error("`{}` {problem}", path.display())]
    Content {
        /// Path of the file or folder.
        path: PathBuf,
        /// The problem and its place, worded to follow the path.
        problem: String,
    },
}

impl DataError {
    fn content(path: &Path, problem: impl Into<String>) -> DataError {
        DataError::Content { path: path.to_owned(), problem: problem.into() }
    }
}

/// Samples to compute on.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Shape of one sample.
    pub shape: Vec<u32>,
    /// Inputs of all samples, one sample after the other.
    pub inputs: Vec<f32>,
    /// The class of each sample.
    pub labels: Vec<i64>,
}

/// The properties of samples that a model depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleKind {
    /// Shape of one sample.
    pub shape: Vec<u32>,
    /// Number of classes; labels count from 0.
    pub classes: u32,
}

impl SampleKind {
    /// Number of values in one sample.
    pub fn features(&self) -> usize {
        self.shape.iter().map(|size| *size as usize).product()
    }
}

impl Dataset {
    /// Reads `path` according to `options`.
    ///
    /// # Errors
    /// [`DataError`]: unreadable, corrupt or empty, or a label out of range.
    pub fn load(path: &Path, options: &manifest::Data) -> Result<Dataset, DataError> {
        let (raw, natural_scale) = read(path, options)?;
        let samples = raw.labels.len();
        let features = raw.shape.iter().map(|size| *size as usize).product::<usize>();
        if samples == 0 || features == 0 {
            return Err(DataError::content(path, "holds no samples"));
        }
        if u32::try_from(samples).is_err() {
            return Err(DataError::content(path, format!("holds {samples} samples, at most 2^32 - 1 are supported")));
        }
        let classes =
            labels::classes(&raw.labels, options.classes).map_err(|problem| DataError::content(path, problem))?;
        if let Inputs::Floats(values) = &raw.inputs
            && let Some(at) = values.iter().position(|value| !value.is_finite())
        {
            return Err(DataError::content(
                path,
                format!("has a value that is not finite in sample {}", at / features),
            ));
        }
        let scale = options.scale.unwrap_or(natural_scale);
        let hash = raw.hash(classes, scale);
        Ok(Dataset(Arc::new(Samples { raw, classes, scale, hash })))
    }

    /// Number of samples, at least 1.
    pub fn len(&self) -> usize {
        self.0.raw.labels.len()
    }

    /// Always `false`: a data set without samples is refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Shape of one sample.
    pub fn shape(&self) -> &[u32] {
        &self.0.raw.shape
    }

    /// Shape and number of classes of its samples.
    pub fn kind(&self) -> SampleKind {
        SampleKind { shape: self.shape().to_vec(), classes: self.classes() }
    }

    /// Number of classes: as set in the manifest, otherwise one more than the largest label.
    pub fn classes(&self) -> u32 {
        self.0.classes
    }

    /// Hash of everything that a gradient could depend on.
    pub fn hash(&self) -> Digest {
        self.0.hash
    }

    /// The samples at these indices.
    pub fn batch(&self, indices: &[u32]) -> Batch {
        let features = self.kind().features();
        let scale = self.0.scale;
        let mut inputs = Vec::with_capacity(indices.len() * features);
        let ranges = indices.iter().map(|index| *index as usize * features..(*index as usize + 1) * features);
        match &self.0.raw.inputs {
            Inputs::Bytes(bytes) => {
                ranges.for_each(|range| inputs.extend(bytes[range].iter().map(|byte| f32::from(*byte) / scale)));
            }
            Inputs::Floats(floats) => {
                ranges.for_each(|range| inputs.extend(floats[range].iter().map(|value| value / scale)));
            }
        }
        let labels = indices.iter().map(|index| self.0.raw.labels[*index as usize]).collect();
        Batch { shape: self.shape().to_vec(), inputs, labels }
    }
}

impl Raw {
    fn hash(&self, classes: u32, scale: f32) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("skein 2026-11 samples");
        hasher.update(&classes.to_le_bytes()).update(&scale.to_le_bytes());
        hasher.update(bytemuck::cast_slice(&self.shape)).update(bytemuck::cast_slice(&self.labels));
        match &self.inputs {
            Inputs::Bytes(bytes) => hasher.update(bytes),
            Inputs::Floats(values) => hasher.update(bytemuck::cast_slice(values)),
        };
        Digest(*hasher.finalize().as_bytes())
    }
}

/// The content, and the default scale of its format.
fn read(path: &Path, options: &manifest::Data) -> Result<(Raw, f32), DataError> {
    if path == Path::new(BUILTIN_DIGITS) {
        return Ok((digits::read()?, digits::SCALE));
    }
    if let Some(problem) = unknown_builtin(path) {
        return Err(DataError::content(path, problem));
    }
    let files = files(path)?;
    match files.as_slice() {
        [] => Err(DataError::content(path, "holds no file of a known format: idx, CIFAR-10 `.bin`, `.csv` or `.npz`")),
        [(Format::Idx, file)] => Ok((idx::read(file, options.labels.as_deref())?, 255.0)),
        [(Format::Npz, file)] => npz::read(file),
        [(Format::Csv, file)] => Ok((delimited::read(file, options.label_column.as_deref())?, 1.0)),
        [(Format::Cifar10, _), ..] if files.iter().all(|(format, _)| *format == Format::Cifar10) => {
            let batches: Vec<&Path> = files.iter().map(|(_, file)| file.as_path()).collect();
            Ok((cifar10::read(&batches)?, 255.0))
        }
        _ => {
            let names: Vec<_> = files.iter().filter_map(|(_, file)| file.file_name()?.to_str()).collect();
            Err(DataError::content(path, format!("holds several data sets: name one of {names:?}")))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Idx,
    Cifar10,
    Csv,
    Npz,
}

/// The data files of a folder, sorted by name, or the file itself. Of idx files only the images count here, and of
/// CIFAR-10's only the training batches.
fn files(path: &Path) -> Result<Vec<(Format, PathBuf)>, DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        let format = format_of(path).ok_or_else(|| DataError::content(path, unknown_format(path)))?;
        return Ok(vec![(format, path.to_owned())]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_part = name.contains("labels") || name == "test_batch.bin";
        if let Some(format) = format_of(&file).filter(|_| !is_part) {
            files.push((format, file));
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

/// What is wrong with a file of no known format, worded to follow its path.
fn unknown_format(path: &Path) -> String {
    let is_single_array = path.extension().is_some_and(|extension| extension == "npy");
    let fix = if is_single_array {
        "; a `.npy` file holds one array, so save both: `np.savez(\"data.npz\", x=inputs, y=labels)`"
    } else {
        ""
    };
    format!("has no known format: idx (`…idx3-ubyte`), CIFAR-10 `.bin`, `.csv` or `.npz`{fix}")
}

fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    match plain {
        _ if name.ends_with(".npz") => Some(Format::Npz),
        _ if name.ends_with(".bin") => Some(Format::Cifar10),
        _ if plain.ends_with(".csv") => Some(Format::Csv),
        _ if plain.ends_with("-ubyte") || plain.ends_with(".idx") => Some(Format::Idx),
        _ => None,
    }
}

/// Reads a whole file, unpacking it if it is gzipped, whatever its name.
fn read_bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(failed)?;
    if bytes.is_empty() {
        return Err(DataError::content(path, "is empty"));
    }
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let result = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked);
    result.map_err(|error| DataError::content(path, format!("is not a complete gzip file: {error}")))?;
    Ok(unpacked)
}
