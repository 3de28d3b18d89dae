//! Hostile components, one after the other in a process that calls functions as a host does, whose memory is bounded.
//!
//! Each case runs three times. After each the process lives, the error names the function and the limit, and a good call
//! returns its result; at the end the process has not grown.

#[expect(dead_code, reason = "the tests of the program bring more graphs")]
#[path = "../common/brought.rs"]
mod brought;
#[expect(dead_code, reason = "the tests of skein-graph write more kinds of files")]
#[path = "../../../graph/tests/derive/build.rs"]
mod build;
#[path = "../assembled/components.rs"]
mod components;
#[path = "../common/engines.rs"]
mod found;
#[path = "../common/network.rs"]
mod shared;

mod binary;
mod cache;
mod cgroup;
mod compiling;
mod driven;
mod driver;
mod endings;
mod engines;
mod guests;
mod loads;
mod memory;
mod pointers;
mod protocol;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

/// The tests by name.
const TESTS: [(&str, fn()); 16] = [
    ("memory_that_a_guest_causes_is_the_guests", memory::counts),
    ("names_of_64_mib_are_bounded", memory::names_are_bounded),
    ("memories_and_tables_that_grow_without_end", memory::growing),
    ("more_memories_than_a_call_may_have", memory::many_memories),
    ("sockets_take_no_file_of_the_host", memory::sockets),
    ("results_that_are_kept_count_on_every_engine", engines::hoarding),
    ("a_batch_of_100_000_is_refused_by_every_engine", engines::large_batch),
    ("an_engine_stops_with_its_call", engines::stopping),
    ("graphs_that_a_function_brings", loads::all),
    ("programs_that_end_or_never_end", endings::all),
    ("a_pointer_past_the_end_in_every_import", pointers::every_import),
    ("large_components", compiling::large),
    ("compiling_without_end", compiling::endless),
    ("a_compiling_child_that_says_more_than_anybody_reads", compiling::talkative),
    ("a_compiling_child_has_limits_and_no_environment", compiling::confined),
    ("one_changed_bit_in_the_cache", cache::one_bit),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [protocol::DRIVEN] => {
            driven::drive();
            ExitCode::SUCCESS
        }
        [protocol::COMPILING] => ExitCode::from(skein_runtime::compile_as_child() as u8),
        [skein_runtime::graphs::RUN_GRAPH] => ExitCode::from(skein_runtime::graphs::run_graph_as_child() as u8),
        [protocol::TELLING] => {
            compiling::tell();
            ExitCode::FAILURE
        }
        _ => run(&arguments),
    }
}

/// Runs the tests whose names contain one of the arguments, or all.
fn run(arguments: &[String]) -> ExitCode {
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = TESTS.into_iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(*f)));
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("{}", driver::Process::bound());
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let begun = Instant::now();
        let result = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {result} ({:.1} s)", begun.elapsed().as_secs_f64());
        if result != "ok" {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}
