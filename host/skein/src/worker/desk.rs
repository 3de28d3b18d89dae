//! Where a peer lays out its batches, for its own worker and for any other.

use anyhow::{Result, bail};
use skein_runtime::gradient::Batch;
use skein_store::redis::Scope;
use skein_store::redis::queue::{Outcome, Queue, Task};

use super::Note;
use super::package::{Package, encode_batch};

/// The host's side of the queue.
pub struct Desk {
    queue: Queue,
    scope: Scope,
    package: Package,
}

impl Desk {
    /// A desk at the queue of `scope`, for the job of `package`.
    pub fn new(queue: Queue, scope: Scope, package: Package) -> Desk {
        Desk { queue, scope, package }
    }

    /// Tells workers what there is to be done.
    ///
    /// # Errors
    /// The database can not be used.
    pub async fn open(&self) -> Result<()> {
        self.package.publish(&self.queue).await?;
        Ok(self.queue.advertise(self.scope).await?)
    }

    /// Has all batches of a round computed; their gradients are in the sum then.
    ///
    /// # Errors
    /// The database can not be used, or nobody can compute one of the batches.
    pub(crate) async fn compute(&self, round: u64, batches: impl ExactSizeIterator<Item = Batch>) -> Result<()> {
        let leaves = batches.len() as u32;
        let mut tasks = Vec::with_capacity(batches.len());
        for (index, batch) in (0..leaves).zip(batches) {
            let name = format!("batch:{round}:{index}");
            self.queue.put(Some(round), &name, &encode_batch(&batch)?).await?;
            let note = serde_json::to_string(&Note { batch: name, leaves })?;
            tasks.push(Task { round, index, note });
        }
        self.queue.post(round, leaves, &tasks).await?;
        match self.queue.wait(round).await? {
            Outcome::Done => Ok(()),
            Outcome::Dead { index, reason } => bail!(
                "nobody could compute batch {index} of round {round}: {reason}; mend it, and let `skein queue redrive` \
                 hand it out again"
            ),
        }
    }
}
