//! Reads the contributions and records that a peer publishes in its database.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skein_redis_command::command::{Get, Version};
use skein_store::{State, StateDigests};
use skein_types::{PeerId, Values};

use super::plain::digests_in;
use crate::keys::Keys;
use crate::transport::Client;
use crate::transport::Failure;
use crate::transport::Reply;

/// Records of one answer, and their total bytes: a thousand times those of honest records.
const RECORDS: &[u8] = b"64";
const RECORDS_BYTES_MAX: usize = 8 << 20;
/// Most bytes that a peer serves under one name.
const SERVED_BYTES_MAX: usize = 1 << 20;
/// Most vectors of optimizer state.
const SLOTS_MAX: usize = 8;
/// The longest wait for records in one command: below the patience with a connection.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Low bits of a record's number, which count the records of one millisecond.
const SEQUENCE_BITS: u32 = 20;

/// Whether a database has Skein's module, and which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModuleVersion {
    /// The version of the module's commands.
    Version(u64),
    /// The database does not have the module.
    Absent,
}

/// A reader of a peer's contributions and records.
pub(crate) struct PeerReader {
    pub(crate) client: Client,
    pub(crate) keys: Keys,
    /// Number of values of the model: longer values are not read.
    pub(crate) values_max: usize,
    /// Whether the database has the module, and which version; `None` until asked, and after a reply that contradicts
    /// it.
    pub(crate) module: Mutex<Option<ModuleVersion>>,
}

impl PeerReader {
    /// Returns the version of the database's module, asking once. With the module, values are its tensors.
    pub(crate) async fn module(&self) -> Result<ModuleVersion, Failure> {
        let known = *self.known();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = match self.client.command(Version, 1 << 10).await {
            Ok(version) => ModuleVersion::Version(version.integer()?),
            Err(failure) if failure.is_unknown_command() => ModuleVersion::Absent,
            Err(failure) => return Err(failure),
        };
        *self.known() = Some(found);
        Ok(found)
    }

    fn known(&self) -> MutexGuard<'_, Option<ModuleVersion>> {
        self.module.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values of the tensor at `key`.
    pub(crate) async fn tensor(&self, key: &str) -> Result<Option<Vec<f32>>, Failure> {
        self.client.command_values(Get { key: key.as_bytes() }, self.values_max).await
    }

    /// The values in the string at `key`.
    pub(crate) async fn string(&self, key: &str) -> Result<Option<Vec<f32>>, Failure> {
        self.client.values(&[b"GET", key.as_bytes()], self.values_max).await
    }

    pub(crate) async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, Failure> {
        let key = self.keys.contribution(round, peer);
        let values = match self.module().await? {
            ModuleVersion::Version(_) => self.tensor(&key).await,
            ModuleVersion::Absent => self.string(&key).await,
        };
        if values.as_ref().is_err_and(|failure| failure.code() == Some("WRONGTYPE") || failure.is_unknown_command()) {
            // Its owner has restarted it with the module, or without: the next try asks again.
            *self.known() = None;
        }
        Ok(values?.map(Values::from))
    }

    /// What the peer serves under a name.
    pub(crate) async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.bytes(&self.keys.served(name)).await
    }

    /// The bytes of the string at `key`.
    pub(crate) async fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        match self.client.call(&[b"GET", key.as_bytes()], SERVED_BYTES_MAX).await? {
            Reply::Nil => Ok(None),
            reply => reply.bytes().map(Some),
        }
    }

    /// The state after `round` with the metadata of that round. Its parts may be of different rounds if it changes
    /// meanwhile, which its hash shows.
    pub(crate) async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, Failure> {
        let Some(metadata) = self.bytes(&self.keys.round_metadata(round)).await? else { return Ok(None) };
        let Some(text) = self.bytes(&self.keys.state()).await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text);
        let keys = match self.module().await? {
            ModuleVersion::Version(_) => {
                let slots = text.parse().unwrap_or(0).min(SLOTS_MAX);
                [self.keys.parameters()].into_iter().chain((0..slots).map(|slot| self.keys.slot(slot))).collect()
            }
            ModuleVersion::Absent => match digests_in(&text).filter(|digests| digests.round == round) {
                Some(StateDigests { parameters, slots, .. }) => {
                    let hashes = std::iter::once(parameters).chain(slots).take(1 + SLOTS_MAX);
                    hashes.map(|hash| self.keys.values(hash)).collect::<Vec<_>>()
                }
                None => return Ok(None),
            },
        };
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let found = match self.module().await? {
                ModuleVersion::Version(_) => self.tensor(&key).await?,
                ModuleVersion::Absent => self.string(&key).await?,
            };
            let Some(found) = found.filter(|found| found.len() == self.values_max) else { return Ok(None) };
            values.push(Values::from(found));
        }
        let parameters = values.remove(0);
        Ok(Some((State::new(round, parameters, values), metadata)))
    }

    pub(crate) async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
        let key = self.keys.records();
        let block = wait.min(WAIT_MAX).as_millis().to_string();
        let id = stream_id(after);
        let mut arguments: Vec<&[u8]> = vec![b"XREAD", b"COUNT", RECORDS];
        if !wait.is_zero() {
            arguments.extend([&b"BLOCK"[..], block.as_bytes()]);
        }
        arguments.extend([&b"STREAMS"[..], key.as_bytes(), id.as_bytes()]);
        let mut records = Vec::new();
        for stream in self.client.call(&arguments, RECORDS_BYTES_MAX).await?.array()? {
            let [_, entries] = stream.elements()?;
            for entry in entries.array()? {
                let [id, fields] = entry.elements()?;
                let number = record_number(id.text()?).ok_or_else(|| Failure::Garbled("the id of a record".into()))?;
                // A record is the only field. An entry without one does not come from a host, and reads as an empty
                // record.
                let record = fields.array()?.into_iter().nth(1).map_or_else(|| Ok(Vec::new()), Reply::bytes)?;
                records.push((number, record));
            }
        }
        Ok(records)
    }
}

/// Ids are times, so a database that restarts empty or outdated still numbers new records after all that were read.
fn stream_id(number: u64) -> String {
    format!("{}-{}", number >> SEQUENCE_BITS, number & ((1 << SEQUENCE_BITS) - 1))
}

fn record_number(id: &str) -> Option<u64> {
    let (time, sequence) = id.split_once('-')?;
    let time: u64 = time.parse().ok()?;
    let sequence: u64 = sequence.parse().ok()?;
    (time >> (64 - SEQUENCE_BITS) == 0 && sequence >> SEQUENCE_BITS == 0).then_some(time << SEQUENCE_BITS | sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_numbers_convert_both_ways_in_order() {
        let numbers = ["0-1", "1763650000000-0", "1763650000000-7", "1763650000001-0"].map(|id| {
            let number = record_number(id).expect(id);
            assert_eq!(stream_id(number), id);
            number
        });
        assert!(numbers.is_sorted());
        for wrong in ["", "1", "x-1", "1-x", "99999999999999999-0", "1-99999999"] {
            assert_eq!(record_number(wrong), None, "{wrong}");
        }
    }
}
