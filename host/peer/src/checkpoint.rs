//! The state of a job on disk: a safetensors file that appears whole or not at all.
//!
//! Parameters keep their names and shapes, so any tool that reads safetensors can use them. Optimizer state is
//! `optimizer.<slot>`, flat. Everything else is in the metadata.

mod file;
mod folder;
mod provenance;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView};
use skein_job::Job;
use skein_job::identity::Ancestor;
use skein_protocol::convergence::Progress;
use skein_protocol::record::Position;
use skein_protocol::standing::{Head, Standing};
use skein_protocol::state::state_hash;
use skein_store::{State, StateDigests, StateStore, StoreError};
use skein_types::Layout;
use skein_types::{Digest, Values};

pub use file::CheckpointFile;
pub(crate) use folder::replace;
pub use folder::{Best, KEEP_DEFAULT, MANIFEST_FILE, RunFolder};
pub use provenance::{Provenance, Relation};

/// Name of the last checkpoint in a run's folder.
pub const FILE: &str = "checkpoint.safetensors";

/// The format and its version. A program reads the version that it writes.
const FORMAT: &str = "skein-checkpoint-4";

/// Everything that a run needs to resume and reach the same result.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The run that it belongs to.
    pub provenance: Arc<Provenance>,
    /// The state after the last applied round.
    pub state: State,
    /// That round, or the one that follows if training stopped before it.
    pub position: Position,
    /// What the peers share besides tensors.
    pub standing: Standing,
}

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("failed to {action} the checkpoint `{}`", path.display())]
    File {
        /// What failed: `read` or `write`.
        action: &'static str,
        /// Path of the checkpoint.
        path: PathBuf,
        /// Error of the file system.
        source: std::io::Error,
    },
    /// A run's folder has a manifest that no run wrote.
    #[error("`{}` was not written by a run: choose another folder, or rename that file", path.display())]
    Manifest {
        /// Path of that file.
        path: PathBuf,
    },
    /// It belongs to another run or another job.
    #[error("`{}` is the checkpoint of another {of}:{differences}{remedy}", path.display())]
    OtherRun {
        /// Path of the checkpoint that does not belong here.
        path: PathBuf,
        /// `job`, or `run of this job`.
        of: &'static str,
        /// Each key that differs with both values, from after a colon to before the remedy.
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

impl Checkpoint {
    /// The state before a job's first round.
    pub fn initial(job: &Job) -> Checkpoint {
        let parameters = Values::from(job.initial.clone());
        let slots = vec![Values::from(vec![0.0; parameters.len()]); job.train.optimizer.kind().slots];
        let state = State::new(0, parameters, slots);
        Checkpoint {
            provenance: Arc::new(Provenance::of(job)),
            state,
            position: Position::default(),
            standing: Standing::new(job.train.learning_rate),
        }
    }

    /// The state as the protocol knows it.
    pub fn head(&self) -> Head {
        Head { position: self.position, state: self.state_hash(), standing: self.standing.clone() }
    }

    /// The state as the start of a run of `job` under other settings, which knows this run as its ancestor.
    ///
    /// The optimizer keeps its state if it is of the same kind, and the learning rate stays where it was unless the
    /// manifest's was changed. Early stopping and the plateau rule start anew: what they remember was measured under the
    /// old settings.
    pub fn continued(&self, job: &Job) -> Checkpoint {
        let kind = job.train.optimizer.kind().name;
        let is_same_optimizer = self.provenance.job.text("train.optimizer.name") == Some(kind);
        let rate = "train.learning_rate";
        let is_same_rate = self.provenance.job.get(rate) == job.identifier.get(rate);
        let round = self.state.round();
        let initial = Checkpoint::initial(job);
        let slots = if is_same_optimizer { self.state.slots() } else { initial.state.slots() };
        let progress = self.standing.progress;
        let progress = Progress {
            learning_rate: if is_same_rate { progress.learning_rate } else { job.train.learning_rate },
            optimizer_since: if is_same_optimizer { progress.optimizer_since } else { round },
            ..initial.standing.progress
        };
        Checkpoint {
            provenance: Arc::new(self.provenance.continued(job, self.as_ancestor())),
            state: State::new(round, self.state.parameters().clone(), slots.to_vec()),
            position: Position { era: 0, round },
            standing: Standing { progress, ..initial.standing },
        }
    }

    /// The run of this checkpoint as the ancestor of one that continues from here.
    pub fn as_ancestor(&self) -> Ancestor {
        let Provenance { run, job, .. } = &*self.provenance;
        Ancestor { run: run.digest(), job: job.digest(), round: self.state.round(), state: self.state_hash() }
    }

    /// Writes the state to a store, in place of the one it holds.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn restore(&self, store: &dyn StateStore) -> Result<(), StoreError> {
        store.set_state(self.state.clone()).await?;
        self.label(store).await
    }

    /// Writes what belongs to the state besides tensors to a store that holds the tensors.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn label(&self, store: &dyn StateStore) -> Result<(), StoreError> {
        store.put_round_metadata(self.state.round(), encode_metadata(self.position, &self.standing)).await
    }

    /// Hash of the state, which peers compare.
    pub fn state_hash(&self) -> Digest {
        hash_of(&self.state.digests())
    }

    /// Writes the checkpoint next to `path` and moves it there. If anything fails, the file at `path` stays as it was.
    ///
    /// # Errors
    /// [`CheckpointError::File`]
    pub fn save(&self, layout: &Layout, path: &Path) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError::File { action: "write", path: path.to_owned(), source };
        let bytes = self.encode(layout).map_err(|error| failed(std::io::Error::other(error)))?;
        replace(path, &bytes).map_err(failed)
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
        let mut metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("round".to_owned(), self.state.round().to_string()),
            ("state_hash".to_owned(), self.state_hash().to_string()),
            ("standing".to_owned(), hex::encode(encode_metadata(self.position, &self.standing))),
        ]);
        metadata.extend(self.provenance.metadata());
        metadata
    }
}

/// Encodes what is kept beside the tensors of a state: era (4 bytes, little endian), round (8), and the standing.
pub fn encode_metadata(position: Position, standing: &Standing) -> Vec<u8> {
    let Position { era, round } = position;
    [&era.to_le_bytes()[..], &round.to_le_bytes(), &standing.encode()].concat()
}

/// Decodes what [`encode_metadata`] wrote beside the state of `round`; `None` if the bytes are anything else.
pub fn decode_metadata(bytes: &[u8], round: u64) -> Option<(Position, Standing)> {
    let (era, rest) = bytes.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let position = Position { era: u32::from_le_bytes(*era), round: u64::from_le_bytes(*number) };
    let standing = Standing::decode(rest)?;
    let is_of_round = position.round == round + u64::from(standing.is_stopped);
    (is_of_round && standing.progress.optimizer_since <= round).then_some((position, standing))
}

/// The hash that peers compare.
pub fn hash_of(digests: &StateDigests) -> Digest {
    state_hash(digests.round, digests.parameters, &digests.slots)
}

fn slot_name(slot: usize) -> String {
    format!("optimizer.{slot}")
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

    fn load(layout: &Layout, path: &Path) -> Result<Checkpoint, CheckpointError> {
        CheckpointFile::open(path)?.load(layout)
    }

    fn checkpoint(round: u64) -> Checkpoint {
        let parameters = Values::from((0..6).map(|i| i as f32 * 0.1).collect::<Vec<_>>());
        let slots = vec![vec![1.0; 6].into(), vec![2.0; 6].into()];
        let progress = Progress { stopping_best: Some(0.1 + 0.2), stopping_waited: 3, ..Progress::new(1e-3) };
        let provenance = Provenance {
            job: Identifier::default(),
            run: Identifier::default(),
            manifest: "[train]\n".into(),
            lineage: vec![Ancestor { run: Digest([1; 32]), job: Digest([2; 32]), round: 3, state: Digest([4; 32]) }],
        };
        let standing = Standing { progress, ..Standing::new(1e-3) };
        let position = Position { era: 2, round };
        Checkpoint { provenance: provenance.into(), state: State::new(round, parameters, slots), position, standing }
    }

    #[test]
    fn a_saved_checkpoint_is_loaded_to_the_bit() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        for round in [7, 8] {
            checkpoint(round).save(&layout(), &path).expect("saved");
            assert_eq!(load(&layout(), &path).expect("loaded"), checkpoint(round));
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the folder").collect();
        assert_eq!(left.len(), 1, "no temporary file stays");
    }

    #[test]
    fn what_does_not_fit_the_round_is_refused() {
        let position = Position { era: 1, round: 4 };
        let with = |progress| Standing { progress, ..Standing::new(0.1) };
        let standing = with(Progress { optimizer_since: 4, ..Progress::new(0.1) });
        let bytes = encode_metadata(position, &standing);
        assert_eq!(decode_metadata(&bytes, 4), Some((position, standing)));
        assert_eq!(decode_metadata(&bytes, 3), None, "of another round");
        assert_eq!(decode_metadata(&bytes[..bytes.len() - 1], 4), None);
        let later = with(Progress { optimizer_since: 5, ..Progress::new(0.1) });
        assert_eq!(decode_metadata(&encode_metadata(position, &later), 4), None, "its steps would be negative");
        let stopped = Standing { is_stopped: true, ..Standing::new(0.1) };
        let bytes = encode_metadata(position, &stopped);
        assert_eq!(decode_metadata(&bytes, 3), Some((position, stopped)), "it stopped before the round");
    }

    #[test]
    fn a_corrupt_file_is_refused_with_its_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        checkpoint(7).save(&layout(), &path).expect("saved");
        let good = std::fs::read(&path).expect("the file");
        let refused = |bytes: &[u8], layout: &Layout| {
            std::fs::write(&path, bytes).expect("written");
            let error = load(layout, &path).expect_err("corrupt").to_string();
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
