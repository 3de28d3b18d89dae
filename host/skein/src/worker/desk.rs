//! Where a peer lays out its batches, for its own worker and for any other.

use std::time::Duration;

use anyhow::Result;
use skein_runtime::gradient::Batch;
use skein_store::StoreError;
use skein_store::redis::Scope;
use skein_store::redis::queue::{Outcome, Queue, Task};

use super::Note;
use super::package::{Package, encode_batch};

/// How long nothing may happen before the host looks whether its database still is what it was.
const WAIT: Duration = Duration::from_secs(1);

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

    /// Lays out the batches of a round, each as soon as its bytes are there: workers begin with the first while the others
    /// are still written. One that was laid out before is not laid out again.
    ///
    /// # Errors
    /// The database can not be used.
    pub(crate) async fn lay_out(&self, round: u64, batches: impl ExactSizeIterator<Item = Batch>) -> Result<()> {
        let leaves = batches.len() as u32;
        for (index, batch) in (0..leaves).zip(batches) {
            let name = format!("batch:{round}:{index}");
            self.queue.put(Some(round), &name, &encode_batch(&batch)?).await?;
            let note = serde_json::to_string(&Note { batch: name, leaves })?;
            self.queue.post(round, leaves, &[Task { round, index, note }]).await?;
        }
        Ok(())
    }

    /// How the batches of the round ended; none if nothing has happened for a while.
    ///
    /// # Errors
    /// The database can not be used, or has lost the tasks.
    pub(crate) async fn wait(&self, round: u64) -> Result<Option<Outcome>, StoreError> {
        self.queue.wait(round, WAIT).await
    }
}
