//! A Redis with the module: averages, rules and optimizer steps run where the values are.
//!
//! A state is one tensor for the parameters and one for each vector of optimizer state; their version is the round.
//! They are updated together, in one step of the database.

use std::time::Duration;

use async_trait::async_trait;
use skein_kernels::mean::MEAN;
use skein_kernels::rule::Rule;
use skein_redis_command::Command;
use skein_redis_command::command::{Accumulate, Apply, Average as TakeAverage, Set, Stat};
use skein_store::{
    Accumulated, Aggregate, Average, BatchSlot, Contributions, GradientSums, PeerStore, RecordLog, State, StateDigests,
    StateStore, StoreError, Update, statistics_of,
};
use skein_types::{Digest, PeerId, Statistics, Values};

use super::shared::RedisBase;
use crate::transport::{Failure, Reply};

/// Largest reply of commands that return no values.
const REPLY_BYTES_MAX: usize = 1 << 16;

/// The store of a database with the module.
pub(crate) struct Module(RedisBase);

impl Module {
    pub(crate) fn new(shared: RedisBase) -> Module {
        Module(shared)
    }

    async fn call<'a>(&self, command: impl Command<&'a [u8]>) -> Result<Reply, Failure> {
        self.0.client().command(command, REPLY_BYTES_MAX).await
    }

    /// Stores a tensor, whose version is its round.
    async fn set(&self, key: &str, version: u64, values: &[f32]) -> Result<(), StoreError> {
        let set = Set { key: key.as_bytes(), version, blob: bytemuck::cast_slice(values), shape: Vec::new() };
        self.call(set).await.map(drop).map_err(|failure| self.0.failed(failure, key))
    }

    /// Returns version and statistics of tensors; `None` for a key that does not exist.
    async fn look(&self, keys: &[String]) -> Result<Vec<Option<(u64, Statistics)>>, StoreError> {
        let replies = self.call(Stat { keys: bytes(keys) }).await.and_then(Reply::array);
        let looks = replies.and_then(|replies| replies.into_iter().map(statistics).collect());
        looks.map_err(|failure| self.0.failed(failure, &keys[0]))
    }

    async fn look_at(&self, key: String) -> Result<Statistics, StoreError> {
        let looks = self.look(std::slice::from_ref(&key)).await?;
        let look = looks.into_iter().next().flatten();
        look.map(|(_, statistics)| statistics).ok_or_else(|| self.0.corrupt(key))
    }

    /// Keys of the parameters and of every slot.
    async fn state_keys(&self) -> Result<Vec<String>, StoreError> {
        let key = self.0.keys().state();
        let slots: Option<usize> = self.0.control(redis::cmd("GET").arg(&key), &key).await?;
        let slots = (0..slots.ok_or(StoreError::NoState)?).map(|slot| self.0.keys().slot(slot));
        Ok(std::iter::once(self.0.keys().parameters()).chain(slots).collect())
    }

    async fn digests_of(&self, keys: &[String]) -> Result<StateDigests, StoreError> {
        let looks = self.look(keys).await?;
        let Some(Some((round, parameters))) = looks.first() else { return Err(StoreError::NoState) };
        if parameters.len != self.0.reader.values_max {
            return Err(self.0.corrupt(keys[0].clone()));
        }
        let slots = looks[1..].iter().zip(&keys[1..]).map(|(look, key)| match look {
            Some((version, statistics)) if version == round => Ok(statistics.hash),
            _ => Err(self.0.corrupt(key.clone())),
        });
        Ok(StateDigests { round: *round, parameters: parameters.hash, slots: slots.collect::<Result<_, _>>()? })
    }
}

fn bytes(keys: &[String]) -> Vec<&[u8]> {
    keys.iter().map(String::as_bytes).collect()
}

/// Parses one element of the reply to `SKEIN.STAT`: version, length, hash, and whether all values are finite.
fn statistics(reply: Reply) -> Result<Option<(u64, Statistics)>, Failure> {
    if reply == Reply::Nil {
        return Ok(None);
    }
    let [version, len, hash, finite] = reply.elements()?;
    let hash = hash.bytes()?.try_into().map_err(|_| Failure::Garbled("a hash is not 32 bytes long".into()))?;
    let statistics = Statistics { len: len.integer()? as usize, hash: Digest(hash), finite: finite.integer()? == 1 };
    Ok(Some((version.integer()?, statistics)))
}

#[async_trait]
impl PeerStore for Module {
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
impl StateStore for Module {
    fn aggregates(&self) -> bool {
        true
    }

    async fn instance(&self) -> Result<String, StoreError> {
        self.0.instance().await
    }

    async fn digests(&self) -> Result<StateDigests, StoreError> {
        self.digests_of(&self.state_keys().await?).await
    }

    async fn parameters(&self) -> Result<(u64, Values), StoreError> {
        let key = self.0.keys().parameters();
        let digests = self.digests_of(std::slice::from_ref(&key)).await?;
        let values = self.0.verified(self.0.reader.tensor(&key), &key, digests.parameters).await?;
        self.0.cache(vec![values.clone()]);
        Ok((digests.round, values))
    }

    async fn state(&self) -> Result<State, StoreError> {
        let keys = self.state_keys().await?;
        let digests = self.digests_of(&keys).await?;
        let (_, parameters) = self.parameters().await?;
        let mut slots = Vec::with_capacity(digests.slots.len());
        for (key, hash) in keys.into_iter().skip(1).zip(&digests.slots) {
            slots.push(self.0.verified(self.0.reader.tensor(&key), &key, *hash).await?);
        }
        if parameters.statistics().hash != digests.parameters {
            return Err(self.0.corrupt(self.0.keys().parameters()));
        }
        Ok(State::new(digests.round, parameters, slots))
    }

    async fn set_state(&self, state: State) -> Result<(), StoreError> {
        let parameters = self.0.keys().parameters();
        let slots = self.0.keys().state();
        // Without parameters there is no state, so a half replaced state never counts as a whole one.
        self.0.control::<u64>(redis::cmd("UNLINK").arg(&parameters), &parameters).await?;
        self.0.prune_before(u64::MAX).await?;
        self.0.control::<()>(redis::cmd("SET").arg(&slots).arg(state.slots().len()), &slots).await?;
        for (slot, values) in state.slots().iter().enumerate() {
            self.set(&self.0.keys().slot(slot), state.round(), values).await?;
        }
        self.set(&parameters, state.round(), state.parameters()).await
    }

    async fn apply(&self, update: Update) -> Result<StateDigests, StoreError> {
        let Update { round, aggregate, change } = update;
        let keys = self.state_keys().await?;
        let (rule, rows, peers) = match aggregate {
            Aggregate::Values(values) => {
                let key = self.0.keys().aggregate(round);
                self.0.track_for_pruning(round, &[&key]).await?;
                self.set(&key, round, &values).await?;
                (Rule::new(&MEAN, 0), vec![key], Vec::new())
            }
            Aggregate::Contributions { rule, peers } => {
                let rows = peers.iter().map(|peer| self.0.keys().contribution(round, *peer)).collect();
                (rule, rows, peers)
            }
        };
        let apply = Apply { state: bytes(&keys), rows: bytes(&rows), round, rule, change };
        self.call(apply).await.map_err(|failure| match (failure.code(), number(&failure, 0)) {
            (Some("MISSING"), Some(row)) if row < peers.len() => StoreError::Missing { round, peer: peers[row] },
            _ => self.explain(round, failure, &keys[0]),
        })?;
        self.digests_of(&keys).await
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
impl GradientSums for Module {
    async fn accumulate(&self, round: u64, slot: BatchSlot, gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        let sum = self.0.keys().sum(round);
        let parameters = self.0.keys().parameters();
        self.0.track_for_pruning(round, &[&sum]).await?;
        let BatchSlot { index, count, samples, loss } = slot;
        let accumulate = Accumulate {
            sum: sum.as_bytes(),
            parameters: parameters.as_bytes(),
            round,
            index,
            count,
            samples,
            loss,
            blob: bytemuck::cast_slice(&gradient),
        };
        let reply = self.call(accumulate).await;
        let counted = reply.and_then(|reply| reply.integer()).map_err(|failure| match failure.code() {
            Some("LEAF") => StoreError::Batch { round, index, count },
            _ => self.explain(round, failure, &sum),
        })?;
        Ok(if counted == 1 { Accumulated::Counted } else { Accumulated::Duplicate })
    }

    async fn average(&self, round: u64, peer: PeerId) -> Result<Average, StoreError> {
        let sum = self.0.keys().sum(round);
        let to = self.0.keys().contribution(round, peer);
        self.0.track_for_pruning(round, &[&to]).await?;
        let failed = |failure| self.explain(round, failure, &sum);
        let average = TakeAverage { destination: to.as_bytes(), sum: sum.as_bytes(), round };
        let reply = self.call(average).await.map_err(failed)?;
        let [samples, loss] = reply.elements().map_err(failed)?;
        let samples = samples.integer().map_err(failed)?;
        let loss = loss.parse().map_err(failed)?;
        let Statistics { hash, finite, .. } = self.look_at(to).await?;
        Ok(Average { hash, samples, loss, finite })
    }
}

#[async_trait]
impl Contributions for Module {
    async fn put_contribution(&self, round: u64, peer: PeerId, values: Values) -> Result<Statistics, StoreError> {
        let key = self.0.keys().contribution(round, peer);
        self.0.track_for_pruning(round, &[&key]).await?;
        // Another peer's values were hashed before they came here; the database does not hash them once more.
        self.set(&key, round, &values).await?;
        Ok(statistics_of(&values).await)
    }
}

#[async_trait]
impl RecordLog for Module {
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError> {
        self.0.publish(record).await
    }

    async fn serve(&self, round: Option<u64>, served: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        self.0.serve(round, served).await
    }
}

impl Module {
    /// Converts an error of the module to a store's error.
    fn explain(&self, round: u64, failure: Failure, key: &str) -> StoreError {
        use skein_kernels::Error;
        let numbers = (number(&failure, 0), number(&failure, 1));
        let rule = |source| StoreError::Rule { round, source };
        match (failure.code().unwrap_or_default(), numbers) {
            ("NOSTATE", _) => StoreError::NoState,
            ("INCOMPLETE", _) => StoreError::Incomplete { round },
            ("LENGTH", (Some(expected), Some(actual))) => StoreError::Length { expected, actual },
            ("ORDER", (Some(state), _)) => StoreError::OutOfOrder { round, state: state as u64 },
            ("FEW", (Some(needed), Some(present))) => rule(Error::TooFew { needed, present }),
            ("NONFINITE", (Some(row), _)) => rule(Error::NonFinite { row }),
            ("WEIGHTS", _) => rule(Error::Weights),
            _ => self.0.failed(failure, key),
        }
    }
}

/// Number `index` after the code of an error.
fn number(failure: &Failure, index: usize) -> Option<usize> {
    match failure {
        Failure::Refused { message, .. } => message.split(' ').nth(index)?.parse().ok(),
        _ => None,
    }
}
