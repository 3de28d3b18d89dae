//! A Redis without the module: values are fetched, computed on here, and stored again.
//!
//! Values are strings, and those of a state are stored under their hashes. They are written first; one small key then
//! names those that are the state, so that it appears as a whole or not at all.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesOrdered;
use skein_kernels::mean::divide;
use skein_kernels::tree::{Placed, Position, Tree, add};
use skein_store::next_state;
use skein_store::{
    Accumulated, Aggregate, Average, BatchSlot, Contributions, GradientSums, PeerStore, RecordLog, State, StateDigests,
    StateStore, StoreError, Update,
};
use skein_store::{blocking, statistics_of};
use skein_types::{Digest, PeerId, Statistics, Values};

use super::shared::RedisBase;

/// KEYS state, index of keys to prune, values; ARGV the state before, the new state. Replaces the state if it is still
/// the one before, and keeps its values from being pruned; returns the current state.
const COMMIT: &str = "
local state = redis.call('GET', KEYS[1])
if (state or '') ~= ARGV[1] and state ~= ARGV[2] then return state end
redis.call('SET', KEYS[1], ARGV[2])
for i = 3, #KEYS do redis.call('ZREM', KEYS[2], KEYS[i]) end
return ARGV[2]";

/// Values after those of a gradient: the samples and the loss of its batch.
const TRAILER: usize = 2;
/// Gradients requested at the same time: enough to hide the round trip, few enough to bound the memory.
const AHEAD: usize = 4;

/// The store of a database without the module.
pub(crate) struct Plain(RedisBase);

impl Plain {
    pub(crate) fn new(shared: RedisBase) -> Plain {
        Plain(shared)
    }

    /// Returns the values with a hash, under which they are stored.
    async fn verified(&self, hash: Digest) -> Result<Values, StoreError> {
        let key = self.0.keys().values(hash);
        self.0.verified(self.0.reader.string(&key), &key, hash).await
    }

    async fn text(&self) -> Result<String, StoreError> {
        let key = self.0.keys().state();
        let text: Option<String> = self.0.control(redis::cmd("GET").arg(&key), &key).await?;
        text.ok_or(StoreError::NoState)
    }

    /// Parses the text of [`text_of`].
    fn digests_of(&self, text: &str) -> Result<StateDigests, StoreError> {
        digests_in(text).ok_or_else(|| self.0.corrupt(self.0.keys().state()))
    }

    async fn put(&self, key: &str, values: &[f32]) -> Result<(), StoreError> {
        let arguments = [b"SET", key.as_bytes(), bytemuck::cast_slice(values)];
        self.0.client().call(&arguments, 64).await.map(drop).map_err(|failure| self.0.failed(failure, key))
    }

    /// A gradient followed by its trailer.
    async fn get_gradient(&self, key: &str) -> Result<Option<Vec<f32>>, StoreError> {
        let values = self.0.client().values(&[b"GET", key.as_bytes()], self.0.reader.values_max + TRAILER).await;
        values.map_err(|failure| self.0.failed(failure, key))
    }

    fn value_keys(&self, digests: &StateDigests) -> Vec<String> {
        std::iter::once(&digests.parameters).chain(&digests.slots).map(|hash| self.0.keys().values(*hash)).collect()
    }

    /// Stores a state beside the current one, then makes it current if the current one is still `before`. Returns the
    /// current one.
    async fn commit(&self, before: &str, state: &State) -> Result<StateDigests, StoreError> {
        let digests = state.digests();
        let all: Vec<Values> = std::iter::once(state.parameters()).chain(state.slots()).cloned().collect();
        let keys = self.value_keys(&digests);
        // Until it is current, it is pruned with its round.
        self.0.track_for_pruning(digests.round, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        for (key, values) in keys.iter().zip(&all) {
            self.put(key, values).await?;
        }
        let key = self.0.keys().state();
        let index = self.0.keys().rounds();
        let mut command = redis::cmd("EVAL");
        command.arg(COMMIT).arg(2 + keys.len()).arg(&key).arg(&index).arg(&keys).arg(before).arg(text_of(&digests));
        let counts: Option<String> = self.0.control(&command, &key).await?;
        let counts = self.digests_of(&counts.ok_or(StoreError::NoState)?)?;
        if counts == digests {
            self.0.cache(all);
            if let Ok(before) = self.digests_of(before) {
                let mut old = self.value_keys(&before);
                old.retain(|key| !keys.contains(key));
                if !old.is_empty() {
                    self.0.control::<u64>(redis::cmd("UNLINK").arg(old), &key).await?;
                }
            }
        }
        Ok(counts)
    }

    /// Returns the gradient of a batch, with its index and its key.
    async fn gradient_of(&self, round: u64, index: u32) -> Result<(u32, String, Vec<f32>), StoreError> {
        let key = self.0.keys().gradient(round, index);
        let values = self.get_gradient(&key).await?.ok_or(StoreError::Incomplete { round })?;
        Ok((index, key, values))
    }

    async fn contribution_for(&self, round: u64, peer: PeerId) -> Result<Values, StoreError> {
        let values = self.0.contribution(round, peer).await?;
        values.ok_or(StoreError::Missing { round, peer })
    }
}

/// The digests in the text of [`text_of`].
pub(super) fn digests_in(text: &str) -> Option<StateDigests> {
    let mut words = text.split(' ');
    let round = words.next()?.parse().ok()?;
    let hashes: Option<Vec<Digest>> = words.map(|word| word.parse().ok()).collect();
    let [parameters, slots @ ..] = &hashes?[..] else { return None };
    Some(StateDigests { round, parameters: *parameters, slots: slots.to_vec() })
}

fn text_of(digests: &StateDigests) -> String {
    let hashes = std::iter::once(&digests.parameters).chain(&digests.slots);
    hashes.fold(digests.round.to_string(), |text, hash| format!("{text} {hash}"))
}

#[async_trait]
impl PeerStore for Plain {
    async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, StoreError> {
        self.0.contribution(round, peer).await
    }

    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.0.records(after, wait).await
    }

    async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.served(name).await
    }

    async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, StoreError> {
        self.0.state_after(round).await
    }
}

#[async_trait]
impl StateStore for Plain {
    fn aggregates(&self) -> bool {
        false
    }

    async fn instance(&self) -> Result<String, StoreError> {
        self.0.instance().await
    }

    async fn digests(&self) -> Result<StateDigests, StoreError> {
        self.digests_of(&self.text().await?)
    }

    async fn parameters(&self) -> Result<(u64, Values), StoreError> {
        let digests = self.digests().await?;
        Ok((digests.round, self.verified(digests.parameters).await?))
    }

    async fn state(&self) -> Result<State, StoreError> {
        let digests = self.digests().await?;
        let parameters = self.verified(digests.parameters).await?;
        let mut slots = Vec::with_capacity(digests.slots.len());
        for hash in &digests.slots {
            slots.push(self.verified(*hash).await?);
        }
        Ok(State::new(digests.round, parameters, slots))
    }

    async fn set_state(&self, state: State) -> Result<(), StoreError> {
        self.0.prune_before(u64::MAX).await?;
        let before = match self.text().await {
            Ok(text) => text,
            Err(StoreError::NoState) => String::new(),
            Err(error) => return Err(error),
        };
        let (state, digests) = blocking(move || (state.clone(), state.digests())).await;
        match self.commit(&before, &state).await? {
            counts if counts == digests => Ok(()),
            _ => Err(self.0.corrupt(self.0.keys().state())),
        }
    }

    async fn apply(&self, update: Update) -> Result<StateDigests, StoreError> {
        let text = self.text().await?;
        let digests = self.digests_of(&text)?;
        let round = update.round;
        if digests.round == round {
            return Ok(digests);
        }
        if digests.round + 1 != round {
            return Err(StoreError::OutOfOrder { round, state: digests.round });
        }
        let mut rows = Vec::new();
        match &update.aggregate {
            Aggregate::Values(values) => rows.push(values.clone()),
            Aggregate::Contributions { peers, .. } => {
                let contributions = peers.iter().map(|peer| self.contribution_for(round, *peer));
                rows = try_join_all(contributions).await?;
            }
        }
        let before = self.state().await?;
        if before.round() == round {
            // Another process has applied the round since the digests were read.
            return Ok(before.digests());
        }
        let after = blocking(move || {
            let after = next_state(&before, &update, &rows)?;
            after.digests();
            Ok::<_, StoreError>(after)
        });
        let counts = self.commit(&text, &after.await?).await?;
        // Another process may have applied the same round in the meantime, to the same bits.
        if counts.round == round { Ok(counts) } else { Err(StoreError::OutOfOrder { round, state: counts.round }) }
    }

    async fn put_round_metadata(&self, round: u64, metadata: Vec<u8>) -> Result<(), StoreError> {
        self.0.put_round_metadata(round, metadata).await
    }

    async fn round_metadata(&self, round: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.round_metadata(round).await
    }

    async fn prune_before(&self, round: u64) -> Result<(), StoreError> {
        self.0.prune_before(round).await
    }
}

#[async_trait]
impl GradientSums for Plain {
    async fn accumulate(&self, round: u64, slot: BatchSlot, mut gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        let expected = self.0.reader.values_max;
        if gradient.len() != expected {
            return Err(StoreError::Length { expected, actual: gradient.len() });
        }
        if round <= self.digests().await?.round {
            return Ok(Accumulated::Duplicate);
        }
        let sum = self.0.keys().sum(round);
        let key = self.0.keys().gradient(round, slot.index);
        self.0.track_for_pruning(round, &[&sum, &key]).await?;
        let claim = redis::cmd("SET").arg(&sum).arg(slot.count).arg("NX").arg("GET").take();
        let claimed: Option<u32> = self.0.control(&claim, &sum).await?;
        if claimed.is_some_and(|count| count != slot.count) || slot.index >= slot.count {
            return Err(StoreError::Batch { round, index: slot.index, count: slot.count });
        }
        gradient.extend([f32::from_bits(slot.samples), slot.loss]);
        let arguments: [&[u8]; 4] = [b"SET", key.as_bytes(), bytemuck::cast_slice(&gradient), b"NX"];
        let reply = self.0.client().call(&arguments, 64).await.map_err(|failure| self.0.failed(failure, &key))?;
        Ok(match reply {
            crate::transport::Reply::Nil => Accumulated::Duplicate,
            _ => Accumulated::Counted,
        })
    }

    async fn average(&self, round: u64, peer: PeerId) -> Result<Average, StoreError> {
        let sum = self.0.keys().sum(round);
        let count: Option<u32> = self.0.control(redis::cmd("GET").arg(&sum), &sum).await?;
        let count = count.ok_or(StoreError::Incomplete { round })?;
        let mut tree = Tree::new(count);
        let mut samples = 0;
        let mut loss = 0.0;
        let mut left = 0..count;
        // Several are requested at a time, so that their round trips overlap.
        let mut coming: FuturesOrdered<_> =
            left.by_ref().take(AHEAD).map(|index| self.gradient_of(round, index)).collect();
        while let Some(gradient) = coming.next().await {
            let (index, key, mut values) = gradient?;
            left.next().into_iter().for_each(|index| coming.push_back(self.gradient_of(round, index)));
            if values.len() != self.0.reader.values_max + TRAILER {
                return Err(self.0.corrupt(key));
            }
            let batch = values[values.len() - 2].to_bits();
            let mean = values[values.len() - 1];
            values.truncate(self.0.reader.values_max);
            samples += u64::from(batch);
            loss += f64::from(batch) * f64::from(mean);
            let free;
            (tree, free) = blocking(move || {
                let free = grow(&mut tree, index, batch as f32, values);
                (tree, free)
            })
            .await;
            free.into_iter().for_each(|buffer| self.0.client().give_back(buffer));
        }
        let mut values = tree.take().ok_or(StoreError::Incomplete { round })?;
        let values = blocking(move || {
            divide(&mut values, samples as f32);
            values
        })
        .await;
        let Statistics { hash, finite, .. } = self.put_contribution(round, peer, values.into()).await?;
        Ok(Average { hash, samples, loss: loss / samples as f64, finite })
    }
}

#[async_trait]
impl Contributions for Plain {
    async fn put_contribution(&self, round: u64, peer: PeerId, values: Values) -> Result<Statistics, StoreError> {
        let key = self.0.keys().contribution(round, peer);
        self.0.track_for_pruning(round, &[&key]).await?;
        self.put(&key, &values).await?;
        Ok(statistics_of(&values).await)
    }
}

#[async_trait]
impl RecordLog for Plain {
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError> {
        self.0.publish(record).await
    }

    async fn serve(&self, round: Option<u64>, served: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        self.0.serve(round, served).await
    }
}

/// Places one gradient in the tree, and joins all pairs of siblings; returns the buffers that became free.
fn grow(tree: &mut Tree, index: u32, weight: f32, mut values: Vec<f32>) -> Vec<Vec<f32>> {
    values.iter_mut().for_each(|value| *value *= weight);
    let mut at = Position::leaf(index);
    let mut free = Vec::new();
    while let Placed::Join { parent, mut left, right } = tree.place(at, values) {
        add(&mut left, &right);
        (at, values) = (parent, left);
        free.push(right);
    }
    free
}
