//! The data that a host and its workers exchange through the peer's database: the bundle of the job, batches as bytes
//! under names, and the payloads of tasks.
//!
//! The bundle is signed by the host's key. Components and models are named by their SHA-256 in it, and are used only if
//! it matches: a worker takes code and limits from the host alone, even if others can write to the database. They can
//! still offer it a job that the host has signed before, with the limits of then.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use skein_engine::{ElementType, Tensor};
use skein_job::component::sha256;
use skein_job::data::SampleKind;
use skein_job::{Component, Job, Manifest};
use skein_protocol::identity::{Identity, is_signed_for};
use skein_redis::Scope;
use skein_redis::queue::Queue;
use skein_runtime::gradient::{Batch, GradientFunction};
use skein_types::{Digest, Layout};

use crate::ceilings::Ceilings;
use crate::prepare::{Tools, gradient_function};

/// Name of the bundle in the database.
const NAME: &str = "bundle";

/// Everything that a worker needs beside parameters and batches.
#[derive(Debug, Clone)]
pub struct JobBundle {
    signed: SignedIndex,
    /// Component and model files by their digest.
    blobs: Vec<(String, Vec<u8>)>,
}

/// Version of the bundle. A program reads the version that it writes.
const VERSION: u32 = 3;
/// The kind of message that a host signs.
const PURPOSE: &str = "skein 2026-11 bundle of a job for workers, version 3";

/// The index as its host signed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedIndex {
    version: u32,
    /// A [`BundleIndex`] as JSON. It is kept as text because the signature covers its bytes.
    index: String,
    /// The host's signature of the run id and the index, as 128 hexadecimal digits.
    signature: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleIndex {
    /// The job's manifest as TOML.
    manifest: String,
    /// What the host's operator lets functions use.
    #[serde(default)]
    ceilings: Ceilings,
    /// Kind of the job's samples.
    samples: SampleKind,
    /// Name and digest of the gradient function.
    gradient: (String, String),
    /// Names and digests of the model's files, the model itself first.
    model: Vec<(PathBuf, String)>,
}

impl JobBundle {
    /// The bundle of a prepared job, signed by the peer's key.
    ///
    /// # Errors
    /// A file of the model cannot be read any more.
    pub fn new(manifest: &Manifest, job: &Job, ceilings: Ceilings, identity: &Identity) -> Result<JobBundle> {
        let Component { name, bytes, digest, .. } = &job.gradient;
        let mut blobs = vec![(digest.clone(), bytes.clone())];
        let mut model = Vec::new();
        let folder = manifest.model.onnx.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        for file in &job.model_files {
            let path = folder.join(file);
            let bytes = std::fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
            let digest = sha256(&bytes);
            model.push((file.clone(), digest.clone()));
            blobs.push((digest, bytes));
        }
        let manifest = job.manifest.clone();
        let gradient = (name.clone(), digest.clone());
        let index = BundleIndex { manifest, ceilings, samples: job.samples.clone(), gradient, model };
        Ok(JobBundle { signed: SignedIndex::new(&index, job.run_id, identity)?, blobs })
    }

    /// Writes the bundle to the database, where workers find it.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn publish(&self, queue: &Queue) -> Result<()> {
        for (digest, bytes) in &self.blobs {
            queue.put(None, digest, bytes).await?;
        }
        Ok(queue.put(None, NAME, &serde_json::to_vec(&self.signed)?).await?)
    }
}

/// A job that a worker has verified to be its host's.
#[derive(Debug)]
pub struct VerifiedJob(BundleIndex);

/// What a worker computes with.
pub struct WorkerFunction {
    /// The job's gradient function.
    pub gradient: GradientFunction,
    /// Names and shapes of the parameters that it takes.
    pub layout: Arc<Layout>,
    /// Most samples of a batch.
    pub batch_size: u32,
}

/// Reads the job in the database.
///
/// # Errors
/// There is none, or it is not signed by the peer of `scope` for the run.
pub async fn read(queue: &Queue, scope: Scope) -> Result<VerifiedJob> {
    let signed =
        queue.get(NAME).await?.context("no host has published a job in this database: start the host first")?;
    SignedIndex::decode(&signed)?.verified(scope).map(VerifiedJob)
}

impl VerifiedJob {
    /// What the host's operator lets functions use.
    pub fn ceilings(&self) -> Ceilings {
        self.0.ceilings
    }
}

/// Loads the gradient function of a job. The limits of the function are those of its host; the ceilings of `tools` do not
/// count.
///
/// # Errors
/// A file that the job names is missing or has another digest, or the function does not run here.
pub fn unpack<'a>(
    VerifiedJob(index): VerifiedJob,
    queue: &'a Queue,
    tools: Tools<'a>,
) -> BoxFuture<'a, Result<WorkerFunction>> {
    Box::pin(async move {
        let tools = Tools { ceilings: index.ceilings, ..tools };
        let mut manifest = Manifest::parse(&index.manifest, Path::new("skein.toml"))?;
        let folder = tempfile::tempdir()?;
        for (name, digest) in &index.model {
            let is_inside = name.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            ensure!(is_inside, "the model's file `{}` leads out of its folder", name.display());
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
            std::fs::write(&path, fetch(queue, digest).await?)?;
        }
        if let Some((name, _)) = index.model.first() {
            manifest.model.onnx = Some(folder.path().join(name));
        }
        let (name, digest) = &index.gradient;
        let function = manifest.function(name).with_context(|| format!("the manifest has no function `{name}`"))?;
        let component = Component::new(name, function, fetch(queue, digest).await?);
        let (gradient, layout) = gradient_function(&manifest, &component, &index.samples, tools).await?;
        Ok(WorkerFunction { gradient, layout, batch_size: manifest.train.batch_size })
    })
}

impl SignedIndex {
    fn new(index: &BundleIndex, run: Digest, identity: &Identity) -> Result<SignedIndex> {
        let index = serde_json::to_string(index)?;
        let signature = hex::encode(identity.sign_for(PURPOSE, &message(run, &index)));
        Ok(SignedIndex { version: VERSION, index, signature })
    }

    fn decode(bytes: &[u8]) -> Result<SignedIndex> {
        let json: serde_json::Value = serde_json::from_slice(bytes).context("the job in the database is not JSON")?;
        // Version 1 did not name itself.
        let version = json.get("version").map_or(Some(1), serde_json::Value::as_u64);
        ensure!(
            version == Some(VERSION.into()),
            "the job in the database has version {}, this worker reads version {VERSION}: start the worker with the host's \
             program",
            json.get("version").unwrap_or(&1.into())
        );
        serde_json::from_value(json).context("the job in the database is malformed")
    }

    /// The index, if the peer has signed it for the run.
    fn verified(&self, Scope { run, peer, .. }: Scope) -> Result<BundleIndex> {
        let mut signature = [0; 64];
        let is_signed = hex::decode_to_slice(&self.signature, &mut signature).is_ok()
            && is_signed_for(peer, PURPOSE, &message(run, &self.index), &signature);
        ensure!(
            is_signed,
            "the job in the database is not signed by peer {peer} for the run {run}: somebody else has changed it; \
             restart the host, which writes it again, and change the passwords of the database"
        );
        serde_json::from_str(&self.index).context("the job in the database is malformed")
    }
}

/// What a host signs: the run id, then the index.
fn message(run: Digest, index: &str) -> Vec<u8> {
    [&run.0, index.as_bytes()].concat()
}

/// Reads the bytes with this digest, and verifies that they have it.
async fn fetch(queue: &Queue, digest: &str) -> Result<Vec<u8>> {
    let bytes =
        queue.get(digest).await?.with_context(|| format!("the database has nothing under the digest {digest}"))?;
    let actual = sha256(&bytes);
    ensure!(actual == digest, "the value that the database has under the digest {digest} has the digest {actual}");
    Ok(bytes)
}

/// Payload of a task, beside its round and index.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TaskPayload {
    /// Name of the batch's bytes.
    pub(crate) batch: String,
    /// Batches of the round.
    pub(crate) batches: u32,
}

/// A batch as a safetensors file.
///
/// # Errors
/// A tensor cannot be written in that format.
pub(crate) fn encode_batch(batch: &Batch) -> Result<Vec<u8>> {
    let views = batch.tensors.iter().map(|(name, tensor)| {
        let dtype = match tensor.ty() {
            ElementType::Fp16 => Dtype::F16,
            ElementType::Fp32 => Dtype::F32,
            ElementType::Fp64 => Dtype::F64,
            ElementType::Bf16 => Dtype::BF16,
            ElementType::U8 => Dtype::U8,
            ElementType::I32 => Dtype::I32,
            ElementType::I64 => Dtype::I64,
        };
        let shape = tensor.dimensions().iter().map(|size| *size as usize).collect();
        Ok((name.as_str(), TensorView::new(dtype, shape, tensor.bytes())?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([
        ("samples".to_owned(), batch.samples.to_string()),
        ("noise_seed".to_owned(), batch.noise_seed.to_string()),
        // The format sorts by alignment and name; a function may depend on the order.
        ("order".to_owned(), serde_json::to_string(&batch.tensors.iter().map(|(name, _)| name).collect::<Vec<_>>())?),
    ]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Decodes what [`encode_batch`] wrote.
///
/// # Errors
/// The bytes are anything else.
pub(crate) fn decode_batch(bytes: &[u8]) -> Result<Batch> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).context("the batch is not a safetensors file")?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).with_context(|| format!("the batch has no `{name}`"));
    let tensors = SafeTensors::deserialize(bytes).context("the batch is not a safetensors file")?;
    let order: Vec<String> = serde_json::from_str(field("order")?)?;
    let tensors = order.into_iter().map(|name| {
        let view = tensors.tensor(&name)?;
        let ty = match view.dtype() {
            Dtype::F16 => ElementType::Fp16,
            Dtype::F32 => ElementType::Fp32,
            Dtype::F64 => ElementType::Fp64,
            Dtype::BF16 => ElementType::Bf16,
            Dtype::U8 => ElementType::U8,
            Dtype::I32 => ElementType::I32,
            Dtype::I64 => ElementType::I64,
            other => bail!("the batch has a tensor of type {other:?}"),
        };
        let shape = view.shape().iter().map(|size| Ok(u32::try_from(*size)?)).collect::<Result<_>>()?;
        Ok((name, Tensor::from_bytes(shape, ty, view.data().to_vec())?))
    });
    let tensors = tensors.collect::<Result<_>>()?;
    Ok(Batch { samples: field("samples")?.parse()?, noise_seed: field("noise_seed")?.parse()?, tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_another_version_is_refused_with_both() {
        let first = include_bytes!("../../../tests/data/formats/1/bundle.json");
        let second = include_bytes!("../../../tests/data/formats/2/bundle.json");
        for (version, bytes) in [(1, &first[..]), (2, second)] {
            let error = SignedIndex::decode(bytes).expect_err("another version").to_string();
            assert!(error.contains(&format!("has version {version}, this worker reads version 3")), "{error}");
        }
        SignedIndex::decode(include_bytes!("../../../tests/data/formats/3/bundle.json")).expect("this version");
        assert!(SignedIndex::decode(b"{\"version\":3}").is_err(), "without its fields");
    }

    /// Everybody who can write to the database could otherwise run any code and lift any limit.
    #[test]
    fn a_bundle_counts_for_its_host_and_run_only() {
        let [own, other] = [0, 1].map(|index| Identity::derived(1, index));
        let samples = SampleKind { shape: vec![2], classes: 2 };
        let index = BundleIndex {
            manifest: String::new(),
            ceilings: Ceilings::default(),
            samples,
            gradient: ("mine".into(), "00".into()),
            model: Vec::new(),
        };
        let run = Digest([7; 32]);
        let signed = SignedIndex::new(&index, run, &own).expect("a bundle");
        let scope = Scope { run, peer: own.id(), values: 1 };
        assert_eq!(signed.verified(scope).expect("its own").gradient, index.gradient);
        let changed = SignedIndex { index: signed.index.replace("\"00\"", "\"01\""), ..signed.clone() };
        let cut = SignedIndex { signature: signed.signature[2..].to_owned(), ..signed.clone() };
        for (bundle, scope) in [
            (&changed, scope),
            (&cut, scope),
            (&signed, Scope { peer: other.id(), ..scope }),
            (&signed, Scope { run: Digest([8; 32]), ..scope }),
        ] {
            let error = bundle.verified(scope).expect_err("another bundle").to_string();
            assert!(error.contains(&format!("is not signed by peer {} for the run", scope.peer)), "{error}");
        }
    }

    #[test]
    fn batches_round_trip_with_their_order() {
        let floats = Tensor::from_bytes(vec![2, 1], ElementType::Fp32, [1.5f32, -0.0].map(f32::to_le_bytes).concat());
        let bytes = Tensor::from_bytes(vec![3], ElementType::U8, vec![1, 2, 3]);
        let tensors = vec![
            ("z".to_owned(), bytes.expect("a size that fits")),
            ("inputs".to_owned(), floats.expect("a size that fits")),
            ("labels".to_owned(), Tensor::from_integers(vec![7, -1])),
        ];
        let batch = Batch { samples: 2, tensors, noise_seed: u64::MAX };
        let decoded = decode_batch(&encode_batch(&batch).expect("written")).expect("read");
        assert_eq!((decoded.samples, decoded.noise_seed), (2, u64::MAX));
        assert_eq!(decoded.tensors.len(), 3);
        for ((name, tensor), (expected_name, expected)) in decoded.tensors.iter().zip(&batch.tensors) {
            assert_eq!(name, expected_name);
            assert_eq!((tensor.dimensions(), tensor.ty()), (expected.dimensions(), expected.ty()));
            assert_eq!(tensor.bytes(), expected.bytes());
        }
        for wrong in [&b""[..], b"nonsense that is no safetensors file"] {
            assert!(decode_batch(wrong).is_err());
        }
    }
}
