//! Many schedules on all processors: those of every model, and a few of a large one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::{Counts, Model, Mutant, Outcome, Schedule, Violation, Weather, simulate};

/// Rounds of each schedule.
pub const ROUNDS: u64 = 20;
/// The models that schedules are drawn for in turn.
pub const MODELS: [Model; 6] = [
    Model { members: 4, byzantine: 1, crashed: 0 },
    Model { members: 4, byzantine: 0, crashed: 1 },
    Model { members: 5, byzantine: 1, crashed: 0 },
    Model { members: 7, byzantine: 2, crashed: 0 },
    Model { members: 7, byzantine: 1, crashed: 1 },
    Model { members: 10, byzantine: 3, crashed: 0 },
];
/// The large model: one more schedule of it for so many others.
pub const LARGE: Model = Model { members: 64, byzantine: 21, crashed: 0 };
const LARGE_EVERY: u64 = 500;

/// The schedules of `seeds` seeds from `from` on, and of the large model. The long ones come first.
pub fn schedules(seeds: u64, from: u64, mutant: Option<Mutant>) -> Vec<Schedule> {
    let schedule = |seed, model| Schedule { seed, model, rounds: ROUNDS, weather: Weather::Foul, mutant };
    let large = (0..seeds / LARGE_EVERY).map(|index| schedule(from + index, LARGE));
    let others = (from..from + seeds).map(|seed| schedule(seed, MODELS[(seed % MODELS.len() as u64) as usize]));
    large.chain(others).collect()
}

/// What came of the schedules of one model.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// The model that its schedules have.
    pub model: Model,
    /// Number of schedules that were simulated.
    pub schedules: u64,
    /// What happened in all of them together.
    pub counts: Counts,
}

/// What came of many schedules.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By model, in the order in which they were first simulated.
    pub tallies: Vec<Tally>,
    /// Schedules that broke an invariant, by seed.
    pub failures: Vec<Outcome>,
}

/// Simulates schedules on all processors, or until `failures_max` of them have broken an invariant.
pub fn run(schedules: &[Schedule], failures_max: usize) -> Report {
    let next = AtomicUsize::new(0);
    let report = Mutex::new(Report::default());
    let work = || {
        while let Some(schedule) = schedules.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = simulate_caught(*schedule);
            let mut report = report.lock().expect("no worker panics with the report");
            report.add(outcome);
            if report.failures.len() >= failures_max {
                next.store(schedules.len(), Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut report = report.into_inner().expect("no worker panics with the report");
    report.failures.sort_by_key(|outcome| outcome.schedule.seed);
    report
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        let model = outcome.schedule.model;
        let known = self.tallies.iter_mut().find(|tally| tally.model == model);
        match known {
            Some(tally) => {
                tally.schedules += 1;
                tally.counts.add(&outcome.counts);
            }
            None => self.tallies.push(Tally { model, schedules: 1, counts: outcome.counts }),
        }
        if outcome.violation.is_some() {
            self.failures.push(outcome);
        }
    }
}

/// A failed assertion of a node is a violation like any other.
fn simulate_caught(schedule: Schedule) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| simulate(schedule))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let violation = Violation::Panicked(text.unwrap_or_default());
        Outcome { schedule, counts: Counts::default(), violation: Some(violation) }
    })
}

/// Records and bytes that a member publishes in a round, in fair weather.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Number of members of the run.
    pub members: u32,
    /// Records a round and member, relays included.
    pub records: f64,
    /// Bytes of these records on the wire.
    pub bytes: f64,
}

/// Measures the traffic among so many members, of which none fails.
pub fn traffic(members: u32) -> Traffic {
    let model = Model { members, byzantine: (members - 1) / 3, crashed: 0 };
    let schedule = Schedule { seed: 1, model, rounds: ROUNDS, weather: Weather::Fair, mutant: None };
    let Counts { records, bytes, rounds, .. } = simulate(schedule).counts;
    let each = |count: u64| count as f64 / (rounds * u64::from(members)) as f64;
    Traffic { members, records: each(records), bytes: each(bytes) }
}

/// What the traffic should be: an announcement, two votes and a check of each member, and a proposal of one of them, which
/// names the announcements of all. Every third round has an evaluation with one metric.
pub fn expected_traffic(members: u32) -> Traffic {
    use skein_protocol::record::HEADER_BYTES;
    let header = HEADER_BYTES as f64;
    let members_f = f64::from(members);
    // State, values, samples and loss; samples, a count, and the name, sum and weight of the metric `loss`.
    let evaluation = (8 + 1 + 1 + 4 + 16) as f64;
    let evaluated = (ROUNDS - 1) / 3;
    let announcement = header + 80.0 + evaluation * evaluated as f64 / ROUNDS as f64;
    let vote = header + 32.0;
    let check = header + 64.0;
    let proposal = header + 8.0 + 64.0 * members_f;
    let bytes = announcement + 2.0 * vote + check + proposal / members_f;
    Traffic { members, records: 4.0 + 1.0 / members_f, bytes }
}
