//! Carries out what a node wants, as its driver, disk, database and functions would.

use std::sync::Arc;

use skein_protocol::decision::Decision;
use skein_protocol::node::{Action, Application, Contribution, Entry, Event, Found, Served, Want};
use skein_protocol::record::payload::{Body, Evaluation, Sum};
use skein_protocol::record::{Kind, Position, Record, Slot, Statement, Unverified};
use skein_protocol::standing::Head;
use skein_types::{Digest, PeerId};

use super::{Happening, SAMPLES, World};
use crate::lie::{FORGED_STATE, Proposes, Serves, Shown};
use crate::store::{ALL, Readers};
use crate::{Mutant, VALIDATION};

/// How long a disk takes to keep what waits for it, in microseconds.
const SYNC_US: [u64; 2] = [200, 2_000];
/// How long it takes to change the state, and to keep it on disk.
const APPLY_US: [u64; 2] = [500, 5_000];
const SAVE_US: [u64; 2] = [1_000, 400_000];
/// When a request is given up that somebody never answers.
const GIVE_UP_US: u64 = 5_000_000;

/// What one holder answers.
enum Reply {
    Found(Found),
    Missing,
    Unreachable,
    /// It keeps the connection open.
    Dribbles,
    Wrong,
}

impl World {
    pub(crate) fn carry_out(&mut self, seat: usize, actions: Vec<Action>) {
        let life = self.seats[seat].life;
        for action in actions {
            // It may be killed in the middle.
            if self.seats[seat].life == life {
                self.trace(seat, "does", &action);
                self.act(seat, action);
            }
        }
    }

    fn act(&mut self, seat: usize, action: Action) {
        match action {
            Action::Sign(statement) => self.sign(seat, statement),
            Action::Keep(entry) => self.write(seat, entry),
            Action::Publish(record) => self.publish(seat, record),
            Action::Serve(served) => {
                if let Served::Decision(decision) = &served
                    && !self.seats[seat].is_byzantine
                {
                    self.ledger.decide(decision.position, decision.certificate.value);
                }
                self.seats[seat].store.serve(served);
            }
            Action::Compute { position, is_evaluated } => self.compute(seat, position, is_evaluated),
            Action::Fetch(want, from) => {
                let after = self.fetching(seat, &want, &from);
                let never = from.iter().all(|peer| self.dribbles(seat, &want, *peer));
                self.later(seat, if never { GIVE_UP_US } else { after }, Happening::Answered(want, from));
            }
            Action::Apply(application) => self.apply(seat, &application),
            Action::Save(head) => {
                self.seats[seat].store.relabel(&head);
                self.save(seat, *head);
            }
            Action::Reread(owners) => {
                for owner in owners {
                    let member = self.members.binary_search(&owner).expect("a member");
                    let owner = self.source(seat, member);
                    self.seats[seat].cursors.remove(&owner);
                    self.arrive_later(seat, owner);
                }
            }
            Action::Forget(before) => self.seats[seat].store.forget(before),
            Action::Report(report) => {
                if !self.seats[seat].is_byzantine {
                    self.ledger.report(&report);
                }
            }
            Action::Finish => self.seats[seat].is_finished = true,
            Action::Cancel(_) => {}
        }
    }

    /// How long a request takes: to the first that is asked and back, and as long as its size needs.
    fn fetching(&mut self, reader: usize, want: &Want, from: &[PeerId]) -> u64 {
        let first = from.first().and_then(|peer| self.members.binary_search(peer).ok());
        let holder = first.map_or(reader, |member| self.source(reader, member));
        let way = self.network.latency(&mut self.dice, reader, holder);
        let transfer = match want {
            Want::State(..) => self.dice.range(5_000, 1_500_000),
            Want::Values(..) => self.dice.range(500, 30_000),
            Want::Announcement(..) | Want::Selection(..) | Want::Decision(_) => 0,
        };
        2 * way + transfer
    }

    fn sign(&mut self, seat: usize, statement: Statement) {
        let record = Arc::new(statement.sign(&self.seats[seat].secret));
        if let (Kind::Precommit, Body::Vote(Some(_))) = (record.slot().kind, record.body())
            && !self.seats[seat].is_byzantine
        {
            self.silence(seat, record.slot().view);
        }
        if record.slot().kind.is_signed_once() {
            if self.schedule.mutant == Some(Mutant::PublishedBeforeKept) {
                self.publish(seat, record.clone());
            }
            self.write(seat, Entry::Signed(record));
        } else {
            self.pass(seat, Event::Signed(record));
        }
    }

    /// Keeps something on disk, together with what is written meanwhile.
    fn write(&mut self, seat: usize, entry: Entry) {
        let is_vote = matches!(&entry, Entry::Signed(record) if matches!(record.body(), Body::Vote(_)));
        self.seats[seat].writing.push_back(entry);
        if is_vote && self.seats[seat].is_doomed {
            self.doom(seat);
            return;
        }
        if !self.seats[seat].is_syncing {
            self.seats[seat].is_syncing = true;
            let count = self.seats[seat].writing.len();
            let after = self.dice.range(SYNC_US[0], SYNC_US[1]);
            self.later(seat, after, Happening::Synced(count));
        }
    }

    pub(crate) fn synced(&mut self, seat: usize, count: usize) {
        let records = self.seats[seat].sync(count);
        let waiting = self.seats[seat].writing.len();
        self.seats[seat].is_syncing = waiting > 0;
        if waiting > 0 {
            let after = self.dice.range(SYNC_US[0], SYNC_US[1]);
            self.later(seat, after, Happening::Synced(waiting));
        }
        for record in records {
            self.pass(seat, Event::Signed(record));
        }
    }

    /// Publishes a record, or what a liar makes of it.
    fn publish(&mut self, seat: usize, record: Arc<Record>) {
        let is_own = record.peer() == self.seats[seat].id();
        if !self.seats[seat].is_byzantine {
            self.ledger.publish(&record);
        }
        let Some(lies) = self.seats[seat].lies.filter(|_| is_own) else {
            return self.show(seat, record, ALL);
        };
        let slot = *record.slot();
        if let Body::Vote(_) = record.body()
            && self.splits.contains(&(slot.position, slot.view))
        {
            // It has voted for both.
            return;
        }
        let is_split = lies.proposes != Proposes::Plainly && record.slot().kind == Kind::Proposal;
        let minimum = self.terms.model.answering() as usize;
        let shown = lies.publish(&self.seats[seat].secret, record, minimum);
        if is_split {
            self.split(seat, slot, &shown);
        }
        for Shown { record, to, after } in shown {
            // Its readers check the signatures inside.
            let is_sound = Unverified::decode(&record.encode()).and_then(|record| record.verify(&self.keys)).is_ok();
            if is_sound {
                self.later(seat, after, Happening::Publish(record, to));
            }
        }
    }

    /// The liar that proposes, and all that do not mind being proven, vote for what it shows: for each of two selections
    /// before those who were shown it.
    fn split(&mut self, proposer: usize, proposal: Slot, shown: &[Shown]) {
        let values = shown.iter().filter_map(|shown| match shown.record.body() {
            Body::Proposal(proposal) => Some((proposal.selection.digest(), shown.to)),
            _ => None,
        });
        let values: Vec<(Digest, Readers)> = values.collect();
        self.splits.insert((proposal.position, proposal.view));
        let seats = self.seats.iter().enumerate();
        let bold = seats.filter(|(index, seat)| seat.lies.is_some() && (!seat.is_cautious || *index == proposer));
        let liars: Vec<usize> = bold.map(|(index, _)| index).collect();
        for seat in liars {
            let secret = self.seats[seat].secret;
            for (kind, after) in [(Kind::Prevote, 2_000), (Kind::Precommit, 10_000)] {
                for (value, to) in &values {
                    let slot = Slot { kind, peer: self.seats[seat].id(), ..proposal };
                    let record = Arc::new(Statement { slot, body: Body::Vote(Some(*value)) }.sign(&secret));
                    self.later(seat, after, Happening::Publish(record, *to));
                }
            }
        }
    }

    /// Appends a record to the log of a seat, for these readers.
    pub(crate) fn show(&mut self, seat: usize, record: Arc<Record>, to: Readers) {
        if let Body::Announcement(_) | Body::Opening(_) = record.body() {
            self.seats[seat].store.announcements.insert(record.hash(), record.clone());
        }
        if !self.seats[seat].store.publish(record, to) {
            return;
        }
        for reader in (0..self.seats.len()).filter(|reader| *reader != seat) {
            if to & (1 << reader) != 0 {
                self.arrive_later(reader, seat);
            }
        }
    }

    fn compute(&mut self, seat: usize, position: Position, is_evaluated: bool) {
        let nonce = if self.seats[seat].is_reproducible { 0 } else { self.dice.below(u64::MAX) };
        let Some(head) = self.seats[seat].store.head.clone() else { return };
        let parts = [&head.state.0[..], &self.seats[seat].id().0, &position.round.to_le_bytes(), &nonce.to_le_bytes()];
        let values = digest("skein 2026-11 values of a simulated contribution", &parts);
        self.seats[seat].computing = Some(position);
        self.seats[seat].is_evaluating = is_evaluated;
        let usual = self.seats[seat].compute_us;
        let after = self.dice.range(usual / 2, usual);
        self.later(seat, after, Happening::Computed(position, values));
    }

    pub(crate) fn computed(&mut self, seat: usize, position: Position, values: Digest) {
        if self.seats[seat].computing != Some(position) {
            return;
        }
        self.seats[seat].store.values.insert(values, (values, position));
        let loss = 1.0 / position.round as f64;
        let sums = [("loss".to_owned(), Sum { sum: loss * VALIDATION as f64, weight: VALIDATION as f64 })].into();
        let evaluation = self.seats[seat].is_evaluating.then_some(Evaluation { samples: VALIDATION, sums });
        let contribution = Contribution { values, samples: SAMPLES, loss, evaluation };
        self.pass(seat, Event::Computed(position, contribution));
    }

    fn apply(&mut self, seat: usize, application: &Application) {
        let Application { position, announcements, byzantine, standing } = application;
        let state = self.seats[seat].store.head.as_ref().map(|head| head.state).unwrap_or_default();
        let rate = standing.progress.learning_rate.to_le_bytes();
        let mut parts = vec![state.0.to_vec(), rate.to_vec(), byzantine.to_le_bytes().to_vec()];
        for (peer, announcement) in announcements {
            let (values, _) = self.seats[seat].store.values.get(&announcement.values).copied().unwrap_or_default();
            parts.extend([peer.0.to_vec(), values.0.to_vec(), announcement.samples.to_le_bytes().to_vec()]);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let state = digest("skein 2026-11 state of a simulated member", &parts);
        let head = Head { position: *position, state, standing: standing.clone() };
        let is_slow = self.dice.one_in(20);
        let after = self.dice.range(APPLY_US[0], APPLY_US[1]) * if is_slow { 200 } else { 1 };
        self.later(seat, after, Happening::Applied(head));
    }

    pub(crate) fn applied(&mut self, seat: usize, head: Head) {
        self.seats[seat].store.set_head(head.clone());
        self.has(seat, &head);
        self.save(seat, head.clone());
        self.pass(seat, Event::Applied(head.position, head.state));
    }

    fn save(&mut self, seat: usize, head: Head) {
        let after = self.dice.range(SAVE_US[0], SAVE_US[1]);
        self.later(seat, after, Happening::Saved(head));
    }

    /// A member has a state.
    fn has(&mut self, seat: usize, head: &Head) {
        if self.seats[seat].is_byzantine {
            return;
        }
        let seats = &self.seats;
        let is_honest = |peer: &PeerId| seats.iter().any(|seat| seat.id() == *peer && !seat.is_byzantine);
        self.ledger.reach(seats[seat].id(), head, is_honest);
        self.reach(head.position.round);
    }

    fn dribbles(&self, reader: usize, want: &Want, peer: PeerId) -> bool {
        matches!(self.ask(reader, want, peer), Reply::Dribbles)
    }

    /// What came of a request to these members.
    pub(crate) fn answered(&mut self, reader: usize, want: Want, from: &[PeerId]) {
        // A state that comes too late must not take the place of a newer one.
        let is_wanted = self.seats[reader].node.as_ref().is_some_and(|node| node.wants(&want));
        if matches!(want, Want::State(..)) && !is_wanted {
            return;
        }
        let mut found = Found::Missing;
        let is_values = matches!(want, Want::Values(..));
        for peer in from {
            match self.ask(reader, &want, *peer) {
                Reply::Found(it) => {
                    found = it;
                    break;
                }
                Reply::Missing => {}
                Reply::Unreachable | Reply::Dribbles => found = Found::Unreachable,
                // Unless nobody checks.
                Reply::Wrong if self.schedule.mutant == Some(Mutant::UnverifiedValues) && is_values => {
                    found = Found::Values;
                    break;
                }
                Reply::Wrong => found = Found::Wrong,
            }
        }
        match (&want, &found) {
            (Want::Values(position, _, values), Found::Values) => {
                let is_wrong = self.schedule.mutant == Some(Mutant::UnverifiedValues)
                    && self.is_served_wrongly(reader, &want, from);
                let held = if is_wrong { Digest([8; 32]) } else { *values };
                self.seats[reader].store.values.insert(*values, (held, *position));
            }
            (Want::State(position, check), Found::State(standing)) => {
                let head = Head { position: *position, state: check.state, standing: standing.clone() };
                self.seats[reader].store.set_head(head.clone());
                self.has(reader, &head);
            }
            _ => {}
        }
        self.pass(reader, Event::Fetched(want, found));
    }

    /// Whether the first of these members that answers has wrong values.
    fn is_served_wrongly(&self, reader: usize, want: &Want, from: &[PeerId]) -> bool {
        let replies = from.iter().map(|peer| self.ask(reader, want, *peer));
        replies.into_iter().find_map(|reply| match reply {
            Reply::Wrong => Some(true),
            Reply::Found(_) => Some(false),
            _ => None,
        }) == Some(true)
    }

    /// What a member answers to one reader.
    fn ask(&self, reader: usize, want: &Want, peer: PeerId) -> Reply {
        let Ok(member) = self.members.binary_search(&peer) else { return Reply::Missing };
        let holder = self.source(reader, member);
        if self.network.is_cut(reader, holder) {
            return Reply::Unreachable;
        }
        let store = &self.seats[holder].store;
        let lies = self.seats[holder].lies;
        let found = match want {
            Want::Announcement(_, _, hash) => store.announcements.get(hash).cloned().map(Found::Announcement),
            Want::Selection(_, value) => {
                store.selections.get(value).map(|(_, selection)| Found::Selection(selection.clone()))
            }
            Want::Decision(position) => {
                let decision = store.decisions.get(position).cloned();
                match lies.filter(|lies| lies.forges).zip(decision.clone()) {
                    None => decision.map(Found::Decision),
                    Some((lies, decision)) => {
                        let forged = lies.forge(&decision, self.terms.model.answering() as usize);
                        // The reader checks the signatures.
                        let checked = Decision::decode(&forged.encode(), self.terms.run, &self.keys);
                        checked.ok().map(|decision| Found::Decision(Arc::new(decision)))
                    }
                }
            }
            Want::State(_, check) if lies.is_none_or(|lies| !lies.forges) => {
                store.state(*check).map(|head| Found::State(head.standing.clone()))
            }
            // The hash of what it made up is that of its check.
            Want::State(_, check) if check.state == FORGED_STATE => {
                let standing = store.standing(check.standing);
                standing.map(|standing| Found::State(standing.clone()))
            }
            Want::State(..) => return Reply::Wrong,
            Want::Values(_, owner, values) => return self.ask_values(reader, holder, *owner, *values),
        };
        found.map_or(Reply::Missing, Reply::Found)
    }

    /// What a member answers to a request for values, which the reader verifies.
    fn ask_values(&self, reader: usize, holder: usize, owner: PeerId, values: Digest) -> Reply {
        let seat = &self.seats[holder];
        let is_held = seat.store.values.get(&values).is_some_and(|(held, _)| *held == values);
        let Some(lies) = seat.lies else {
            return if is_held { Reply::Found(Found::Values) } else { Reply::Missing };
        };
        let is_shown = |readers: Readers| readers & (1 << reader) != 0;
        let is_owner = seat.id() == owner;
        match lies.serves {
            Serves::Not(readers) if is_shown(readers) => Reply::Missing,
            Serves::Dribbling(readers) if is_shown(readers) => Reply::Dribbles,
            Serves::Wrongly(readers) if is_shown(readers) => {
                if is_owner {
                    Reply::Wrong
                } else {
                    Reply::Missing
                }
            }
            // It has whatever it announced.
            _ if is_owner || is_held => Reply::Found(Found::Values),
            _ => Reply::Missing,
        }
    }
}

fn digest(context: &'static str, parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}
