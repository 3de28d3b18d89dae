//! Where a state comes from: the run that computed it, the manifest, and the runs before it.

use std::collections::HashMap;

use skein_job::Job;
use skein_job::identity::{Ancestor, Difference, Identifier};
use skein_types::Digest;

use super::file::field;

/// The run that a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// What identifies the job.
    pub job: Identifier,
    /// What identifies the run: the job, its members, the number of the run, and the run that it continues.
    pub run: Identifier,
    /// The manifest as TOML.
    pub manifest: String,
    /// Runs that this one continues under other settings, the oldest first.
    pub lineage: Vec<Ancestor>,
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

    /// Of a run of `job` that continues this one from `ancestor`, a state of it.
    pub fn continued(&self, job: &Job, ancestor: Ancestor) -> Provenance {
        let lineage = self.lineage.iter().copied().chain([ancestor]).collect();
        Provenance { lineage, run: job.run.continuing(&ancestor), ..Provenance::of(job) }
    }

    /// Compares with a job, whose values are `here` in the differences. A run of the job that continues the same run is
    /// the same.
    pub fn relation(&self, job: &Job) -> Relation {
        if self.job != job.identifier {
            return Relation::OtherJob(job.identifier.differences(&self.job));
        }
        let run = job.run_after(self.lineage.last());
        if self.run != run {
            return Relation::OtherRun(run.differences(&self.run));
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
        let field = |name: &str| field(metadata, name);
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
            manifest: field("manifest")?.to_owned(),
            lineage: serde_json::from_str(field("lineage")?).map_err(|_| malformed("lineage"))?,
        })
    }
}
