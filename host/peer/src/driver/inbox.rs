//! Reads the records and beats of the other peers as they appear.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use skein_protocol::node::Event;
use skein_protocol::pace::BEAT;
use skein_protocol::record::{Kind, Position, RECORD_BYTES_MAX, RecordError, Unverified};
use skein_store::RecordLog;
use skein_types::PeerId;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

use super::exchange::Exchange;
use super::fetch::{Fetcher, Neighbour};
use super::served;
use super::verified::Verified;

/// Most messages that wait, each with the records of one read. Readers of stores wait when it is full.
const MESSAGES_MAX: usize = 16;
/// Longest single wait for a record in a store.
const READ_WAIT: Duration = Duration::from_secs(5);
/// Pause before a store that failed is read again: it belongs to another peer, and cannot be repaired from here.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Records of one store that are verified in one round without a pause: many more than an honest peer publishes or relays.
const VERIFIED_MAX: usize = 4096;
/// Pause after a read that brought nothing of use.
const USELESS: Duration = Duration::from_millis(5);
/// Pause after a record beyond that, and after one with a false signature, which no honest peer publishes.
const SUSPICIOUS: Duration = Duration::from_millis(50);

/// The peer's own log of records, for its beats, and whether it does not get on.
pub(super) type Beats = (Arc<dyn RecordLog>, Arc<AtomicBool>);

/// What the other peers say.
pub(super) struct Inbox {
    source: Source,
    /// Tasks that read the stores; they end with the peer.
    tasks: JoinSet<()>,
    readers: BTreeMap<PeerId, AbortHandle>,
}

/// Where the other peers are heard.
enum Source {
    Exchange(mpsc::UnboundedReceiver<Event>),
    Stores(Stores),
}

struct Stores {
    inbox: mpsc::Receiver<Vec<Event>>,
    sender: mpsc::Sender<Vec<Event>>,
    horizon: watch::Receiver<Position>,
}

/// What a reader of one store needs.
struct Reader {
    me: PeerId,
    run: skein_types::Digest,
    neighbour: Arc<Neighbour>,
    verified: Arc<Verified>,
    members: Vec<PeerId>,
    /// Records of rounds before this one are of no use any more.
    horizon: watch::Receiver<Position>,
    sender: mpsc::Sender<Vec<Event>>,
}

impl Inbox {
    /// Begins to read all stores, and to beat if peers of other processes look for it.
    pub(super) fn read(fetcher: &Fetcher, horizon: watch::Receiver<Position>, beats: Option<Beats>) -> Inbox {
        let (sender, inbox) = mpsc::channel(MESSAGES_MAX);
        let mut tasks = JoinSet::new();
        if let Some((own, is_stuck)) = beats {
            tasks.spawn(beat(own, is_stuck).in_current_span());
            for neighbour in fetcher.others.values() {
                tasks.spawn(hear(neighbour.clone(), sender.clone()).in_current_span());
            }
        }
        let source = Source::Stores(Stores { inbox, sender, horizon });
        let mut inbox = Inbox { source, tasks, readers: BTreeMap::new() };
        fetcher.others.keys().for_each(|owner| inbox.reread(fetcher, *owner));
        inbox
    }

    /// Hears the peers of this process.
    pub(super) fn join(exchange: &Exchange, me: PeerId) -> Inbox {
        let source = Source::Exchange(exchange.join(me));
        Inbox { source, tasks: JoinSet::new(), readers: BTreeMap::new() }
    }

    /// Reads all records in the store of a peer again.
    pub(super) fn reread(&mut self, fetcher: &Fetcher, owner: PeerId) {
        let Source::Stores(stores) = &self.source else { return };
        let Some(neighbour) = fetcher.others.get(&owner) else { return };
        let reader = Reader {
            me: fetcher.me(),
            run: fetcher.run,
            neighbour: neighbour.clone(),
            verified: fetcher.verified.clone(),
            members: fetcher.others.keys().copied().collect(),
            horizon: stores.horizon.clone(),
            sender: stores.sender.clone(),
        };
        let task = self.tasks.spawn(reader.read().in_current_span());
        if let Some(before) = self.readers.insert(owner, task) {
            before.abort();
        }
    }

    /// Waits for what arrives next, and takes what else is there, up to so many messages.
    ///
    /// # Errors
    /// A task that reads a store panicked.
    pub(super) async fn next(&mut self, messages_max: usize) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        match &mut self.source {
            Source::Exchange(inbox) => {
                inbox.recv_many(&mut events, messages_max).await;
            }
            Source::Stores(stores) => {
                // The inbox has a sender itself, so it never ends.
                events = stores.inbox.recv().await.context("the inbox is open")?;
                for _ in 1..messages_max {
                    let Ok(more) = stores.inbox.try_recv() else { break };
                    events.extend(more);
                }
            }
        }
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && !error.is_cancelled()
            {
                return Err(error).context("a reader of another peer's store was lost");
            }
        }
        Ok(events)
    }
}

impl Reader {
    /// Reads one peer's records as long as the peer runs.
    async fn read(self) {
        let mut last = 0;
        let mut round = (*self.horizon.borrow(), 0);
        loop {
            let records = match self.neighbour.store.records(last, READ_WAIT).await {
                Ok(records) => records,
                Err(error) => {
                    self.neighbour.records.failed(&error);
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                }
            };
            let mut events = Vec::new();
            for (number, bytes) in records {
                last = number;
                let Some(record) = self.admit(&bytes) else { continue };
                let now = *self.horizon.borrow();
                let is_new = usize::from(!self.verified.has(&record.hash()));
                round = if round.0 == now { (now, round.1 + is_new) } else { (now, is_new) };
                let record = self.verified.verify(record);
                if record.is_err() || (is_new == 1 && round.1 > VERIFIED_MAX) {
                    // Its writer must not have this host verify signatures all day.
                    tracing::debug!(peer = ?self.neighbour.id, error = ?record.as_ref().err(), "a suspicious record");
                    tokio::time::sleep(SUSPICIOUS).await;
                }
                events.extend(record.ok().map(|record| Event::Read { owner: self.neighbour.id, record }));
            }
            if events.is_empty() {
                // A server may answer at once that there is nothing, or with what is no record.
                tokio::time::sleep(USELESS).await;
                continue;
            }
            self.neighbour.records.succeeded();
            if self.sender.send(events).await.is_err() {
                return;
            }
        }
    }

    /// A record that may still be of use.
    fn admit(&self, bytes: &[u8]) -> Option<Unverified> {
        // Longer bytes are not a record, and their first ones are enough to find that out.
        let bytes = &bytes[..bytes.len().min(RECORD_BYTES_MAX + 1)];
        let record = match Unverified::decode(bytes) {
            Ok(record) => record,
            Err(error @ RecordError::Version(_)) => {
                self.neighbour.records.failed(&error);
                return None;
            }
            Err(error) => {
                tracing::debug!(peer = ?self.neighbour.id, %error, "dropped what is no record");
                return None;
            }
        };
        let slot = record.slot();
        let is_timeless = matches!(slot.kind, Kind::Inquiry | Kind::Answer);
        let is_known = slot.run == self.run && (slot.peer == self.me || self.members.contains(&slot.peer));
        let is_of_use = is_known && (is_timeless || slot.position >= *self.horizon.borrow());
        is_of_use.then_some(record)
    }
}

/// Shows the others that this peer is alive.
async fn beat(own: Arc<dyn RecordLog>, is_stuck: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u64;
        let beat = [&now.to_le_bytes()[..], &[u8::from(is_stuck.load(Ordering::Relaxed))]].concat();
        // The peer's own work finds out what is wrong with its store.
        let _ = own.serve(None, vec![(served::BEAT.to_owned(), beat)]).await;
    }
}

/// Looks for the beats of another peer as long as this one runs.
async fn hear(neighbour: Arc<Neighbour>, sender: mpsc::Sender<Vec<Event>>) {
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Vec<u8>> = None;
    loop {
        ticks.tick().await;
        // That it cannot be read is known from its records.
        let Ok(Some(beat)) = neighbour.store.served(served::BEAT).await else { continue };
        // The first one may be old.
        let is_new = last.as_ref().is_some_and(|last| *last != beat);
        let is_stuck = beat.last() == Some(&1);
        last = Some(beat);
        if is_new && sender.send(vec![Event::Beat { peer: neighbour.id, is_stuck }]).await.is_err() {
            return;
        }
    }
}
