//! The state of a job on disk: a safetensors file that appears whole or not at all.
//!
//! Parameters keep their names and shapes, so any tool that reads safetensors can use them. Optimizer state is
//! `optimizer.<slot>`, flat. Everything else is in the metadata.

mod provenance;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use skein_job::Job;
use skein_job::identity::list;
use skein_protocol::convergence::Progress;
use skein_protocol::state::state_hash;
use skein_store::{Head, State, StateStore, StoreError};
use skein_types::Layout;
use skein_types::{Digest, Values};

pub use provenance::{Ancestor, Provenance, Relation};

/// Name of the file in a run's folder.
pub const FILE: &str = "checkpoint.safetensors";

const FORMAT: &str = "skein-checkpoint-2";

/// Everything that a run needs to resume and reach the same result.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The run that it belongs to.
    pub provenance: Arc<Provenance>,
    /// The state after the last applied round.
    pub state: State,
    /// Memory of the convergence rules.
    pub progress: Progress,
}

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("failed to {action} the checkpoint `{}`", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Path of the checkpoint.
        path: PathBuf,
        /// Error of the file system.
        source: std::io::Error,
    },
    /// It belongs to another run or another job.
    #[error("`{}` is the checkpoint of another {of}: {differences}; {remedy}", path.display())]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// `job`, or `run of this job`.
        of: &'static str,
        /// Each key that differs with both values.
        differences: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The content is not what was once written.
    #[error("the checkpoint `{}` {problem}", path.display())]
    Content {
        /// Path of the checkpoint.
        path: PathBuf,
        /// The problem, as the end of a sentence about the file.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Rules {
    learning_rate: f64,
    stopping_best: Option<f64>,
    stopping_waited: u32,
    plateau_best: Option<f64>,
    plateau_waited: u32,
}

impl Checkpoint {
    /// The state before a job's first round.
    pub fn initial(job: &Job) -> Checkpoint {
        let parameters = Values::from(job.initial.clone());
        let slots = vec![Values::from(vec![0.0; parameters.len()]); job.train.optimizer.kind().slots];
        let state = State::new(0, parameters, slots);
        Checkpoint {
            provenance: Arc::new(Provenance::of(job)),
            state,
            progress: Progress::new(job.train.learning_rate),
        }
    }

    /// The state as the start of a run of `job`, under settings that may have changed. The optimizer keeps what it
    /// remembers if it is the same, and the learning rate stays where it was unless it was changed.
    pub fn continued(self, job: &Job) -> Checkpoint {
        let (Relation::OtherRun(changes) | Relation::OtherJob(changes)) = self.provenance.relation(job) else {
            return self;
        };
        let has_changed = |key: &str| changes.iter().any(|change| change.key.starts_with(key));
        let provenance = Arc::new(self.provenance.continued(job, self.state.round()));
        let initial = Checkpoint::initial(job);
        let optimizer = if has_changed("train.optimizer") { &initial } else { &self };
        let rates = if has_changed("train.learning_rate") { &initial } else { &self };
        let progress = Progress { learning_rate: rates.progress.learning_rate, ..self.progress };
        let slots = optimizer.state.slots().to_vec();
        let state = State::new(self.state.round(), self.state.parameters().clone(), slots);
        Checkpoint { provenance, state, progress }
    }

    /// Checks that the checkpoint, which was read from `path`, belongs to the run of `job`.
    ///
    /// # Errors
    /// [`CheckpointError::OtherRun`], with each key that differs, both values and `remedy`.
    pub fn check_run(&self, job: &Job, path: &Path, remedy: &'static str) -> Result<(), CheckpointError> {
        let (of, differences) = match self.provenance.relation(job) {
            Relation::SameRun => return Ok(()),
            Relation::OtherRun(differences) => ("run of this job", differences),
            Relation::OtherJob(differences) => ("job", differences),
        };
        let differences = list(&differences, "in the checkpoint");
        Err(CheckpointError::OtherRun { path: path.to_owned(), of, differences, remedy })
    }

    /// Checks that the checkpoint, which was read from `path`, belongs to some run of `job`.
    ///
    /// # Errors
    /// As [`Checkpoint::check_run`].
    pub fn check_job(&self, job: &Job, path: &Path, remedy: &'static str) -> Result<(), CheckpointError> {
        match self.provenance.relation(job) {
            Relation::SameRun | Relation::OtherRun(_) => Ok(()),
            Relation::OtherJob(_) => self.check_run(job, path, remedy),
        }
    }

    /// Writes the state to a store, in place of the one it holds.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn restore(&self, store: &dyn StateStore) -> Result<(), StoreError> {
        store.set_state(self.state.clone()).await?;
        store.put_round_metadata(self.state.round(), encode_progress(&self.progress)).await
    }

    /// Hash of the state, which peers compare.
    pub fn state_hash(&self) -> Digest {
        hash_of(&self.state.head())
    }

    /// Writes the checkpoint next to `path` and moves it there. If anything fails, the file at `path` stays as it was.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn save(&self, layout: &Layout, path: &Path) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError::File { action: "write", path: path.to_owned(), source };
        let bytes = self.encode(layout).map_err(|error| failed(std::io::Error::other(error)))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || {
            // The permissions of any new file, from which the user's mask is subtracted.
            let permissions = std::fs::Permissions::from_mode(0o666);
            let mut file = tempfile::Builder::new().prefix(".checkpoint").permissions(permissions).tempfile_in(dir)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            // The new name has to survive a power failure too.
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(failed)
    }

    fn encode(&self, layout: &Layout) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let view = |shape: &[u32], values| {
            let shape = shape.iter().map(|size| *size as usize).collect();
            TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))
        };
        let mut tensors = Vec::new();
        for parameter in layout.parameters() {
            let (_, range) = layout.find(&parameter.name).expect("the layout has its own parameters");
            tensors.push((parameter.name.clone(), view(&parameter.shape, &self.state.parameters()[range])?));
        }
        for (slot, values) in self.state.slots().iter().enumerate() {
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values))?;
            tensors.push((slot_name(slot), view));
        }
        safetensors::serialize(tensors, Some(self.metadata()))
    }

    fn metadata(&self) -> HashMap<String, String> {
        let rules = String::from_utf8(encode_progress(&self.progress)).expect("JSON is text");
        let mut metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("round".to_owned(), self.state.round().to_string()),
            ("state_hash".to_owned(), self.state_hash().to_string()),
            ("convergence".to_owned(), rules),
        ]);
        metadata.extend(self.provenance.metadata());
        metadata
    }

    /// Reads a checkpoint of a model with this layout, and verifies its state hash.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn load(layout: &Layout, path: &Path) -> Result<Checkpoint, CheckpointError> {
        let bytes = std::fs::read(path);
        let failed = |source| CheckpointError::File { action: "read", path: path.to_owned(), source };
        let bytes = bytes.map_err(failed)?;
        Checkpoint::decode(layout, &bytes)
            .map_err(|problem| CheckpointError::Content { path: path.to_owned(), problem })
    }

    fn decode(layout: &Layout, bytes: &[u8]) -> Result<Checkpoint, String> {
        let broken = |error: safetensors::SafeTensorError| format!("is not a complete safetensors file: {error}");
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        let field = |name: &str| metadata.get(name).ok_or_else(|| format!("has no `{name}` in its metadata"));
        if field("format")? != FORMAT {
            return Err(format!("has the format `{}`, but this program reads only `{FORMAT}`", field("format")?));
        }
        let hash: Digest =
            field("state_hash")?.parse().map_err(|_| "has no valid `state_hash` in its metadata".to_owned())?;
        let provenance = Arc::new(Provenance::read(&metadata)?);
        let round = field("round")?.parse().map_err(|_| "has no valid `round` in its metadata".to_owned())?;
        let progress = decode_progress(field("convergence")?.as_bytes()).map_err(|error| error.to_string())?;

        let mut parameters = Vec::with_capacity(layout.len());
        for parameter in layout.parameters() {
            parameters.extend(values(&tensors, &parameter.name, parameter.len())?);
        }
        let mut slots = Vec::new();
        while tensors.tensor(&slot_name(slots.len())).is_ok() {
            slots.push(Values::from(values(&tensors, &slot_name(slots.len()), layout.len())?));
        }
        let state = State::new(round, parameters.into(), slots);
        if hash_of(&state.head()) != hash {
            return Err("does not match its state hash: it was altered".to_owned());
        }
        Ok(Checkpoint { provenance, state, progress })
    }
}

/// Encodes the memory of the convergence rules, to be kept beside a state.
pub fn encode_progress(progress: &Progress) -> Vec<u8> {
    let Progress { learning_rate, stopping_best, stopping_waited, plateau_best, plateau_waited } = *progress;
    let rules = Rules { learning_rate, stopping_best, stopping_waited, plateau_best, plateau_waited };
    serde_json::to_vec(&rules).expect("numbers and options can be written as JSON")
}

/// Decodes what [`encode_progress`] wrote.
///
/// # Errors
/// The bytes are anything else.
pub fn decode_progress(bytes: &[u8]) -> serde_json::Result<Progress> {
    let rules: Rules = serde_json::from_slice(bytes)?;
    let Rules { learning_rate, stopping_best, stopping_waited, plateau_best, plateau_waited } = rules;
    Ok(Progress { learning_rate, stopping_best, stopping_waited, plateau_best, plateau_waited })
}

/// The hash that peers compare.
pub fn hash_of(head: &Head) -> Digest {
    state_hash(head.round, head.parameters, &head.slots)
}

fn slot_name(slot: usize) -> String {
    format!("optimizer.{slot}")
}

fn values(tensors: &SafeTensors<'_>, name: &str, len: usize) -> Result<Vec<f32>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("has no tensor `{name}`"))?;
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
    if tensor.dtype() != Dtype::F32 || values.len() != len {
        return Err(format!("has a tensor `{name}` of another type or shape than the model"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_job::identity::Identifier;
    use skein_types::Parameter;

    fn layout() -> Layout {
        let parameter = |name: &str, shape: &[u32]| Parameter { name: name.into(), shape: shape.into() };
        // Not in the order of their names, which safetensors sorts by.
        Layout::new(vec![parameter("w", &[2, 2]), parameter("b", &[2])])
    }

    fn checkpoint(round: u64) -> Checkpoint {
        let parameters = Values::from((0..6).map(|i| i as f32 * 0.1).collect::<Vec<_>>());
        let slots = vec![vec![1.0; 6].into(), vec![2.0; 6].into()];
        let progress = Progress { stopping_best: Some(0.1 + 0.2), stopping_waited: 3, ..Progress::new(1e-3) };
        let provenance = Provenance {
            job: Identifier::default(),
            run: Identifier::default(),
            manifest: "[train]\n".into(),
            lineage: vec![Ancestor { run: "1".into(), job: "2".into(), round: 3 }],
        };
        Checkpoint { provenance: provenance.into(), state: State::new(round, parameters, slots), progress }
    }

    #[test]
    fn a_saved_checkpoint_is_loaded_to_the_bit() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        for round in [7, 8] {
            checkpoint(round).save(&layout(), &path).expect("saved");
            assert_eq!(Checkpoint::load(&layout(), &path).expect("loaded"), checkpoint(round));
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the folder").collect();
        assert_eq!(left.len(), 1, "no temporary file stays");
    }

    #[test]
    fn a_corrupt_file_is_refused_with_its_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        checkpoint(7).save(&layout(), &path).expect("saved");
        let good = std::fs::read(&path).expect("the file");
        let refused = |bytes: &[u8], layout: &Layout| {
            std::fs::write(&path, bytes).expect("written");
            let error = Checkpoint::load(layout, &path).expect_err("corrupt").to_string();
            assert!(error.contains(FILE), "{error}");
            error
        };
        let mut altered = good.clone();
        *altered.last_mut().expect("a byte") ^= 1;
        assert!(refused(&altered, &layout()).contains("altered"));
        refused(&good[..good.len() / 2], &layout());
        refused(b"", &layout());
        let other = Layout::new(vec![Parameter { name: "other".into(), shape: vec![6] }]);
        assert!(refused(&good, &other).contains("no tensor `other`"));
    }
}
