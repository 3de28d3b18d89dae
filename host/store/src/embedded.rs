//! The store inside the process: immutable buffers behind one lock, which is never held while computing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use skein_kernels::mean::divide;
use skein_kernels::tree::{Placed, Position, Tree, add};
use skein_types::{PeerId, Statistics, Values};
use tokio::sync::watch;

use crate::blocking::{blocking, statistics_of};
use crate::step::next_state;
use crate::{
    Accumulated, Aggregate, Average, BatchSlot, Contributions, GradientSums, PeerStore, RecordLog, State, StateDigests,
    StateStore, StoreError, Update,
};

/// Records kept for other peers. A round without trouble has five, so a reader may fall hundreds of rounds behind.
const RECORDS_MAX: usize = 4096;

/// A store in this process. The job writes checkpoints for the state that must outlive it.
#[derive(Debug, Clone)]
pub struct Embedded {
    inner: Arc<Mutex<Inner>>,
    /// Number of the last record, to wake readers.
    published: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Option<State>,
    sums: BTreeMap<u64, Sum>,
    contributions: BTreeMap<(u64, PeerId), Values>,
    metadata: BTreeMap<u64, Vec<u8>>,
    records: VecDeque<(u64, Vec<u8>)>,
    /// Bytes by their name, and the round with which they are pruned.
    served: BTreeMap<String, (Option<u64>, Vec<u8>)>,
}

/// The batches of a round that have arrived.
#[derive(Debug)]
struct Sum {
    tree: Tree,
    /// Samples and mean loss of each batch, by its index.
    batches: Vec<(u32, f32)>,
    average: Option<Average>,
}

impl Default for Embedded {
    fn default() -> Embedded {
        Embedded { inner: Arc::default(), published: watch::Sender::new(0) }
    }
}

impl Embedded {
    /// The data is consistent at every moment, so a panic elsewhere does not corrupt it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the command `name` on a thread where blocking is allowed.
    #[tracing::instrument(level = "debug", name = "command", skip(self, work))]
    async fn apart<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(Embedded) -> T + Send + 'static,
    ) -> T {
        let store = self.clone();
        let done = blocking(move || work(store)).await;
        tracing::debug!("done");
        done
    }

    fn add(&self, round: u64, slot: BatchSlot, mut gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        {
            let mut inner = self.lock();
            let state = inner.state.as_ref().ok_or(StoreError::NoState)?;
            let expected = state.parameters().len();
            if gradient.len() != expected {
                return Err(StoreError::Length { expected, actual: gradient.len() });
            }
            if round <= state.round() {
                return Ok(Accumulated::Duplicate);
            }
            let sum = inner.sums.entry(round).or_insert_with(|| Sum::new(slot.count));
            if slot.count != sum.tree.leaves() || slot.index >= slot.count {
                return Err(StoreError::Batch { round, index: slot.index, count: slot.count });
            }
            if !sum.tree.claim(slot.index) {
                return Ok(Accumulated::Duplicate);
            }
            sum.batches[slot.index as usize] = (slot.samples, slot.loss);
        }
        let weight = slot.samples as f32;
        gradient.iter_mut().for_each(|value| *value *= weight);
        let mut at = Position::leaf(slot.index);
        let mut values = gradient;
        while let Some((parent, mut left, right)) = self.place(round, at, values) {
            add(&mut left, &right);
            (at, values) = (parent, left);
        }
        Ok(Accumulated::Counted)
    }

    /// Places a partial sum; returns the pair to join if its sibling was present.
    fn place(&self, round: u64, at: Position, values: Vec<f32>) -> Option<(Position, Vec<f32>, Vec<f32>)> {
        // A round that was pruned in the meantime does not need the values.
        match self.lock().sums.get_mut(&round)?.tree.place(at, values) {
            Placed::Join { parent, left, right } => Some((parent, left, right)),
            Placed::Waits | Placed::Root => None,
        }
    }

    fn close(&self, round: u64, peer: PeerId) -> Result<Average, StoreError> {
        let (mut values, batches) = {
            let mut inner = self.lock();
            let sum = inner.sums.get_mut(&round).ok_or(StoreError::Incomplete { round })?;
            if let Some(average) = sum.average {
                return Ok(average);
            }
            assert_eq!(sum.batches.len(), sum.tree.leaves() as usize, "one entry for each batch");
            (sum.tree.take().ok_or(StoreError::Incomplete { round })?, sum.batches.clone())
        };
        let samples: u64 = batches.iter().map(|(samples, _)| u64::from(*samples)).sum();
        let loss: f64 = batches.iter().map(|(samples, loss)| f64::from(*samples) * f64::from(*loss)).sum();
        divide(&mut values, samples as f32);
        let values = Values::from(values);
        let Statistics { hash, finite, .. } = values.statistics();
        let average = Average { hash, samples, loss: loss / samples as f64, finite };
        let mut inner = self.lock();
        if let Some(sum) = inner.sums.get_mut(&round) {
            sum.average = Some(average);
        }
        inner.contributions.insert((round, peer), values);
        Ok(average)
    }

    fn update(&self, update: &Update) -> Result<State, StoreError> {
        let before = self.lock().state.clone().ok_or(StoreError::NoState)?;
        if before.round() == update.round {
            return Ok(before);
        }
        let out_of_order = |state: u64| StoreError::OutOfOrder { round: update.round, state };
        if before.round() + 1 != update.round {
            return Err(out_of_order(before.round()));
        }
        let rows = match &update.aggregate {
            Aggregate::Values(values) => vec![values.clone()],
            Aggregate::Contributions { peers, .. } => {
                let inner = self.lock();
                let row = |peer: &PeerId| inner.contributions.get(&(update.round, *peer)).cloned();
                let row = |peer| row(peer).ok_or(StoreError::Missing { round: update.round, peer: *peer });
                peers.iter().map(row).collect::<Result<_, _>>()?
            }
        };
        let after = next_state(&before, update, &rows)?;
        assert_eq!(after.round(), update.round, "the new state is of the applied round");
        let mut inner = self.lock();
        match inner.state.as_ref().map(State::round) {
            Some(round) if round == before.round() => {
                inner.state = Some(after.clone());
                Ok(after)
            }
            // Another task applied the same round in the meantime, to the same bits.
            Some(round) if round == update.round => inner.state.clone().ok_or(StoreError::NoState),
            round => Err(out_of_order(round.unwrap_or_default())),
        }
    }
}

impl Sum {
    fn new(leaves: u32) -> Sum {
        Sum { tree: Tree::new(leaves), batches: vec![(0, 0.0); leaves as usize], average: None }
    }
}

#[async_trait]
impl PeerStore for Embedded {
    async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, StoreError> {
        Ok(self.lock().contributions.get(&(round, peer)).cloned())
    }

    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        if *self.published.borrow() <= after {
            let mut published = self.published.subscribe();
            // A timeout is an answer too: there is no record.
            let _ = tokio::time::timeout(wait, published.wait_for(|number| *number > after)).await;
        }
        let inner = self.lock();
        let first = inner.records.partition_point(|(number, _)| *number <= after);
        Ok(inner.records.range(first..).cloned().collect())
    }

    async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().served.get(name).map(|(_, bytes)| bytes.clone()))
    }

    async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, StoreError> {
        let inner = self.lock();
        let state = inner.state.as_ref().filter(|state| state.round() == round);
        Ok(state.cloned().zip(inner.metadata.get(&round).cloned()))
    }
}

#[async_trait]
impl StateStore for Embedded {
    fn aggregates(&self) -> bool {
        // Contributions are in this process either way, so the job's own function may as well run.
        false
    }

    async fn instance(&self) -> Result<String, StoreError> {
        Ok(String::new())
    }

    async fn digests(&self) -> Result<StateDigests, StoreError> {
        let state = self.state().await?;
        Ok(self.apart("head", move |_| state.digests()).await)
    }

    async fn parameters(&self) -> Result<(u64, Values), StoreError> {
        let state = self.state().await?;
        Ok((state.round(), state.parameters().clone()))
    }

    async fn state(&self) -> Result<State, StoreError> {
        self.lock().state.clone().ok_or(StoreError::NoState)
    }

    async fn set_state(&self, state: State) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.state = Some(state);
        inner.sums.clear();
        inner.metadata.clear();
        inner.contributions.clear();
        Ok(())
    }

    async fn apply(&self, update: Update) -> Result<StateDigests, StoreError> {
        self.apart("apply", move |store| Ok(store.update(&update)?.digests())).await
    }

    async fn put_round_metadata(&self, round: u64, metadata: Vec<u8>) -> Result<(), StoreError> {
        self.lock().metadata.insert(round, metadata);
        Ok(())
    }

    async fn round_metadata(&self, round: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().metadata.get(&round).cloned())
    }

    async fn prune_before(&self, round: u64) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.sums = inner.sums.split_off(&round);
        inner.metadata = inner.metadata.split_off(&round);
        assert!(inner.sums.keys().all(|kept| *kept >= round), "only sums of this round or later are kept");
        inner.contributions = inner.contributions.split_off(&(round, PeerId([0; 32])));
        inner.served.retain(|_, (of, _)| of.is_none_or(|of| of >= round));
        Ok(())
    }
}

#[async_trait]
impl GradientSums for Embedded {
    async fn accumulate(&self, round: u64, slot: BatchSlot, gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        self.apart("accumulate", move |store| store.add(round, slot, gradient)).await
    }

    async fn average(&self, round: u64, peer: PeerId) -> Result<Average, StoreError> {
        self.apart("average", move |store| store.close(round, peer)).await
    }
}

#[async_trait]
impl Contributions for Embedded {
    async fn put_contribution(&self, round: u64, peer: PeerId, values: Values) -> Result<Statistics, StoreError> {
        let statistics = statistics_of(&values).await;
        self.lock().contributions.insert((round, peer), values);
        Ok(statistics)
    }
}

#[async_trait]
impl RecordLog for Embedded {
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let number = *self.published.borrow() + 1;
        assert!(inner.records.back().is_none_or(|(last, _)| *last < number), "numbers of records rise");
        if inner.records.len() == RECORDS_MAX {
            inner.records.pop_front();
        }
        inner.records.push_back((number, record));
        self.published.send_replace(number);
        Ok(())
    }

    async fn serve(&self, round: Option<u64>, served: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        self.lock().served.extend(served.into_iter().map(|(name, bytes)| (name, (round, bytes))));
        Ok(())
    }
}
