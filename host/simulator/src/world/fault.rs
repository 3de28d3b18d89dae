//! The faults of a schedule: what breaks, in which round, and for how long.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Happening, World, start};
use crate::Schedule;
use crate::dice::Dice;
use crate::lie::Lies;
use crate::network::Trouble;
use crate::seat::Disk;
use crate::store::ALL;
use skein_protocol::agreement::View;
use skein_protocol::node::{Event, KeptLog, Node};
use skein_protocol::record::payload::{Body, ProposedSelection};
use skein_protocol::record::{Kind, Position, Slot, Statement};

/// A fault of an honest member or of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed, and starts again later.
    Crash,
    /// The database comes back empty; the process goes on.
    LoseStore,
    /// Process and database are gone: what the disk kept is all that is left.
    PowerCut,
    /// The same for all members at once.
    PowerCutForAll,
    /// The disk is gone too: the member begins with nothing.
    LoseDisk,
    /// The network falls into two parts.
    Partition,
    /// Some links carry nothing in one direction.
    OneWay,
    /// The member reads and is read late.
    Slow,
    /// Messages get lost, and are sent again.
    Lossy,
    /// The member computes for very long.
    Busy,
    /// The process is killed while it writes a vote, which is lost.
    TornWrite,
    /// The member that precommits next is read by nobody for a while, and may decide alone.
    SilentDecision,
}

const FAULTS: [Fault; 12] = [
    Fault::Crash,
    Fault::LoseStore,
    Fault::PowerCut,
    Fault::PowerCutForAll,
    Fault::LoseDisk,
    Fault::Partition,
    Fault::OneWay,
    Fault::Slow,
    Fault::Lossy,
    Fault::Busy,
    Fault::TornWrite,
    Fault::SilentDecision,
];

/// The faults that are still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Round and fault, the last first.
    planned: Vec<(u64, Fault)>,
    /// Honest members that are down from the first round to the second.
    down: Vec<(usize, u64, u64)>,
    pub(crate) open: BTreeSet<usize>,
    number: usize,
    /// Members that are to be silenced when they decide.
    silences: u32,
}

impl Faults {
    /// Draws faults for all rounds, at least one in three. `honest` are the members that do not lie.
    pub(crate) fn plan(dice: &mut Dice, schedule: &Schedule, honest: &[usize]) -> Faults {
        let mut planned = Vec::new();
        let mut round = dice.range(1, 3);
        while round < schedule.rounds {
            if let Some(fault) = dice.pick(&FAULTS) {
                planned.push((round, fault));
            }
            round += dice.range(1, 3);
        }
        planned.reverse();
        // So many are down in at least half of the rounds.
        let down = honest.iter().take(schedule.model.crashed as usize).map(|member| {
            let from = dice.range(1, schedule.rounds / 4);
            (*member, from, from + schedule.rounds / 2)
        });
        let down = down.collect();
        Faults { planned, down, open: BTreeSet::new(), number: 0, silences: 0 }
    }

    /// These faults, by round.
    pub(crate) fn of(faults: &[(u64, Fault)]) -> Faults {
        let mut planned = faults.to_vec();
        planned.sort_by_key(|(round, _)| std::cmp::Reverse(*round));
        Faults { planned, ..Faults::default() }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.planned.is_empty() && self.open.is_empty() && self.down.is_empty()
    }
}

impl World {
    /// Begins the faults of the rounds that an honest member has reached.
    pub(crate) fn reach(&mut self, round: u64) {
        if round <= self.round {
            return;
        }
        self.round = round;
        self.take_down(round);
        while let Some((_, fault)) = self.faults.planned.pop_if(|(of, _)| *of <= round) {
            self.begin(fault);
        }
    }

    /// Stops the members that are to be down in this round, and starts those that are not any more.
    fn take_down(&mut self, round: u64) {
        for (member, from, to) in self.faults.down.clone() {
            let seat = self.seats_of[member][0];
            if round == from {
                self.crash(seat);
                self.note_fault();
            } else if round >= to {
                self.faults.down.retain(|(other, ..)| *other != member);
                self.later(seat, 1, Happening::Restart);
                self.note_fault();
            }
        }
    }

    fn note_fault(&mut self) {
        self.ledger.counts.faults += 1;
        self.last_fault_us = self.now;
    }

    fn is_down(&self, seat: usize) -> bool {
        let member = self.seats[seat].member;
        self.faults.down.iter().any(|(down, from, _)| *down == member && *from <= self.round)
    }

    fn begin(&mut self, fault: Fault) {
        let honest: Vec<usize> = (0..self.seats.len()).filter(|seat| !self.seats[*seat].is_byzantine).collect();
        let Some(seat) = self.dice.pick(&honest) else { return };
        self.note_fault();
        let number = self.faults.number;
        self.faults.number += 1;
        let lasts = self.dice.range(50_000, 8_000_000);
        let restart = |world: &mut World, seat: usize, after: u64| {
            if !world.is_down(seat) {
                world.later(seat, after, Happening::Restart);
            }
        };
        match fault {
            Fault::Crash => {
                self.crash(seat);
                restart(self, seat, lasts);
            }
            Fault::LoseStore => self.lose_store(seat),
            Fault::PowerCut => {
                self.crash(seat);
                self.seats[seat].store.lose();
                restart(self, seat, lasts);
            }
            Fault::PowerCutForAll => {
                for seat in honest {
                    let after = lasts + self.dice.below(500_000);
                    self.crash(seat);
                    self.seats[seat].store.lose();
                    restart(self, seat, after);
                }
            }
            Fault::LoseDisk => {
                // A member that lost its log is silent for some rounds, so it counts as crashed.
                let is_silent = |seat: &&usize| self.seats[**seat].node.as_ref().is_none_or(Node::is_silent);
                let silent = honest.iter().filter(is_silent).count() + self.faults.down.len();
                if silent >= self.schedule.model.crashed as usize {
                    return;
                }
                self.crash(seat);
                self.seats[seat].store.lose();
                self.seats[seat].disk = Disk { log: KeptLog::default(), saved: start() };
                restart(self, seat, lasts);
            }
            Fault::Busy => self.seats[seat].compute_us *= 4,
            Fault::TornWrite => self.seats[seat].is_doomed = true,
            Fault::SilentDecision => self.faults.silences += 1,
            Fault::Partition | Fault::OneWay | Fault::Slow | Fault::Lossy => {
                let (trouble, links) = self.links(fault, seat);
                self.network.trouble(number, trouble, links);
                self.faults.open.insert(number);
                self.later(seat, lasts, Happening::Heal(number));
            }
        }
    }

    /// Kills a process that writes a vote: nothing of what it is writing is kept.
    pub(crate) fn doom(&mut self, seat: usize) {
        self.seats[seat].is_doomed = false;
        self.seats[seat].writing.clear();
        self.crash(seat);
        self.last_fault_us = self.now;
        let after = self.dice.range(50_000, 3_000_000);
        if !self.is_down(seat) {
            self.later(seat, after, Happening::Restart);
        }
    }

    /// A member precommits: perhaps nobody reads it for a while, and a liar proposes something else next.
    pub(crate) fn silence(&mut self, seat: usize, view: View) {
        let Some(node) = self.seats[seat].node.as_ref().filter(|_| self.faults.silences > 0) else { return };
        let position = node.position();
        let next = node.proposer(view + 1);
        let mut liars = (0..self.seats.len()).filter(|liar| self.seats[*liar].lies.is_some());
        let liar = liars.find(|liar| self.seats[*liar].id() == next);
        if let Some(liar) = liar {
            self.overturn(liar, position, view);
        } else if self.seats.iter().any(|seat| seat.lies.is_some()) {
            return;
        }
        self.faults.silences -= 1;
        let number = self.faults.number;
        self.faults.number += 1;
        let links = (0..self.seats.len()).filter(|reader| *reader != seat).map(|reader| (reader, seat)).collect();
        self.network.trouble(number, Trouble::Cut, links);
        self.faults.open.insert(number);
        self.last_fault_us = self.now;
        let after = self.dice.range(2_000_000, 8_000_000);
        self.later(seat, after, Happening::Heal(number));
    }

    /// A liar pushes the others into the next view, where it proposes another selection, and votes for it.
    fn overturn(&mut self, liar: usize, position: Position, view: View) {
        let lies = self.seats[liar].lies.map(Lies::overturning);
        self.seats[liar].lies = lies;
        let minimum = self.terms.model.answering() as usize;
        let known = self.seats[liar].store.selections.values().find(|(of, _)| *of == position);
        let Some(mut selection) = known.map(|(_, selection)| selection.clone()) else { return };
        if selection.announcements.len() <= minimum {
            return;
        }
        selection.announcements.remove(0);
        selection.view = view + 1;
        let value = Some(selection.digest());
        let proposal = Body::Proposal(ProposedSelection { selection, earlier: None });
        let said = [
            (Kind::Precommit, view, Body::Vote(None)),
            (Kind::Proposal, view + 1, proposal),
            (Kind::Prevote, view + 1, Body::Vote(value)),
            (Kind::Precommit, view + 1, Body::Vote(value)),
        ];
        self.splits.extend([(position, view), (position, view + 1)]);
        let secret = self.seats[liar].secret;
        for (kind, view, body) in said {
            let slot = Slot { run: self.terms.run, position, view, kind, peer: self.seats[liar].id() };
            let record = Arc::new(Statement { slot, body }.sign(&secret));
            self.later(liar, 1, Happening::Publish(record, ALL));
        }
    }

    /// Draws the links of a fault of the network.
    fn links(&mut self, fault: Fault, seat: usize) -> (Trouble, Vec<(usize, usize)>) {
        let seats = self.seats.len();
        let pairs = (0..seats).flat_map(|reader| (0..seats).map(move |owner| (reader, owner)));
        let pairs = pairs.filter(|(reader, owner)| reader != owner);
        match fault {
            Fault::Partition => {
                let side: Vec<bool> = (0..seats).map(|_| self.dice.one_in(2)).collect();
                (Trouble::Cut, pairs.filter(|(reader, owner)| side[*reader] != side[*owner]).collect())
            }
            Fault::OneWay => (Trouble::Cut, pairs.filter(|_| self.dice.one_in(3)).collect()),
            Fault::Slow => {
                let by = self.dice.range(50_000, 3_000_000);
                (Trouble::Slow(by), pairs.filter(|(reader, owner)| *reader == seat || *owner == seat).collect())
            }
            _ => (Trouble::Lossy, pairs.collect()),
        }
    }

    /// Ends a fault of the network: everybody reads on.
    pub(crate) fn heal(&mut self, fault: usize) {
        self.network.heal(fault);
        self.faults.open.remove(&fault);
        self.last_fault_us = self.now;
        for reader in 0..self.seats.len() {
            self.read_all(reader);
        }
    }

    /// Kills a process. Some of what it was writing is on disk.
    pub(crate) fn crash(&mut self, index: usize) {
        let written = self.dice.below(self.seats[index].writing.len() as u64 + 1) as usize;
        self.seats[index].sync(written);
        let seat = &mut self.seats[index];
        seat.writing.clear();
        seat.is_syncing = false;
        seat.node = None;
        seat.life += 1;
        seat.computing = None;
    }

    /// The database comes back empty while the process goes on, which restores the state that it knows.
    fn lose_store(&mut self, index: usize) {
        let head = self.seats[index].node.as_ref().map(Node::head).cloned();
        self.seats[index].store.lose();
        let Some(head) = head else { return };
        self.seats[index].store.set_head(head.clone());
        self.pass(index, Event::Restored(head));
        self.show_all(index);
    }

    /// Lets everybody read this seat.
    fn show_all(&mut self, index: usize) {
        debug_assert!(ALL & (1 << index) != 0, "a bit for each seat");
        for reader in (0..self.seats.len()).filter(|reader| *reader != index) {
            self.arrive_later(reader, index);
        }
    }
}
