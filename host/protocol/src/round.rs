//! One round as a state machine: records and time go in, the next step comes out.
//!
//! gather → vote → agree → (the driver aggregates and updates) → check. Nothing here waits, fetches or signs: the
//! driver does, and reports the result.
//!
//! Peers aggregate the contributions that a majority of the roster voted for, not those that happened to arrive, so
//! peers that are cut off from the majority apply nothing. A peer that sends what no honest peer sends is accused: this
//! peer does not vote for its contribution. An accusation changes neither how many faults the rule tolerates nor how this
//! peer treats values that the majority verified.

pub mod announcement;
mod outcome;
pub mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skein_types::Digest;
use skein_types::PeerId;

use crate::presence::Presence;
use crate::round::announcement::{Announcement, Vote};
use crate::round::record::{Header, Kind, Record, RecordError};

pub use outcome::{Absence, Agreement, Ended, Misbehaviour, RoundError, Step, Wanted};

/// Shortest wait for a suspect: enough to hear from a restarted peer.
const SUSPECT_WAIT_MIN: Duration = Duration::from_secs(1);

/// Records of peers at most this many rounds ahead are kept: after a restart, this peer replays a round or two.
const ROUNDS_AHEAD: u64 = 2;

/// How long a peer that is behind waits for records it has not read yet: the others may be about to restart.
const BEHIND_WAIT: Duration = Duration::from_secs(5);

/// The values that all peers of a round share.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// Digest of the job.
    pub run: Digest,
    /// Number of the round, from 1.
    pub round: u64,
    /// Hash of the state that the round builds on.
    pub state: Digest,
    /// The peers that take part, this one included.
    pub roster: BTreeSet<PeerId>,
    /// Number of Byzantine peers tolerated (`f`).
    pub faults: u32,
}

impl Context {
    /// More than half of the roster: any two majorities share a peer.
    pub fn majority(&self) -> usize {
        self.roster.len() / 2 + 1
    }

    /// Number of peers of which at least one is honest.
    fn one_honest(&self) -> usize {
        self.faults as usize + 1
    }
}

/// How long a round waits. All times are on the driver's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// When the round began to gather.
    pub opened: Duration,
    /// Bound of each of the three waits: for contributions, for votes, for checks.
    pub wait: Duration,
    /// Bound of the waits that the round cannot finish without: for a majority, and for values that were agreed on.
    pub wait_max: Duration,
}

/// What [`Round::receive`] did with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The bytes are part of this round.
    Taken,
    /// They belong to one of the next two rounds: pass them again in that round. Returned at most once for each peer,
    /// round and kind.
    Early,
    /// They change nothing: late, known, of a later round, or refused.
    Ignored,
    /// The peer runs a program whose records have this version, so nothing can be read from it.
    OtherVersion(u8),
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Gathering,
    Voting { begun: Duration },
    Agreed(Agreement),
    Checking { deadline: Duration },
}

/// One round as one peer sees it.
#[derive(Debug, Clone)]
pub struct Round {
    me: PeerId,
    context: Context,
    waits: Waits,
    phase: Phase,
    presence: Presence,
    seen: BTreeMap<(PeerId, Kind), Digest>,
    early: BTreeSet<(u64, PeerId, Kind)>,
    announced: BTreeMap<PeerId, (Digest, Announcement)>,
    held: BTreeSet<PeerId>,
    /// Peers whose contribution no holder had when asked.
    missed: BTreeMap<PeerId, Duration>,
    /// Since when so many peers are in a later round that at least one of them is honest.
    ahead_since: Option<Duration>,
    /// When a peer that is not a suspect was last accused, or its contribution held.
    arrived: Duration,
    accusations: BTreeMap<PeerId, Misbehaviour>,
    /// States that other peers build on in this round, if they differ from the one here.
    elsewhere: BTreeMap<PeerId, Digest>,
    votes: BTreeMap<PeerId, Vote>,
    checks: BTreeMap<PeerId, Digest>,
}

impl Round {
    /// Begins to gather. `presence` comes from [`Round::presence`] at the end of the previous round.
    ///
    /// # Panics
    /// If this peer is not in the roster, or `wait` is longer than `wait_max`.
    pub fn new(me: PeerId, context: Context, presence: Presence, waits: Waits) -> Round {
        assert!(context.roster.contains(&me), "this peer is in the roster");
        assert!(waits.wait <= waits.wait_max, "`wait` is at most `wait_max`");
        let mut round = Round {
            me,
            context,
            phase: Phase::Gathering,
            presence,
            seen: BTreeMap::new(),
            early: BTreeSet::new(),
            announced: BTreeMap::new(),
            held: BTreeSet::new(),
            missed: BTreeMap::new(),
            ahead_since: None,
            arrived: waits.opened,
            accusations: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            votes: BTreeMap::new(),
            checks: BTreeMap::new(),
            waits,
        };
        round.ahead_since = round.needed(1).map(|_| waits.opened);
        round
    }

    /// Number of the round.
    pub fn number(&self) -> u64 {
        self.context.round
    }

    /// When the round began to gather, on the driver's clock.
    pub fn opened(&self) -> Duration {
        self.waits.opened
    }

    /// The header of this peer's next record, which follows the one with the hash `previous`.
    pub fn header(&self, kind: Kind, previous: Digest) -> Header {
        let Context { run, round, state, .. } = self.context;
        Header { run, round, peer: self.me, kind, state, previous }
    }

    /// Processes bytes from the store of `owner`, who published them and is accused if they are wrong.
    pub fn receive(&mut self, now: Duration, owner: PeerId, bytes: &[u8]) -> Received {
        if !self.context.roster.contains(&owner) {
            return Received::Ignored;
        }
        let result = match Record::decode(bytes) {
            Ok(record) if record.header().peer == owner => self.take(now, &record),
            // No lie, but nothing that this peer can use.
            Err(RecordError::Version(version)) => return Received::OtherVersion(version),
            _ => Err(Misbehaviour::Unsigned),
        };
        result.unwrap_or_else(|misbehaviour| {
            self.accuse(now, owner, misbehaviour);
            Received::Ignored
        })
    }

    fn take(&mut self, now: Duration, record: &Record) -> Result<Received, Misbehaviour> {
        let Header { run, round, peer, kind, state, .. } = *record.header();
        if run != self.context.run {
            return Err(Misbehaviour::WrongJob);
        }
        if peer != self.me {
            self.presence.hear(peer, round, self.context.round);
            if self.needed(1).is_some() {
                self.ahead_since.get_or_insert(now);
            }
        }
        if round < self.context.round {
            if kind == Kind::Announcement && round + 1 == self.context.round {
                self.presence.arrive_late(peer, now);
            }
            // Late, or read again: not a lie, but not part of this round.
            return Ok(Received::Ignored);
        }
        if round > self.context.round {
            let is_near = round - self.context.round <= ROUNDS_AHEAD && self.early.insert((round, peer, kind));
            return Ok(if is_near { Received::Early } else { Received::Ignored });
        }
        if state != self.context.state {
            self.elsewhere.entry(peer).or_insert(state);
            return Err(Misbehaviour::WrongState);
        }
        if let Some(known) = self.seen.get(&(peer, kind)) {
            return if *known == record.hash() { Ok(Received::Ignored) } else { Err(Misbehaviour::Equivocation) };
        }
        match kind {
            Kind::Announcement => {
                let announcement = Announcement::decode(record.payload()).ok_or(Misbehaviour::Payload)?;
                self.announced.insert(peer, (record.hash(), announcement));
            }
            Kind::Vote => {
                self.votes.insert(peer, Vote::decode(record.payload()).ok_or(Misbehaviour::Payload)?);
            }
            Kind::Check => {
                let state = record.payload().try_into().map_err(|_| Misbehaviour::Payload)?;
                self.checks.insert(peer, Digest(state));
            }
        }
        let before = self.seen.insert((peer, kind), record.hash());
        assert!(before.is_none(), "the first record of a kind counts");
        Ok(Received::Taken)
    }

    /// The contribution of `peer` is stored here, and has the announced hash, the right length and finite values.
    pub fn hold(&mut self, now: Duration, peer: PeerId) {
        assert!(self.context.roster.contains(&peer), "only members contribute");
        self.held.insert(peer);
        self.settle(now, peer);
    }

    /// No holder had the contribution of `peer` when they were asked, at the time `asked`: not yet, or no longer.
    pub fn miss(&mut self, asked: Duration, peer: PeerId) {
        self.missed.insert(peer, asked);
    }

    /// `peer` did what no honest peer does. The first accusation is kept.
    pub fn accuse(&mut self, now: Duration, peer: PeerId, misbehaviour: Misbehaviour) {
        assert!(self.context.roster.contains(&peer), "only members are accused");
        self.accusations.entry(peer).or_insert(misbehaviour);
        self.settle(now, peer);
    }

    fn settle(&mut self, now: Duration, peer: PeerId) {
        if self.phase == Phase::Gathering && !self.presence.is_suspect(&peer) {
            self.arrived = self.arrived.max(now);
        }
    }

    /// Peers accused so far, each with its first accusation.
    pub fn accusations(&self) -> &BTreeMap<PeerId, Misbehaviour> {
        &self.accusations
    }

    /// Whether enough other peers have finished the round for at least one of them to be honest. They decided without
    /// any vote cast later, so such a vote must not count here either.
    pub fn is_decided(&self) -> bool {
        self.checks.keys().filter(|peer| **peer != self.me).count() >= self.context.one_honest()
    }

    /// The peers that the round waits for.
    pub fn awaited(&self) -> BTreeSet<PeerId> {
        match &self.phase {
            Phase::Gathering => self.absent(),
            Phase::Voting { .. } if self.votes.len() < self.context.majority() => self.without(&self.votes),
            Phase::Voting { .. } => self.unvoted(),
            Phase::Agreed(_) => BTreeSet::new(),
            Phase::Checking { .. } => self.unchecked(),
        }
    }

    /// Those of the awaited peers that were last seen in the previous round; `None` if there are none.
    pub fn ended(&self) -> Option<Ended> {
        let round = self.context.round.checked_sub(1).filter(|round| *round > 0)?;
        let peers: BTreeSet<PeerId> =
            self.awaited().into_iter().filter(|peer| self.presence.newest(peer) == round).collect();
        (!peers.is_empty()).then_some(Ended { peers, round })
    }

    /// What this round learned about the other peers, for the next one. Peers that did not finish it are suspects.
    pub fn presence(&self) -> Presence {
        // A peer that claims to be further ahead than any peer can be counts as gone.
        let ahead = self.context.round + 1..=self.context.round + ROUNDS_AHEAD;
        let is_ahead = |peer: &PeerId| ahead.contains(&self.presence.newest(peer));
        let missed = self.without(&self.checks).into_iter().filter(|peer| !is_ahead(peer));
        self.presence.after(self.waits.opened, missed.collect())
    }

    /// How long other peers took to arrive, counted from when this peer was ready. A wait that ended at its deadline
    /// says nothing about them and is left out.
    pub fn arrivals(&self) -> Vec<Duration> {
        let all_came = self.absent().iter().all(|peer| self.presence.is_suspect(peer));
        let in_time = (all_came && self.phase != Phase::Gathering).then(|| self.arrived - self.waits.opened);
        self.presence.late_arrivals().chain(in_time).collect()
    }

    /// The agreement was aggregated and applied, which resulted in `state`. Publish it as a [`Kind::Check`].
    pub fn applied(&mut self, now: Duration, state: Digest) {
        let before = self.checks.insert(self.me, state);
        assert!(before.is_none_or(|before| before == state), "a round is applied once");
        if let Phase::Agreed(_) = self.phase {
            self.phase = Phase::Checking { deadline: now + self.waits.wait };
        }
    }

    /// Decides what the driver does next.
    ///
    /// # Errors
    /// [`RoundError`]: the round cannot be finished.
    pub fn step(&mut self, now: Duration) -> Result<Step, RoundError> {
        self.compare(self.context.state, &self.elsewhere)?;
        match self.phase.clone() {
            Phase::Gathering => self.gather(now),
            Phase::Voting { begun } => self.agree(now, begun),
            Phase::Agreed(agreement) => Ok(Step::Aggregate(agreement)),
            Phase::Checking { deadline } => self.check(now, deadline),
        }
    }

    fn gather(&mut self, now: Duration) -> Result<Step, RoundError> {
        let absent = self.absent();
        let has_majority = self.held.len() >= self.context.majority();
        // A vote cannot be withdrawn, so none is cast while no majority is possible.
        let until = if has_majority { self.gather_until(&absent) } else { self.waits.opened + self.waits.wait_max };
        if !absent.is_empty() && now < until {
            let announced = self.announced.iter().filter(|(peer, _)| absent.contains(peer));
            let wanted = announced
                .map(|(peer, (_, announcement))| (*peer, Wanted { announcement: *announcement, holders: vec![*peer] }));
            let wanted: BTreeMap<_, _> = wanted.collect();
            let is_gone = !wanted.is_empty() && wanted.keys().all(|peer| self.is_lost(peer));
            let step = if wanted.is_empty() { Step::Wait { until } } else { Step::Fetch { wanted, until } };
            return if has_majority { Ok(step) } else { self.or_behind(now, is_gone, Ok(step)) };
        }
        if !has_majority {
            return self.or_behind(now, false, Err(self.minority(self.held.len())));
        }
        self.phase = Phase::Voting { begun: now };
        // Only owners were asked until here; voters may have what they no longer have.
        self.missed.clear();
        let sound = self.held.iter().filter(|peer| !self.accusations.contains_key(peer));
        let held = sound.filter_map(|peer| Some((*peer, self.announced.get(peer)?.0))).collect();
        let vote = Vote { held, accused: self.accusations.keys().copied().collect() };
        assert!(vote.held.is_sorted_by(|a, b| a.0 < b.0), "entries are sorted by peer, one for each");
        assert!(vote.held.iter().all(|(peer, _)| self.context.roster.contains(peer)), "votes are for members");
        Ok(Step::Vote(vote))
    }

    /// When to stop waiting for the absent peers.
    fn gather_until(&self, absent: &BTreeSet<PeerId>) -> Duration {
        let Waits { opened, wait, .. } = self.waits;
        // If a vote holds its contribution, its store lost it after that vote: the peer may be about to restart.
        let is_gone = |peer: &PeerId| {
            let is_here = self.announced.contains_key(peer) && !self.missed.contains_key(peer);
            !is_here && self.count(|vote| knows(vote, peer)) == 0
        };
        // Together with this peer's vote they decide, without a peer that none of them heard.
        let has_majority = self.votes.len() + 1 >= self.context.majority();
        if (has_majority || self.needed(2).is_some()) && absent.iter().all(is_gone) {
            return opened;
        }
        if absent.iter().all(|peer| self.presence.is_suspect(peer)) {
            return opened + (self.arrived - opened).max(SUSPECT_WAIT_MIN).min(wait);
        }
        opened + wait
    }

    fn agree(&mut self, now: Duration, begun: Duration) -> Result<Step, RoundError> {
        let until = begun + self.waits.wait;
        if now < until && !self.unvoted().is_empty() {
            return Ok(Step::Wait { until });
        }
        let limit = begun + self.waits.wait_max;
        let or_refuse =
            |is_gone, step, refusal| self.or_behind(now, is_gone, if now < limit { Ok(step) } else { Err(refusal) });
        let majority = self.context.majority();
        if self.votes.len() < majority {
            return or_refuse(false, Step::Wait { until: limit }, self.minority(self.votes.len()));
        }
        let is_accused = |peer: &&PeerId| self.count(|vote| vote.accused.contains(peer)) >= majority;
        let accused = self.context.roster.iter().filter(is_accused).count();
        if accused > self.context.faults as usize {
            return Err(RoundError::Accused { accused, faults: self.context.faults });
        }
        let entries: BTreeSet<(PeerId, Digest)> = self.votes.values().flat_map(|vote| &vote.held).copied().collect();
        let count = |(peer, hash): &(PeerId, Digest)| self.count(|vote| holds(vote, *peer, *hash));
        // Others may receive a vote that is missing here, and count it.
        let missing = self.without(&self.votes).len();
        let is_open = |entry| count(entry) < majority && count(entry) + missing >= majority;
        if now < until && entries.iter().any(is_open) {
            return Ok(Step::Wait { until });
        }
        let agreed = entries.into_iter().filter(|entry| count(entry) >= majority);
        let mut peers = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for (peer, hash) in agreed {
            let known = self.announced.get(&peer).filter(|(announced, _)| *announced == hash);
            let Some((_, announcement)) = known else {
                return or_refuse(false, Step::Wait { until: limit }, RoundError::Lacking(peer));
            };
            peers.insert(peer, *announcement);
            // Even if it is accused: the majority verified its values.
            if !self.held.contains(&peer) {
                wanted.insert(peer, Wanted { announcement: *announcement, holders: self.holders(peer, hash) });
            }
        }
        if let Some(peer) = wanted.keys().next().copied() {
            let is_gone = wanted.keys().any(|peer| self.is_lost(peer));
            let fetch = Step::Fetch { wanted, until: limit };
            return if is_gone || now >= limit {
                or_refuse(is_gone, fetch, RoundError::Lacking(peer))
            } else {
                Ok(fetch)
            };
        }
        if peers.is_empty() {
            return Err(RoundError::Nothing);
        }
        let absent = self.context.roster.iter().filter(|peer| !peers.contains_key(peer));
        let absent = absent.map(|peer| (*peer, self.absence(peer))).collect();
        let agreement = Agreement { peers, absent };
        assert!(agreement.peers.keys().all(|peer| self.held.contains(peer)), "every agreed contribution is held");
        assert_eq!(agreement.peers.len() + agreement.absent.len(), self.context.roster.len(), "it lists every member");
        self.phase = Phase::Agreed(agreement.clone());
        Ok(Step::Aggregate(agreement))
    }

    /// Refuses if the others are ahead, because what is missing here then never comes: at once for values that no
    /// holder has any more, after [`BEHIND_WAIT`] at most for records that were not read. Else returns `otherwise`.
    fn or_behind(&self, now: Duration, is_gone: bool, otherwise: Result<Step, RoundError>) -> Result<Step, RoundError> {
        let is_late = now >= self.waits.opened + self.waits.wait.min(BEHIND_WAIT);
        let needed = if is_gone { self.needed(1) } else { self.needed(2).filter(|_| is_late) };
        needed.map_or(otherwise, |needed| Err(RoundError::Behind { state: self.context.round - 1, needed }))
    }

    fn check(&self, now: Duration, deadline: Duration) -> Result<Step, RoundError> {
        let mine = self.checks[&self.me];
        self.compare(mine, &self.checks)?;
        let unconfirmed = self.unchecked();
        if !unconfirmed.is_empty() && now < deadline {
            return Ok(Step::Wait { until: deadline });
        }
        let differing = self.checks.iter().filter(|(_, state)| **state != mine).map(|(peer, _)| *peer).collect();
        Ok(Step::Finish { unconfirmed, differing })
    }

    /// Refuses if enough peers have one other state for at least one of them to be honest.
    fn compare(&self, mine: Digest, states: &BTreeMap<PeerId, Digest>) -> Result<(), RoundError> {
        for other in states.values().filter(|state| **state != mine) {
            let peers = states.values().filter(|state| *state == other).count();
            if peers >= self.context.one_honest() {
                return Err(RoundError::Diverged { mine, peers, other: *other });
            }
        }
        Ok(())
    }

    /// Whether no holder has the contribution any more. Peers that have applied a round keep its contributions until the next
    /// one is applied, so only an answer from after they were seen there counts: an earlier one may be of a peer that had
    /// just been restarted.
    fn is_lost(&self, peer: &PeerId) -> bool {
        let asked = self.missed.get(peer);
        asked.zip(self.ahead_since).is_some_and(|(asked, since)| *asked >= since)
    }

    /// The round whose state this peer needs, if at least one honest peer is `ahead` rounds ahead. A peer that is two
    /// rounds ahead has finished this round and the next, and keeps this one only by chance.
    fn needed(&self, ahead: u64) -> Option<u64> {
        let newest = self.presence.newest_of(self.context.one_honest())?;
        (newest >= self.context.round + ahead).then(|| newest - 1)
    }

    fn minority(&self, heard: usize) -> RoundError {
        RoundError::Minority {
            heard,
            roster: self.context.roster.len(),
            majority: self.context.majority(),
            waited: self.waits.wait_max,
            ended: self.ended(),
        }
    }

    fn count(&self, says: impl Fn(&Vote) -> bool) -> usize {
        self.votes.values().filter(|vote| says(vote)).count()
    }

    /// The peers that voted for the contribution, then its owner, who did not provide it while this peer gathered.
    fn holders(&self, owner: PeerId, hash: Digest) -> Vec<PeerId> {
        let voters = self.votes.iter().filter(|(peer, vote)| **peer != owner && holds(vote, owner, hash));
        let holders = voters.map(|(peer, _)| *peer).chain([owner]);
        holders.filter(|peer| *peer != self.me).collect()
    }

    /// Peers whose contribution is not held, and that are not accused.
    fn absent(&self) -> BTreeSet<PeerId> {
        let settled = |peer: &PeerId| self.held.contains(peer) || self.accusations.contains_key(peer);
        self.context.roster.iter().filter(|peer| !settled(peer)).copied().collect()
    }

    /// Peers that take part and did not vote. A peer that missed the gathering is not waited for again.
    fn unvoted(&self) -> BTreeSet<PeerId> {
        let silent = |peer: &PeerId| !self.announced.contains_key(peer) || self.is_past(peer);
        self.without(&self.votes).into_iter().filter(|peer| !silent(peer)).collect()
    }

    /// Peers that voted and did not confirm their state.
    fn unchecked(&self) -> BTreeSet<PeerId> {
        let waits = |peer: &PeerId| self.votes.contains_key(peer) && !self.is_past(peer);
        self.without(&self.checks).into_iter().filter(waits).collect()
    }

    /// Whether a peer was seen in a later round. Its records come in order, so none of this round will follow.
    fn is_past(&self, peer: &PeerId) -> bool {
        self.presence.newest(peer) > self.context.round
    }

    /// The other members of the roster, without `peers`.
    fn without<T>(&self, peers: &BTreeMap<PeerId, T>) -> BTreeSet<PeerId> {
        let others = self.context.roster.iter().filter(|peer| **peer != self.me && !peers.contains_key(peer));
        others.copied().collect()
    }

    fn absence(&self, peer: &PeerId) -> Absence {
        match self.accusations.get(peer) {
            Some(misbehaviour) => Absence::Accused(*misbehaviour),
            None if self.held.contains(peer) => Absence::Outvoted,
            None if self.announced.contains_key(peer) => Absence::Unreachable,
            None => Absence::Silent,
        }
    }
}

fn knows(vote: &Vote, peer: &PeerId) -> bool {
    vote.accused.contains(peer) || vote.held.iter().any(|(held, _)| held == peer)
}

fn holds(vote: &Vote, owner: PeerId, hash: Digest) -> bool {
    vote.held.binary_search(&(owner, hash)).is_ok()
}
