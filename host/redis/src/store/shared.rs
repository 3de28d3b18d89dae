//! The base of both kinds of Redis stores: cache, errors, metadata, records, pruning.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use skein_store::statistics_of;
use skein_store::{PeerStore, State, StoreError};
use skein_types::{Digest, PeerId, Values};

use super::reader::PeerReader;
use crate::keys::Keys;
use crate::transport::Client;
use crate::transport::Failure;

/// Records kept for other peers. A round without trouble has five, so a reader may fall hundreds of rounds behind.
const RECORDS_MAX: usize = 4096;

/// A peer's database, and a cache of the values of its last known state.
pub(crate) struct RedisBase {
    pub(crate) reader: PeerReader,
    cached: Mutex<Vec<Values>>,
}

/// Deletes the keys of all rounds before the given one, in one step.
const FORGET: &str = "
local keys = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
for _, key in ipairs(keys) do redis.call('UNLINK', key) end
return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])";

impl RedisBase {
    pub(crate) fn new(reader: PeerReader) -> RedisBase {
        RedisBase { reader, cached: Mutex::default() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.reader.client
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.reader.keys
    }

    /// The run id of the server, which differs after every start.
    pub(crate) async fn instance(&self) -> Result<String, StoreError> {
        let info: String = self.control(redis::cmd("INFO").arg("server"), "").await?;
        let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        Ok(id.unwrap_or_default().trim().to_owned())
    }

    /// Converts a failure to a store's error; `key` is the key that the command was about.
    pub(crate) fn failed(&self, failure: Failure, key: &str) -> StoreError {
        let address = self.client().address().to_string();
        match failure {
            Failure::Lost(source) => StoreError::Unreachable { address, source },
            Failure::Certificate(error) => StoreError::Certificate { address, reason: self.client().explain(&error) },
            Failure::Size { expected, actual } => StoreError::Length { expected, actual },
            Failure::Insecure(server) => StoreError::Insecure { address, server },
            // The client has waited for as long as the options allow.
            Failure::Refused { ref code, .. }
                if code != "OOM"
                    && let Some(reason) = failure.passing() =>
            {
                StoreError::Unready { address, reason }
            }
            Failure::Refused { code, message } => match code.as_str() {
                "NOPERM" | "NOAUTH" | "WRONGPASS" => StoreError::Denied { address, reason: message },
                "OOM" => StoreError::OutOfMemory { address },
                "WRONGTYPE" => StoreError::WrongType { address, key: key.to_owned() },
                _ => StoreError::Answer { address, reason: format!("{code} {message}") },
            },
            failure => StoreError::Answer { address, reason: failure.to_string() },
        }
    }

    pub(crate) fn corrupt(&self, key: String) -> StoreError {
        StoreError::Corrupt { address: self.client().address().to_string(), key }
    }

    /// Sends a command over the connection that all commands share.
    pub(crate) async fn control<T: redis::FromRedisValue>(
        &self,
        command: &redis::Cmd,
        key: &str,
    ) -> Result<T, StoreError> {
        self.client().control(command).await.map_err(|failure| self.failed(failure, key))
    }

    /// Returns the values with a hash: from the cache, or fetched from `key` by `fetch` and checked.
    pub(crate) async fn verified(
        &self,
        fetch: impl Future<Output = Result<Option<Vec<f32>>, Failure>>,
        key: &str,
        hash: Digest,
    ) -> Result<Values, StoreError> {
        if let Some(values) = self.cached().iter().find(|values| values.statistics().hash == hash) {
            return Ok(values.clone());
        }
        let values = match fetch.await {
            Ok(Some(values)) => values,
            Ok(None) | Err(Failure::Size { .. }) => return Err(self.corrupt(key.to_owned())),
            Err(failure) => return Err(self.failed(failure, key)),
        };
        let values = Values::from(values);
        if statistics_of(&values).await.hash == hash { Ok(values) } else { Err(self.corrupt(key.to_owned())) }
    }

    /// Replaces the cached values, and recycles the buffers of the old ones.
    pub(crate) fn cache(&self, values: Vec<Values>) {
        let before = std::mem::replace(&mut *self.cached(), values);
        before.into_iter().filter_map(Values::into_buffer).for_each(|buffer| self.client().give_back(buffer));
    }

    fn cached(&self) -> MutexGuard<'_, Vec<Values>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that keys belong to a round, before they are created, so that all of them are pruned, even after a crash.
    pub(crate) async fn track_for_pruning(&self, round: u64, keys: &[&str]) -> Result<(), StoreError> {
        let index = self.keys().rounds();
        let mut command = redis::cmd("ZADD");
        command.arg(&index);
        keys.iter().for_each(|key| {
            command.arg(round).arg(*key);
        });
        self.control(&command, &index).await
    }

    pub(crate) async fn put_round_metadata(&self, round: u64, metadata: Vec<u8>) -> Result<(), StoreError> {
        let key = self.keys().round_metadata(round);
        self.track_for_pruning(round, &[&key]).await?;
        self.control(redis::cmd("SET").arg(&key).arg(metadata), &key).await
    }

    pub(crate) async fn round_metadata(&self, round: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.keys().round_metadata(round);
        self.control(redis::cmd("GET").arg(&key), &key).await
    }

    pub(crate) async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError> {
        let key = self.keys().records();
        let mut command = redis::cmd("XADD");
        command.arg(&key).arg("MAXLEN").arg("~").arg(RECORDS_MAX).arg("*").arg("record").arg(record);
        self.control::<redis::Value>(&command, &key).await.map(drop)
    }

    pub(crate) async fn serve(&self, round: Option<u64>, served: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        let keys: Vec<String> = served.iter().map(|(name, _)| self.keys().served(name)).collect();
        let Some(first) = keys.first() else { return Ok(()) };
        if let Some(round) = round {
            self.track_for_pruning(round, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        }
        let mut command = redis::cmd("MSET");
        for (key, (_, bytes)) in keys.iter().zip(&served) {
            command.arg(key).arg(bytes);
        }
        self.control(&command, first).await
    }

    pub(crate) async fn prune_before(&self, round: u64) -> Result<(), StoreError> {
        let index = self.keys().rounds();
        self.control(redis::cmd("EVAL").arg(FORGET).arg(1).arg(&index).arg(round), &index).await
    }
}

#[async_trait]
impl PeerStore for RedisBase {
    async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, StoreError> {
        let contribution = self.reader.contribution(round, peer).await;
        contribution.map_err(|failure| self.failed(failure, &self.keys().contribution(round, peer)))
    }

    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.reader.records(after, wait).await.map_err(|failure| self.failed(failure, &self.keys().records()))
    }

    async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.reader.served(name).await.map_err(|failure| self.failed(failure, &self.keys().served(name)))
    }

    async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, StoreError> {
        self.reader.state_after(round).await.map_err(|failure| self.failed(failure, &self.keys().state()))
    }
}
