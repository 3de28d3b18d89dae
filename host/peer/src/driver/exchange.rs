//! How peers of one process hear each other: they pass on the records themselves, which nobody has to read or verify again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skein_protocol::node::Event;
use skein_protocol::record::Record;
use skein_types::PeerId;
use tokio::sync::mpsc;

/// Records kept of each peer, for those that come later or have to read them again.
const RECORDS_MAX: usize = 1024;

/// The records of the peers of one process.
#[derive(Debug, Default)]
pub struct Exchange(Mutex<Peers>);

#[derive(Debug, Default)]
struct Peers {
    inboxes: BTreeMap<PeerId, mpsc::UnboundedSender<Event>>,
    published: BTreeMap<PeerId, VecDeque<Arc<Record>>>,
}

impl Exchange {
    /// The inbox of a peer, with what the others have published before.
    pub(super) fn join(&self, me: PeerId) -> mpsc::UnboundedReceiver<Event> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let mut peers = self.lock();
        for (owner, records) in peers.published.iter().filter(|(owner, _)| **owner != me) {
            deliver(&sender, *owner, records);
        }
        peers.inboxes.insert(me, sender);
        inbox
    }

    /// Passes a record to all others.
    pub(super) fn publish(&self, owner: PeerId, record: &Arc<Record>) {
        let mut peers = self.lock();
        let Peers { inboxes, published } = &mut *peers;
        let published = published.entry(owner).or_default();
        if published.len() == RECORDS_MAX {
            published.pop_front();
        }
        published.push_back(record.clone());
        for (_, inbox) in inboxes.iter().filter(|(peer, _)| **peer != owner) {
            // A peer that has ended needs nothing.
            let _ = inbox.send(Event::Read { owner, record: record.clone() });
        }
    }

    /// Passes what a peer has published to another one again.
    pub(super) fn repeat(&self, owner: PeerId, to: PeerId) {
        let peers = self.lock();
        if let (Some(records), Some(inbox)) = (peers.published.get(&owner), peers.inboxes.get(&to)) {
            deliver(inbox, owner, records);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deliver(inbox: &mpsc::UnboundedSender<Event>, owner: PeerId, records: &VecDeque<Arc<Record>>) {
    for record in records {
        let _ = inbox.send(Event::Read { owner, record: record.clone() });
    }
}
