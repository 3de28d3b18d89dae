//! Names and bytes of what a peer serves to those that are late.

use skein_protocol::node::Served;
use skein_protocol::record::Position;
use skein_types::Digest;

/// Name of the beat, which each one replaces: microseconds since 1970 (8 bytes, little endian), and 1 if the peer does not
/// get on, otherwise 0.
pub(super) const BEAT: &str = "beat";

/// Rounds for which decisions are served, and what belongs to the beginning of an era.
const ROUNDS_SERVED: u64 = 4;

/// The round with which something that is served is pruned, its name and its bytes. The peer has applied round `head`.
pub(super) fn encode(served: &Served, head: u64) -> (u64, String, Vec<u8>) {
    let (position, name, bytes) = match served {
        Served::Announcement(record) => (record.slot().position, announcement(&record.hash()), record.encode()),
        Served::Selection(position, digest, chosen) => (*position, selection(digest), chosen.encode()),
        Served::Decision(decided) => (decided.position, decision(decided.position), decided.encode()),
    };
    let is_short_lived = position.round > 0 && !matches!(served, Served::Decision(_));
    (if is_short_lived { position.round } else { head + ROUNDS_SERVED }, name, bytes)
}

pub(super) fn announcement(hash: &Digest) -> String {
    format!("announcement:{hash}")
}

pub(super) fn selection(digest: &Digest) -> String {
    format!("selection:{digest}")
}

pub(super) fn decision(position: Position) -> String {
    format!("decision:{}:{}", position.era, position.round)
}
