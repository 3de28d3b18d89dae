//! One round as a state machine: records and time go in, the next step comes out.
//!
//! gather → vote → agree → (the driver aggregates and updates) → check. Nothing here waits, fetches or signs: the
//! driver does, and tells what came of it.
//!
//! What peers aggregate is what the majority of votes holds, not what happened to arrive here. Whoever is caught
//! sending what no honest peer sends is charged; a charge that the majority shares is taken off the faults that
//! the rule still has to bear. What timing lets through all the same, the check at the end of the round notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_kernels::Digest;

use crate::announcement::{Announcement, Vote};
use crate::identity::PeerId;
use crate::record::{Header, Kind, Record};

/// What all peers of a round have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// Digest of the job.
    pub job: Digest,
    /// Number of the round, from 1.
    pub round: u64,
    /// Hash of the state that the round builds on.
    pub state: Digest,
    /// The peers that take part, this one included.
    pub roster: BTreeSet<PeerId>,
    /// Peers of which nothing good is assumed.
    pub faults: u32,
}

/// What became of bytes that were handed to [`Round::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// They are dealt with.
    Done,
    /// They are of the next round, whose peer is ahead: hand them over again then.
    Early,
}

/// Why a peer is charged: no honest peer does this, whatever the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Charge {
    /// Its store holds bytes that are no record it signed.
    #[error("a record that it did not sign")]
    Unsigned,
    /// The record is of another job.
    #[error("a record of another job")]
    WrongJob,
    /// The record builds on another state than this round, or is of a round that nobody can have begun.
    #[error("a record that builds on another state")]
    WrongState,
    /// The record does not follow the peer's last one.
    #[error("a record that does not follow its last one")]
    Chain,
    /// The payload is malformed or senseless.
    #[error("a malformed payload")]
    Payload,
    /// It signed two different records of a kind for this round.
    #[error("two different records of one kind")]
    Equivocation,
    /// The values do not have the announced hash.
    #[error("values of another hash than announced")]
    Hash,
    /// The contribution has another length than the model.
    #[error("a contribution of the wrong length")]
    Shape,
    /// The contribution holds a NaN or an infinity.
    #[error("a contribution that is not finite")]
    NonFinite,
}

/// Why a peer is not part of what is aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Absence {
    /// No announcement came before the deadline.
    #[error("no announcement before the deadline")]
    Silent,
    /// The announced values could not be had before the deadline.
    #[error("values out of reach")]
    Unreachable,
    /// It was caught.
    #[error("charged: {0}")]
    Charged(Charge),
    /// This peer held its contribution, but most others did not.
    #[error("not held by most peers")]
    Outvoted,
}

/// What the peers agreed to aggregate.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Contributions in the order of their peers' keys.
    pub peers: BTreeMap<PeerId, Announcement>,
    /// Faults that the rule has to bear: the job's, less the peers that most votes charge.
    pub faults: u32,
    /// Who is missing, and why.
    pub absent: BTreeMap<PeerId, Absence>,
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Read records, until then at the longest.
    Wait {
        /// On the driver's clock.
        until: Duration,
    },
    /// Get these contributions, until then at the longest, then tell [`Round::hold`] or [`Round::charge`] about each.
    Fetch {
        /// Whose, and what they announced.
        wanted: BTreeMap<PeerId, Announcement>,
        /// On the driver's clock.
        until: Duration,
    },
    /// Sign and publish this vote.
    Vote(Vote),
    /// Aggregate and update, then tell [`Round::applied`] and publish the state's hash.
    Aggregate(Agreement),
    /// The round is over; these peers did not confirm their state in time.
    Finish {
        /// Peers of the agreement without a check.
        unconfirmed: BTreeSet<PeerId>,
    },
}

/// Why a round can not be finished. Nothing of it was applied, except for [`Refusal::Diverged`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More peers are charged than the job tolerates.
    #[error("{charged} peers are charged where the job tolerates {faults} faults")]
    Charged {
        /// Peers that most votes charge.
        charged: usize,
        /// What the job tolerates.
        faults: u32,
    },
    /// No contribution is held by a majority.
    #[error("no contribution is held by most peers")]
    Nothing,
    /// Others agreed on a contribution that never came here.
    #[error("the contribution of peer {0:?} is agreed on but never came here")]
    Lacking(PeerId),
    /// Peers have different states after the round.
    #[error("the state is {mine} here and {other} at peer {peer:?}: the peers are out of step")]
    Diverged {
        /// State hash here.
        mine: Digest,
        /// The peer that differs.
        peer: PeerId,
        /// Its state hash.
        other: Digest,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Gathering { deadline: Duration },
    Voting { deadline: Duration },
    Agreed(Agreement),
    Checking { deadline: Duration },
}

/// One round as one peer sees it.
#[derive(Debug, Clone)]
pub struct Round {
    me: PeerId,
    context: Context,
    wait: Duration,
    phase: Phase,
    seen: BTreeMap<(PeerId, Kind), Digest>,
    heads: BTreeMap<PeerId, Digest>,
    announced: BTreeMap<PeerId, (Digest, Announcement)>,
    held: BTreeSet<PeerId>,
    charges: BTreeMap<PeerId, Charge>,
    votes: BTreeMap<PeerId, Vote>,
    checks: BTreeMap<PeerId, Digest>,
}

impl Round {
    /// Begins to gather. `heads` are the last records of the peers in the round before, as [`Round::heads`] gave
    /// them; `wait` bounds each of the three waits.
    pub fn new(me: PeerId, context: Context, heads: BTreeMap<PeerId, Digest>, now: Duration, wait: Duration) -> Round {
        Round {
            me,
            context,
            wait,
            phase: Phase::Gathering { deadline: now + wait },
            seen: BTreeMap::new(),
            heads,
            announced: BTreeMap::new(),
            held: BTreeSet::new(),
            charges: BTreeMap::new(),
            votes: BTreeMap::new(),
            checks: BTreeMap::new(),
        }
    }

    /// The header of this peer's next record.
    pub fn header(&self, kind: Kind) -> Header {
        Header {
            job: self.context.job,
            round: self.context.round,
            peer: self.me,
            kind,
            state: self.context.state,
            previous: self.heads.get(&self.me).copied().unwrap_or_default(),
        }
    }

    /// Takes in bytes that the store of `owner` holds; a charge falls on the owner, who handed them out.
    pub fn receive(&mut self, owner: PeerId, bytes: &[u8]) -> Received {
        if !self.context.roster.contains(&owner) || self.charges.contains_key(&owner) {
            return Received::Done;
        }
        let result = match Record::decode(bytes) {
            Ok(record) if record.header().peer == owner => self.take(&record),
            _ => Err(Charge::Unsigned),
        };
        result.unwrap_or_else(|charge| {
            self.charge(owner, charge);
            Received::Done
        })
    }

    fn take(&mut self, record: &Record) -> Result<Received, Charge> {
        let header = *record.header();
        let Header { peer, kind, .. } = header;
        let follows = self.heads.get(&peer).is_none_or(|head| *head == header.previous);
        if header.job != self.context.job {
            return Err(Charge::WrongJob);
        }
        if header.round < self.context.round {
            // Late, or read again: not a lie, and no part of this round.
            if follows {
                self.heads.insert(peer, record.hash());
            }
            return Ok(Received::Done);
        }
        if header.round == self.context.round + 1 {
            return Ok(Received::Early);
        }
        if header.round > self.context.round || header.state != self.context.state {
            return Err(Charge::WrongState);
        }
        if let Some(known) = self.seen.get(&(peer, kind)) {
            return if *known == record.hash() { Ok(Received::Done) } else { Err(Charge::Equivocation) };
        }
        if !follows {
            return Err(Charge::Chain);
        }
        match kind {
            Kind::Announcement => {
                let announcement = Announcement::decode(record.payload()).ok_or(Charge::Payload)?;
                self.announced.insert(peer, (record.hash(), announcement));
            }
            Kind::Vote => {
                self.votes.insert(peer, Vote::decode(record.payload()).ok_or(Charge::Payload)?);
            }
            Kind::Check => {
                let state = record.payload().try_into().map_err(|_| Charge::Payload)?;
                self.checks.insert(peer, Digest(state));
            }
        }
        self.seen.insert((peer, kind), record.hash());
        self.heads.insert(peer, record.hash());
        Ok(Received::Done)
    }

    /// The contribution of `peer` is here, has the announced hash, the right length and finite values.
    pub fn hold(&mut self, peer: PeerId) {
        self.held.insert(peer);
    }

    /// `peer` did what no honest peer does. The first charge is kept.
    pub fn charge(&mut self, peer: PeerId, charge: Charge) {
        self.charges.entry(peer).or_insert(charge);
        self.held.remove(&peer);
    }

    /// Charges so far.
    pub fn charges(&self) -> &BTreeMap<PeerId, Charge> {
        &self.charges
    }

    /// The last record of every peer, for the round after this one.
    pub fn heads(&self) -> &BTreeMap<PeerId, Digest> {
        &self.heads
    }

    /// The agreement was aggregated and applied, which gave this state. Publish it as a [`Kind::Check`].
    pub fn applied(&mut self, now: Duration, state: Digest) {
        self.checks.insert(self.me, state);
        if let Phase::Agreed(_) = self.phase {
            self.phase = Phase::Checking { deadline: now + self.wait };
        }
    }

    /// What to do now.
    ///
    /// # Errors
    /// [`Refusal`]: the round can not be finished.
    pub fn step(&mut self, now: Duration) -> Result<Step, Refusal> {
        match self.phase.clone() {
            Phase::Gathering { deadline } => Ok(self.gather(now, deadline)),
            Phase::Voting { deadline } => self.agree(now, deadline),
            Phase::Agreed(agreement) => Ok(Step::Aggregate(agreement)),
            Phase::Checking { deadline } => self.check(now, deadline),
        }
    }

    fn gather(&mut self, now: Duration, deadline: Duration) -> Step {
        let missing = self.missing(self.announced.iter().map(|(peer, (_, announcement))| (*peer, *announcement)));
        let settled = |peer: &PeerId| self.held.contains(peer) || self.charges.contains_key(peer);
        let complete = self.context.roster.iter().all(settled);
        if !complete && now < deadline {
            return match missing.is_empty() {
                true => Step::Wait { until: deadline },
                false => Step::Fetch { wanted: missing, until: deadline },
            };
        }
        self.phase = Phase::Voting { deadline: now + self.wait };
        let held = self.held.iter().filter_map(|peer| Some((*peer, self.announced.get(peer)?.0))).collect();
        let vote = Vote { held, charged: self.charges.keys().copied().collect() };
        self.votes.insert(self.me, vote.clone());
        Step::Vote(vote)
    }

    fn agree(&mut self, now: Duration, deadline: Duration) -> Result<Step, Refusal> {
        let voted = |peer: &PeerId| self.votes.contains_key(peer) || self.charges.contains_key(peer);
        // Whoever missed the gathering is not waited for a second time.
        if now < deadline && !self.held.iter().all(voted) {
            return Ok(Step::Wait { until: deadline });
        }
        let votes: Vec<&Vote> =
            self.votes.iter().filter(|(p, _)| !self.charges.contains_key(p)).map(|(_, v)| v).collect();
        let is_majority = |count: usize| 2 * count > votes.len();
        let charged = |peer: &PeerId| is_majority(votes.iter().filter(|vote| vote.charged.contains(peer)).count());
        let charged = self.context.roster.iter().filter(|peer| charged(peer)).count();
        let faults = self.context.faults;
        let refused = Refusal::Charged { charged, faults };
        let faults = faults.checked_sub(u32::try_from(charged).unwrap_or(u32::MAX)).ok_or(refused)?;

        let entries: BTreeSet<(PeerId, Digest)> = votes.iter().flat_map(|vote| &vote.held).copied().collect();
        let mut peers = BTreeMap::new();
        for entry in entries {
            if !is_majority(votes.iter().filter(|vote| vote.held.binary_search(&entry).is_ok()).count()) {
                continue;
            }
            match self.announced.get(&entry.0) {
                Some((hash, announcement)) if *hash == entry.1 => peers.insert(entry.0, *announcement),
                _ => return Err(Refusal::Lacking(entry.0)),
            };
        }
        if peers.is_empty() {
            return Err(Refusal::Nothing);
        }
        let lacking = self.missing(peers.iter().map(|(peer, announcement)| (*peer, *announcement)));
        if let Some(peer) = lacking.keys().next() {
            return match now < deadline {
                true => Ok(Step::Fetch { wanted: lacking, until: deadline }),
                false => Err(Refusal::Lacking(*peer)),
            };
        }
        let absent = self.context.roster.iter().filter(|peer| !peers.contains_key(peer));
        let absent = absent.map(|peer| (*peer, self.absence(peer))).collect();
        let agreement = Agreement { peers, faults, absent };
        self.phase = Phase::Agreed(agreement.clone());
        Ok(Step::Aggregate(agreement))
    }

    fn check(&self, now: Duration, deadline: Duration) -> Result<Step, Refusal> {
        let mine = self.checks[&self.me];
        if let Some((peer, other)) = self.checks.iter().find(|(_, state)| **state != mine) {
            return Err(Refusal::Diverged { mine, peer: *peer, other: *other });
        }
        let unconfirmed: BTreeSet<PeerId> =
            self.held.iter().filter(|peer| !self.checks.contains_key(peer)).copied().collect();
        if unconfirmed.is_empty() || now >= deadline {
            return Ok(Step::Finish { unconfirmed });
        }
        Ok(Step::Wait { until: deadline })
    }

    /// Of these contributions, the ones that are neither here nor charged.
    fn missing(&self, peers: impl Iterator<Item = (PeerId, Announcement)>) -> BTreeMap<PeerId, Announcement> {
        peers.filter(|(peer, _)| !self.held.contains(peer) && !self.charges.contains_key(peer)).collect()
    }

    fn absence(&self, peer: &PeerId) -> Absence {
        match self.charges.get(peer) {
            Some(charge) => Absence::Charged(*charge),
            None if self.held.contains(peer) => Absence::Outvoted,
            None if self.announced.contains_key(peer) => Absence::Unreachable,
            None => Absence::Silent,
        }
    }
}
