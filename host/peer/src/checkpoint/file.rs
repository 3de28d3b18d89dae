//! A checkpoint on disk. What it belongs to is known before its tensors are read: a changed model is told by its setting,
//! not by a tensor that does not fit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use skein_job::Job;
use skein_job::identity::list;
use skein_protocol::record::Position;
use skein_protocol::standing::Standing;
use skein_store::State;
use skein_types::{Digest, Layout, Values};

use super::{Checkpoint, CheckpointError, FORMAT, Provenance, Relation, decode_metadata, hash_of, slot_name};

/// A checkpoint's file, of which only the metadata is decoded.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    bytes: Vec<u8>,
    provenance: Arc<Provenance>,
    round: u64,
    position: Position,
    standing: Standing,
    state_hash: Digest,
}

impl CheckpointFile {
    /// Reads a file and decodes its metadata.
    ///
    /// # Errors
    /// [`CheckpointError::File`] and [`CheckpointError::Content`].
    pub fn open(path: &Path) -> Result<CheckpointFile, CheckpointError> {
        let failed = |source| CheckpointError::File { action: "read", path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(failed)?;
        CheckpointFile::decode(path, bytes)
            .map_err(|problem| CheckpointError::Content { path: path.to_owned(), problem })
    }

    fn decode(path: &Path, bytes: Vec<u8>) -> Result<CheckpointFile, String> {
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(incomplete)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let format = field(&metadata, "format")?;
        if format != FORMAT {
            return Err(format!(
                "has the format `{format}`, this program reads `{FORMAT}`: finish the run or export the \
                 model with the program that wrote it"
            ));
        }
        let invalid = |name: &str| format!("has no valid `{name}` in its metadata");
        let round = field(&metadata, "round")?.parse().map_err(|_| invalid("round"))?;
        let standing = hex::decode(field(&metadata, "standing")?).ok();
        let standing = standing.and_then(|bytes| decode_metadata(&bytes, round));
        let (position, standing) = standing.ok_or_else(|| invalid("standing"))?;
        Ok(CheckpointFile {
            path: path.to_owned(),
            provenance: Arc::new(Provenance::read(&metadata)?),
            round,
            position,
            standing,
            state_hash: field(&metadata, "state_hash")?.parse().map_err(|_| invalid("state_hash"))?,
            bytes,
        })
    }

    /// The run that it belongs to.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The round after which it was written.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Hash of its state, as it states it.
    pub fn state_hash(&self) -> Digest {
        self.state_hash
    }

    /// Checks that the checkpoint belongs to the run of `job`.
    ///
    /// # Errors
    /// [`CheckpointError::OtherRun`], with each key that differs, both values and `remedy`.
    pub fn check_run(&self, job: &Job, remedy: &'static str) -> Result<(), CheckpointError> {
        let (of, differences) = match self.provenance.relation(job) {
            Relation::SameRun => return Ok(()),
            Relation::OtherRun(differences) => ("run of this job", differences),
            Relation::OtherJob(differences) => ("job", differences),
        };
        let differences = list(&differences, "in the checkpoint");
        Err(CheckpointError::OtherRun { path: self.path.clone(), of, differences, remedy })
    }

    /// Checks that the checkpoint belongs to some run of `job`.
    ///
    /// # Errors
    /// As [`CheckpointFile::check_run`].
    pub fn check_job(&self, job: &Job, remedy: &'static str) -> Result<(), CheckpointError> {
        match self.provenance.relation(job) {
            Relation::SameRun | Relation::OtherRun(_) => Ok(()),
            Relation::OtherJob(_) => self.check_run(job, remedy),
        }
    }

    /// Reads the state of a model with this layout, and verifies its hash.
    ///
    /// # Errors
    /// [`CheckpointError::Content`]
    pub fn load(self, layout: &Layout) -> Result<Checkpoint, CheckpointError> {
        match self.state(layout) {
            Ok(state) => {
                let CheckpointFile { provenance, position, standing, .. } = self;
                Ok(Checkpoint { provenance, state, position, standing })
            }
            Err(problem) => Err(CheckpointError::Content { path: self.path, problem }),
        }
    }

    fn state(&self, layout: &Layout) -> Result<State, String> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(incomplete)?;
        let mut parameters = Vec::with_capacity(layout.len());
        for parameter in layout.parameters() {
            let shape: Vec<usize> = parameter.shape.iter().map(|size| *size as usize).collect();
            parameters.extend(values(&tensors, &parameter.name, &shape)?);
        }
        let mut slots = Vec::new();
        while tensors.tensor(&slot_name(slots.len())).is_ok() {
            slots.push(Values::from(values(&tensors, &slot_name(slots.len()), &[layout.len()])?));
        }
        let state = State::new(self.round, parameters.into(), slots);
        if hash_of(&state.digests()) != self.state_hash {
            return Err("does not match its state hash: it was altered".to_owned());
        }
        Ok(state)
    }
}

/// An entry of a file's metadata.
pub(super) fn field<'a>(metadata: &'a HashMap<String, String>, name: &str) -> Result<&'a str, String> {
    metadata.get(name).map(String::as_str).ok_or_else(|| format!("has no `{name}` in its metadata"))
}

fn incomplete(error: safetensors::SafeTensorError) -> String {
    format!("is not a complete safetensors file: {error}")
}

fn values(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("has no tensor `{name}`, which the model has"))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        let found = tensor.shape();
        return Err(format!("has `{name}` as {} of shape {found:?}, the model has F32 of {shape:?}", tensor.dtype()));
    }
    Ok(bytemuck::pod_collect_to_vec(tensor.data()))
}
