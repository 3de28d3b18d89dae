//! Members, their databases and the network between them, in virtual time.

mod act;
pub(crate) mod fault;

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use skein_protocol::agreement::View;
use skein_protocol::convergence::{EarlyStopping, Options, ReduceOnPlateau};
use skein_protocol::fault_model::FaultModel;
use skein_protocol::node::{Event, Kept, KeptLog, Node, RunTerms, Want};
use skein_protocol::pace::{self, PaceOptions};
use skein_protocol::record::{Position, Record};
use skein_protocol::standing::{Head, Standing};
use skein_types::{Digest, PeerId};

use self::fault::Faults;
use crate::dice::Dice;
use crate::keys::{Secret, Secrets};
use crate::ledger::{Ledger, Violation};
use crate::lie::Lies;
use crate::network::Network;
use crate::seat::{Disk, Seat};
use crate::store::{Readers, Store};
use crate::{Attack, LEARNING_RATE, Model, Outcome, Schedule, Tracer, VALIDATION, Weather};

/// Interval of beats, and of what liars do besides, in microseconds.
const BEAT_US: u64 = 250_000;
/// Bounds of the waits of all members.
const PACE: PaceOptions =
    PaceOptions { silent: Some(pace::SILENT), wait_min: Duration::from_secs(1), wait_max: Duration::from_secs(8) };
/// Longest time from the last fault to the end of the last round, in microseconds.
const PROGRESS_US: u64 = 600_000_000;
/// Samples of a contribution.
pub(crate) const SAMPLES: u64 = 64;
/// Rounds between evaluations.
const EVALUATE_EVERY: u64 = 3;
/// Records that a reader takes in at once.
const READ_MAX: usize = 256;

/// Something that happens at a time.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    Wake,
    /// So many writes are on disk.
    Synced(usize),
    Computed(Position, Digest),
    Applied(Head),
    Saved(Head),
    /// The seat reads what another one published.
    Arrive(usize),
    Answered(Want, Vec<PeerId>),
    Publish(Arc<Record>, Readers),
    Restart,
    Heal(usize),
    Beat,
}

impl Happening {
    /// Whether it no longer happens once the process has crashed.
    fn is_of_process(&self) -> bool {
        !matches!(self, Happening::Restart | Happening::Heal(_) | Happening::Beat | Happening::Arrive(_))
    }

    /// Whether it no longer happens once the database has lost what it held.
    fn is_of_store(&self) -> bool {
        matches!(self, Happening::Computed(..) | Happening::Applied(_) | Happening::Answered(..))
    }
}

struct Queued {
    at: u64,
    number: u64,
    seat: usize,
    life: u32,
    generation: u32,
    what: Happening,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The earliest is the greatest, which a heap returns first.
    fn cmp(&self, other: &Queued) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The whole simulated run.
pub(crate) struct World {
    pub(crate) schedule: Schedule,
    pub(crate) dice: Dice,
    pub(crate) keys: Secrets,
    pub(crate) terms: RunTerms,
    pub(crate) seats: Vec<Seat>,
    /// The seats of each member: two if its key is stolen.
    pub(crate) seats_of: Vec<Vec<usize>>,
    pub(crate) members: Vec<PeerId>,
    pub(crate) network: Network,
    pub(crate) now: u64,
    number: u64,
    queue: BinaryHeap<Queued>,
    /// Arrivals that are on their way: reader, owner.
    arriving: BTreeSet<(usize, usize)>,
    /// Views in which a liar has shown selections of its own, for which liars have voted.
    pub(crate) splits: BTreeSet<(Position, View)>,
    /// Liars do not change what they do.
    is_fixed: bool,
    pub(crate) faults: Faults,
    pub(crate) last_fault_us: u64,
    /// The latest round that an honest member has reached.
    pub(crate) round: u64,
    pub(crate) ledger: Ledger,
    /// Is told every event and action.
    pub(crate) tracer: Option<Tracer>,
}

impl World {
    /// The members of a schedule, before they start.
    pub(crate) fn new(schedule: Schedule) -> World {
        let Schedule { seed, model: Model { members: count, byzantine, crashed }, rounds, weather, .. } = schedule;
        let model = FaultModel::new(count, byzantine, crashed).expect("enough members");
        let mut dice = Dice::new(seed, "faults");
        let mut secrets: Vec<Secret> = (0..count as usize).map(|index| Secret::derived(seed, index)).collect();
        secrets.sort_by_key(skein_protocol::keys::Signer::id);
        let members: Vec<PeerId> = secrets.iter().map(skein_protocol::keys::Signer::id).collect();
        let early_stopping = Some(EarlyStopping { patience: 3, min_delta: 0.0 });
        let reduce_on_plateau = Some(ReduceOnPlateau { patience: 1, ..ReduceOnPlateau::default() });
        let terms = RunTerms {
            run: Digest([1; 32]),
            me: members[0],
            members: members.iter().copied().collect(),
            model,
            rounds,
            samples_max: SAMPLES,
            evaluate_every: EVALUATE_EVERY,
            validation: members.iter().map(|peer| (*peer, VALIDATION)).collect(),
            convergence: Options { early_stopping, reduce_on_plateau },
        };
        let mut order: Vec<usize> = (0..members.len()).collect();
        dice.shuffle(&mut order);
        let lying = if weather == Weather::Fair { 0 } else { byzantine as usize };
        let liars: BTreeSet<usize> = order.iter().take(lying).copied().collect();
        let mut seats = Vec::new();
        let mut seats_of = vec![Vec::new(); members.len()];
        for (member, secret) in secrets.iter().enumerate() {
            let is_byzantine = liars.contains(&member);
            // One liar in four is an honest member whose key somebody else uses too.
            let is_stolen = is_byzantine && dice.one_in(4);
            for _ in 0..1 + usize::from(is_stolen) {
                seats_of[member].push(seats.len());
                let mut seat = seat(&mut dice, *secret, member);
                seat.is_byzantine = is_byzantine;
                seat.is_cautious = dice.one_in(2);
                let is_cautious = seat.is_cautious;
                seat.lies = (is_byzantine && !is_stolen).then(|| Lies::draw(&mut dice, is_cautious));
                seats.push(seat);
            }
        }
        let keys = Secrets::of(secrets);
        let faults = match weather {
            Weather::Fair => Faults::default(),
            Weather::Foul => Faults::plan(&mut dice, &schedule, &order[lying..]),
        };
        World {
            schedule,
            dice,
            keys,
            terms,
            seats,
            seats_of,
            members,
            network: Network::default(),
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            arriving: BTreeSet::new(),
            splits: BTreeSet::new(),
            is_fixed: false,
            faults,
            last_fault_us: 0,
            round: 0,
            ledger: Ledger::default(),
            tracer: None,
        }
    }

    /// Replaces what was drawn: all liars do this all the time, and these faults happen.
    pub(crate) fn attack(&mut self, attack: &Attack) {
        self.is_fixed = true;
        for seat in self.seats.iter_mut().filter(|seat| seat.is_byzantine) {
            seat.lies = Some(attack.lies);
            seat.is_cautious = false;
        }
        for seat in &mut self.seats {
            seat.is_reproducible = true;
        }
        for seats in &mut self.seats_of {
            seats.truncate(1);
        }
        self.faults = Faults::of(&attack.faults);
    }

    /// Runs to the end of the last round of all honest members, or until an invariant breaks.
    pub(crate) fn run(mut self) -> Outcome {
        for seat in 0..self.seats.len() {
            // Not all start at once.
            let at = self.dice.below(500_000);
            self.later(seat, at, Happening::Restart);
            let at = BEAT_US + self.dice.below(BEAT_US);
            self.later(seat, at, Happening::Beat);
        }
        while self.ledger.violation.is_none() && !self.is_done() {
            let Some(queued) = self.queue.pop() else { break };
            self.now = queued.at;
            if self.now > self.last_fault_us + PROGRESS_US {
                self.stall();
                break;
            }
            let seat = &self.seats[queued.seat];
            let is_stale = queued.what.is_of_process() && queued.life != seat.life;
            let is_lost = queued.what.is_of_store() && queued.generation != seat.store.generation;
            if !is_stale && !is_lost {
                self.happen(queued.seat, queued.what);
            }
        }
        self.ledger.finish(self.now);
        Outcome { schedule: self.schedule, counts: self.ledger.counts, violation: self.ledger.violation }
    }

    /// Lets something happen to a seat in so many microseconds.
    pub(crate) fn later(&mut self, seat: usize, after: u64, what: Happening) {
        self.number += 1;
        let Seat { life, store, .. } = &self.seats[seat];
        let (life, generation) = (*life, store.generation);
        self.queue.push(Queued { at: self.now + after, number: self.number, seat, life, generation, what });
    }

    fn happen(&mut self, seat: usize, what: Happening) {
        match what {
            Happening::Wake => {
                if self.seats[seat].wakes_at == Some(self.now) {
                    self.seats[seat].wakes_at = None;
                    self.pass(seat, Event::Tick);
                }
            }
            Happening::Synced(count) => self.synced(seat, count),
            Happening::Computed(position, values) => self.computed(seat, position, values),
            Happening::Applied(head) => self.applied(seat, head),
            Happening::Saved(head) => {
                let position = head.position;
                self.seats[seat].disk.saved = head;
                self.pass(seat, Event::Saved(position));
            }
            Happening::Arrive(owner) => self.arrive(seat, owner),
            Happening::Answered(want, from) => self.answered(seat, want, &from),
            Happening::Publish(record, to) => self.show(seat, record, to),
            Happening::Restart => self.restart(seat),
            Happening::Heal(fault) => self.heal(fault),
            Happening::Beat => self.beat(seat),
        }
    }

    /// Passes an event to a node, and carries out what it answers.
    pub(crate) fn pass(&mut self, seat: usize, event: Event) {
        let clock = self.seats[seat].clock(self.now);
        let Some(node) = &mut self.seats[seat].node else { return };
        self.ledger.counts.events += 1;
        let described = self.tracer.as_ref().map(|_| format!("{event:?}"));
        let actions = node.handle(clock, event);
        if let Some(described) = described {
            self.trace(seat, "gets", &format_args!("{described}"));
        }
        self.carry_out(seat, actions);
        self.wake_later(seat);
    }

    /// Tells what happens, if anybody follows the schedule.
    pub(crate) fn trace(&mut self, seat: usize, verb: &str, what: &dyn std::fmt::Debug) {
        let Some(tracer) = &mut self.tracer else { return };
        let position = self.seats[seat].node.as_ref().map(Node::position).unwrap_or_default();
        tracer(&format!("{:>10} {seat:>2} in {position:?} {verb} {what:?}", self.now));
    }

    fn wake_later(&mut self, seat: usize) {
        let Some(at) = self.seats[seat].node.as_ref().and_then(Node::wake_at) else { return };
        let at = self.seats[seat].when(at).max(self.now + 1);
        if self.seats[seat].wakes_at.is_none_or(|before| before > at) {
            self.seats[seat].wakes_at = Some(at);
            self.later(seat, at - self.now, Happening::Wake);
        }
    }

    /// Starts a process with what its disk and database have.
    fn restart(&mut self, index: usize) {
        let clock = self.seats[index].clock(self.now);
        let inquiry = Some(self.dice.bytes());
        let terms = RunTerms { me: self.seats[index].id(), ..self.terms.clone() };
        let seat = &mut self.seats[index];
        if seat.node.is_some() {
            return;
        }
        seat.life += 1;
        let saved = seat.disk.saved.clone();
        let head = seat.store.head.clone().filter(|head| head.position >= saved.position);
        let head = head.unwrap_or_else(|| saved.clone());
        seat.store.set_head(head.clone());
        let kept = Kept { head: head.clone(), saved: saved.position, log: seat.disk.log.clone(), inquiry };
        let mut node = Node::new(terms, PACE, kept, clock);
        let actions = node.start(clock);
        seat.node = Some(node);
        seat.is_finished = false;
        seat.wakes_at = None;
        seat.cursors.clear();
        self.carry_out(index, actions);
        self.wake_later(index);
        self.read_all(index);
    }

    /// Lets everybody read what this seat publishes, and the other way round.
    pub(crate) fn read_all(&mut self, index: usize) {
        for other in (0..self.seats.len()).filter(|other| *other != index) {
            self.arrive_later(index, other);
            self.arrive_later(other, index);
        }
    }

    /// Lets a reader read a seat after the latency of their link, unless it is about to anyway.
    pub(crate) fn arrive_later(&mut self, reader: usize, owner: usize) {
        let is_source = self.source(reader, self.seats[owner].member) == owner;
        if is_source && self.arriving.insert((reader, owner)) {
            let after = self.network.latency(&mut self.dice, reader, owner);
            self.later(reader, after, Happening::Arrive(owner));
        }
    }

    /// The seat from which a reader reads a member.
    pub(crate) fn source(&self, reader: usize, member: usize) -> usize {
        let seats = &self.seats_of[member];
        seats[reader % seats.len()]
    }

    fn arrive(&mut self, reader: usize, owner: usize) {
        self.arriving.remove(&(reader, owner));
        if self.network.is_cut(reader, owner) || self.seats[reader].node.is_none() {
            return;
        }
        let store = &self.seats[owner].store;
        let (generation, next) = self.seats[reader].cursors.get(&owner).copied().unwrap_or_default();
        let next = if generation == store.generation { next } else { 0 };
        let end = store.log.len().min(next + READ_MAX);
        let is_shown = |to: Readers| to & (1 << reader) != 0;
        let shown = store.log[next.min(end)..end].iter().filter(|entry| is_shown(entry.to));
        let records: Vec<Arc<Record>> = shown.map(|entry| entry.record.clone()).collect();
        let (generation, is_more) = (store.generation, end < store.log.len());
        self.seats[reader].cursors.insert(owner, (generation, end));
        // What nobody has read yet might as well never have been signed.
        let first_read = self.seats[owner].store.read_until.max(next)..end;
        self.seats[owner].store.read_until = first_read.end.max(self.seats[owner].store.read_until);
        for entry in &self.seats[owner].store.log[first_read.start.min(end)..end] {
            let is_honest = !self.seats[owner].is_byzantine && entry.record.peer() == self.seats[owner].id();
            if is_honest {
                self.ledger.sign(&entry.record);
            }
        }
        let peer = self.members[self.seats[owner].member];
        for record in records {
            let Some(node) = &self.seats[reader].node else { return };
            if !node.is_known(&record.hash()) {
                self.pass(reader, Event::Read { owner: peer, record });
            }
        }
        if is_more {
            self.arrive_later(reader, owner);
        }
    }

    fn beat(&mut self, index: usize) {
        self.later(index, BEAT_US, Happening::Beat);
        let Some(node) = &self.seats[index].node else { return };
        let is_stuck = node.is_stuck() || (self.seats[index].lies.is_some() && self.dice.one_in(2));
        let peer = self.seats[index].id();
        let member = self.seats[index].member;
        for reader in (0..self.seats.len()).filter(|reader| *reader != index) {
            if self.source(reader, member) == index && !self.network.is_cut(reader, index) {
                self.pass(reader, Event::Beat { peer, is_stuck });
            }
        }
        self.lie(index);
        self.judge(index);
    }

    /// What a liar does besides.
    fn lie(&mut self, index: usize) {
        let Some(mut lies) = self.seats[index].lies else { return };
        if !self.is_fixed && self.dice.one_in(8) {
            lies = Lies::draw(&mut self.dice, self.seats[index].is_cautious);
            self.seats[index].lies = Some(lies);
        }
        let Some(node) = &self.seats[index].node else { return };
        let position = node.position();
        let secret = self.seats[index].secret;
        for record in lies.flood(&secret, self.terms.run, position, &mut self.dice) {
            self.seats[index].store.publish_again(record, crate::store::ALL);
        }
        for reader in 0..self.seats.len() {
            self.arrive_later(reader, index);
        }
    }

    /// Checks that others do not make an honest member keep too much.
    fn judge(&mut self, index: usize) {
        let seat = &self.seats[index];
        let Some(node) = seat.node.as_ref().filter(|_| !seat.is_byzantine) else { return };
        let Model { members, byzantine, .. } = self.schedule.model;
        // A liar may fill its quotas; an honest member needs less.
        let bound = (members as usize) * (1 << 18) + (byzantine as usize) * (5 << 19);
        self.ledger.keep(seat.id(), node.bytes_kept(), bound);
    }

    fn is_done(&self) -> bool {
        self.faults.is_over()
            && self.seats.iter().all(|seat| seat.is_byzantine || (seat.is_finished && seat.node.is_some()))
    }

    fn stall(&mut self) {
        let honest = self.seats.iter().filter(|seat| !seat.is_byzantine);
        let stalled = honest.map(|seat| (seat.id(), seat.node.as_ref().map(Node::position).unwrap_or_default()));
        self.ledger.violation = Some(Violation::Stalled(stalled.collect()));
    }
}

/// The state before the first round.
pub(crate) fn start() -> Head {
    Head { position: Position::default(), state: Digest([2; 32]), standing: Standing::new(LEARNING_RATE) }
}

/// A process before it starts.
fn seat(dice: &mut Dice, secret: Secret, member: usize) -> Seat {
    let is_slow = dice.one_in(8);
    let gains = i64::try_from(dice.below(100_001)).unwrap_or(0) - 50_000;
    Seat {
        secret,
        member,
        lies: None,
        is_cautious: false,
        is_doomed: false,
        is_byzantine: false,
        node: None,
        life: 0,
        disk: Disk { log: KeptLog::default(), saved: start() },
        writing: std::collections::VecDeque::new(),
        is_syncing: false,
        store: Store::default(),
        cursors: std::collections::BTreeMap::new(),
        wakes_at: None,
        offset: Duration::from_millis(dice.below(10_000_000)),
        gains,
        compute_us: dice.range(20_000, 100_000) * if is_slow { 10 } else { 1 },
        is_reproducible: !dice.one_in(10),
        is_finished: false,
        computing: None,
        is_evaluating: false,
    }
}
