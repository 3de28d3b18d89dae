//! Where a state comes from: the run that computed it, the manifest, and the runs before it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use skein_job::Job;
use skein_job::identity::{Difference, Identifier};
use skein_types::Digest;

/// The run that a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// What identifies the job.
    pub job: Identifier,
    /// What identifies the run: the job, its members and the number of the run.
    pub run: Identifier,
    /// The manifest as TOML.
    pub manifest: String,
    /// Runs that this one continues under other settings, the oldest first.
    pub lineage: Vec<Ancestor>,
}

/// A run that another one continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Its run id, as 64 hexadecimal digits.
    pub run: String,
    /// Its job identity, as 64 hexadecimal digits.
    pub job: String,
    /// Its last round that the next run builds on.
    pub round: u64,
}

/// How a checkpoint relates to a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Relation {
    /// It belongs to this run.
    SameRun,
    /// It belongs to another run of the same job: other members, or another number.
    OtherRun(Vec<Difference>),
    /// It belongs to a job that trains something else.
    OtherJob(Vec<Difference>),
}

impl Provenance {
    /// Of a run that begins with the job's initial values.
    pub fn of(job: &Job) -> Provenance {
        Provenance {
            job: job.identifier.clone(),
            run: job.run.clone(),
            manifest: job.manifest.clone(),
            lineage: Vec::new(),
        }
    }

    /// Of a run of `job` that continues this one after `round`.
    pub fn continued(&self, job: &Job, round: u64) -> Provenance {
        let ancestor = Ancestor { run: self.run.digest().to_string(), job: self.job.digest().to_string(), round };
        let lineage = self.lineage.iter().cloned().chain([ancestor]).collect();
        Provenance { lineage, ..Provenance::of(job) }
    }

    /// Compares with a job, whose values are `here` in the differences.
    pub fn relation(&self, job: &Job) -> Relation {
        if self.job != job.identifier {
            return Relation::OtherJob(job.identifier.differences(&self.job));
        }
        if self.run != job.run {
            return Relation::OtherRun(job.run.differences(&self.run));
        }
        Relation::SameRun
    }

    /// Entries for the metadata of a file. The digests are for people and other programs: a reader computes its own.
    pub(super) fn metadata(&self) -> [(String, String); 6] {
        let lineage = serde_json::to_string(&self.lineage).expect("text and numbers can be written as JSON");
        [
            ("job", self.job.digest().to_string()),
            ("run", self.run.digest().to_string()),
            ("job_identifier", hex::encode(self.job.encode())),
            ("run_identifier", hex::encode(self.run.encode())),
            ("manifest", self.manifest.clone()),
            ("lineage", lineage),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    }

    /// Reads what [`Provenance::metadata`] wrote; says what is wrong with it.
    pub(super) fn read(metadata: &HashMap<String, String>) -> Result<Provenance, String> {
        let field = |name: &str| metadata.get(name).ok_or_else(|| format!("has no `{name}` in its metadata"));
        let malformed = |name: &str| format!("has a malformed `{name}` in its metadata");
        let identifier = |name: &str, digest: &str| -> Result<Identifier, String> {
            let bytes = hex::decode(field(name)?).map_err(|_| malformed(name))?;
            let identifier = Identifier::decode(&bytes).map_err(|error| error.to_string())?;
            let stated: Digest = field(digest)?.parse().map_err(|_| malformed(digest))?;
            if identifier.digest() == stated { Ok(identifier) } else { Err(malformed(digest)) }
        };
        Ok(Provenance {
            job: identifier("job_identifier", "job")?,
            run: identifier("run_identifier", "run")?,
            manifest: field("manifest")?.clone(),
            lineage: serde_json::from_str(field("lineage")?).map_err(|_| malformed("lineage"))?,
        })
    }
}
