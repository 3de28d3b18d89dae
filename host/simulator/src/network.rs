//! Links between readers and the databases that they read.

use std::collections::BTreeMap;

use crate::dice::Dice;

/// Latency of a link, in microseconds.
const LATENCY_US: [u64; 2] = [300, 3_000];

/// What a fault does to links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing gets through.
    Cut,
    /// Everything takes so much longer, in microseconds.
    Slow(u64),
    /// One message in three has to be sent again, and again.
    Lossy,
}

/// The links that are in trouble: by fault, then by reader and owner.
#[derive(Debug, Default)]
pub(crate) struct Network {
    faults: BTreeMap<usize, (Trouble, Vec<(usize, usize)>)>,
    links: BTreeMap<(usize, usize), Vec<Trouble>>,
}

impl Network {
    /// Begins a fault of these links.
    pub(crate) fn trouble(&mut self, fault: usize, trouble: Trouble, links: Vec<(usize, usize)>) {
        for link in &links {
            self.links.entry(*link).or_default().push(trouble);
        }
        self.faults.insert(fault, (trouble, links));
    }

    /// Ends a fault: its links are as they would be without it.
    pub(crate) fn heal(&mut self, fault: usize) {
        let Some((trouble, links)) = self.faults.remove(&fault) else { return };
        for link in links {
            let Some(troubles) = self.links.get_mut(&link) else { continue };
            if let Some(index) = troubles.iter().position(|other| *other == trouble) {
                troubles.swap_remove(index);
            }
            if troubles.is_empty() {
                self.links.remove(&link);
            }
        }
    }

    pub(crate) fn is_cut(&self, reader: usize, owner: usize) -> bool {
        !self.links.is_empty()
            && self.links.get(&(reader, owner)).is_some_and(|troubles| troubles.contains(&Trouble::Cut))
    }

    /// How long a message takes, in microseconds.
    pub(crate) fn latency(&self, dice: &mut Dice, reader: usize, owner: usize) -> u64 {
        let mut latency = dice.range(LATENCY_US[0], LATENCY_US[1]);
        if self.links.is_empty() {
            return latency;
        }
        for trouble in self.links.get(&(reader, owner)).into_iter().flatten() {
            match trouble {
                Trouble::Cut => {}
                Trouble::Slow(by) => latency += by,
                Trouble::Lossy => {
                    while dice.one_in(3) {
                        latency += 200_000;
                    }
                }
            }
        }
        latency
    }
}
