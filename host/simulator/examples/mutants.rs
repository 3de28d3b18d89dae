//! Looks for a schedule that finds each mutant: the protocol broken in one way. Prints a line for each with the number of
//! schedules that were tried and, if one was found, its seed, its model and the invariant that broke.

use std::process::ExitCode;

use skein_simulator::campaign::{run, schedules};
use skein_simulator::{Model, Mutant};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seeds)), Some(Ok(from))) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: mutants SEEDS FROM");
        return ExitCode::FAILURE;
    };
    // A mutant may break the assertions of nodes, which is one way to be found.
    std::panic::set_hook(Box::new(|_| {}));
    let mut is_found_all = true;
    for mutant in Mutant::ALL {
        let all = schedules(seeds, from, Some(mutant));
        let small: Vec<_> = all.into_iter().filter(|schedule| schedule.model.members < 64).collect();
        let report = run(&small, 1);
        let tried: u64 = report.tallies.iter().map(|tally| tally.schedules).sum();
        let found = report.failures.first().and_then(|outcome| Some((outcome.schedule, outcome.violation.as_ref()?)));
        is_found_all &= found.is_some();
        match found {
            Some((schedule, violation)) => {
                let Model { members, byzantine, crashed } = schedule.model;
                println!("{mutant}\t{tried}\t{}\t{members},{byzantine},{crashed}\t{violation}", schedule.seed);
            }
            None => println!("{mutant}\t{tried}"),
        }
    }
    if is_found_all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
