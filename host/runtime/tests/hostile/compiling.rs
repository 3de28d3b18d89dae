//! Components that are large or take long to compile, and the limits of the child that compiles them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use super::binary::{with_code, with_custom_section};
use super::components::{self, IMPORTS};
use super::driver::{BOUNDS, Expected, LONG_MS, NAME, Place, Process, SHORT_MS, aggregation, gradient};
use super::protocol::{COMPILING, Request};

/// Largest code of one function that WebAssembly allows, rounded down.
const FUNCTION_BYTES: usize = 7_600_000;
/// Loads at the same time.
const AT_ONCE: usize = 32;

/// A sound component, to which the others add.
fn sound() -> Vec<u8> {
    components::aggregation(IMPORTS, "", "(call $drop-sink (local.get $sink))")
}

/// A place in whose cache the good function is, and a process with the short limit of compiling.
fn hurried(place: &Place) -> Process {
    Process::start(place, LONG_MS).check_good("the start");
    Process::start(place, SHORT_MS)
}

pub(crate) fn large() {
    let place = Place::new();
    let called = Expected::Error { kind: "bad output", words: "value 0 of the aggregate was not written" };
    let too_large = Expected::Error { kind: "too large", words: "at most 67108864 are accepted" };
    let code = |megabytes: usize| with_code(sound(), megabytes * 1000, 1000);
    let custom = |megabytes: usize| with_custom_section(sound(), megabytes * 1_000_000);
    {
        let mut process = Process::start(&place, LONG_MS);
        for (case, component, expected) in
            [("60 MB without code", custom(60), called), ("100 MB without code", custom(100), too_large)]
        {
            let path = place.component("large", &component);
            drop(component);
            process.check(case, &aggregation(&path, BOUNDS), expected);
        }
        println!("  {process}");
    }
    let mut process = hurried(&place);
    let path = place.component("large", &code(60));
    endures("60 MB of code", &mut process, &aggregation(&path, BOUNDS), &ENDS);
    let path = place.component("large", &code(100));
    process.check("100 MB of code", &aggregation(&path, BOUNDS), too_large);
    println!("  {process}");
}

/// How a component that takes too long to compile ends: the child gives way to everything else, so on a busy machine it
/// gets little time within ten times its limit.
const ENDS: [Expected<'_>; 2] = [
    Expected::Error { kind: "compile time", words: "did not compile within 500ms" },
    Expected::Error { kind: "compiler", words: "it did not end within 5s" },
];

/// As [`Process::check`], with several ends that a call may have.
fn endures(case: &str, process: &mut Process, request: &Request, ends: &[Expected<'_>]) {
    let begun = Instant::now();
    let resident = process.check_each(case, request, |outcome| {
        assert!(ends.iter().any(|end| end.is_met(outcome)), "{case}: {outcome:?}");
    });
    println!("  {case}: {:.2} s, resident memory in MiB {resident:?}", begun.elapsed().as_secs_f64());
}

/// One function that takes the compiler seconds, alone and many times at once.
pub(crate) fn endless() {
    let place = Place::new();
    let path = place.component("endless", &with_code(sound(), 1, FUNCTION_BYTES));
    let mut process = hurried(&place);
    let request = aggregation(&path, BOUNDS);
    endures("a function of 7.6 MB", &mut process, &request, &ENDS);

    let request = Request { at_once: AT_ONCE, distinct: true, ..request };
    let busy = Expected::Error { kind: "compiler", words: "other functions were still compiling or running after 5s" };
    let case = format!("{AT_ONCE} such functions at once");
    endures(&case, &mut process, &request, &[&ENDS[..], &[busy]].concat());

    process.begin(&request);
    let mut most = 0;
    let reply = loop {
        most = most.max(children(process.id()).len());
        if let Some(reply) = process.poll() {
            break reply;
        }
    };
    assert_eq!(reply.outcomes.len(), AT_ONCE);
    assert_eq!(most, 1, "one child at a time");
    println!("  {process}");
}

/// The reason of the child is longer than the pipe that it goes through.
pub(crate) fn talkative() {
    let place = Place::new();
    let exports: String =
        (0..200).map(|index| format!("(export \"{}-n{index}\" (core module $module))", "a".repeat(1000))).collect();
    let component = wat::parse_str(format!("(component (core module $module) {exports})")).expect("a component");
    let path = place.component("talkative", &component);
    let mut process = Process::start(&place, LONG_MS);
    let expected = Expected::Error { kind: "wrong world", words: "it exports [\"aaaa" };
    process.check("exports with long names", &aggregation(&path, BOUNDS), expected);
    println!("  {process}");
}

/// A child may take what compiling takes, and sees nothing of this process.
pub(crate) fn confined() {
    let place = Place::new();
    let path = place.component("confined", &with_code(sound(), 1, FUNCTION_BYTES));
    let request = aggregation(&path, BOUNDS);
    let limits = limits_of_child(&mut hurried(&place), &request);
    for (name, expected) in [
        ("Max core file size", "0"),
        ("Max file size", "0"),
        ("Max data size", "536870912"),
        // Whole seconds, and later than the host ends the child after half of one.
        ("Max cpu time", "2"),
    ] {
        assert_eq!(limits.get(name).map(String::as_str), Some(expected), "{name}");
    }
    assert_eq!(limits["nice"], "19");
    assert_eq!(limits["oom_score_adj"], "1000");

    let mut process = Process::with_telling_children(&place);
    let reply = process.call(&gradient(&super::driver::dist("gradient-mlp.wasm"), BOUNDS));
    let outcome = &reply.outcomes[0];
    assert!(outcome.kind == "compiler" && outcome.message.contains(NAME), "{outcome:?}");
    assert!(outcome.message.contains("RAYON_NUM_THREADS=2"), "the child told its environment: {outcome:?}");
    assert!(!outcome.message.contains("a secret"), "the child told a secret: {outcome:?}");
}

/// What a child that tells its environment does: it fails with the environment as the reason.
pub(crate) fn tell() {
    for (name, value) in std::env::vars() {
        eprintln!("{name}={value}");
    }
}

/// The limits of the child that compiles for this request, as they are once it has limited itself.
fn limits_of_child(process: &mut Process, request: &Request) -> BTreeMap<String, String> {
    for _ in 0..10 {
        process.begin(request);
        let mut found = None;
        while process.poll().is_none() {
            let limits = children(process.id()).first().and_then(|id| limits(*id));
            // It limits its priority and its memory before it reads the component.
            found = limits.filter(|limits| limits["Max core file size"] == "0").or(found);
        }
        if let Some(found) = found {
            return found;
        }
    }
    panic!("no child was seen with its limits");
}

/// Processes that compile for that process.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |id: &u32| {
        let arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let is_compiling = arguments.split(|byte| *byte == 0).nth(1) == Some(COMPILING.as_bytes());
        is_compiling && stat(*id).is_some_and(|fields| fields[1] == parent.to_string() && fields[0] != "Z")
    };
    ids.filter(is_child).collect()
}

/// The fields of `/proc/ID/stat` after the name, which may contain blanks.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// The limits of a process, its priority and its rank when memory runs out; `None` if it has ended.
fn limits(id: u32) -> Option<BTreeMap<String, String>> {
    let folder = Path::new("/proc").join(id.to_string());
    let text = fs::read_to_string(folder.join("limits")).ok()?;
    let line = |line: &str| {
        let name = line.get(..26)?.trim().to_owned();
        Some((name, line[26..].split_whitespace().next()?.to_owned()))
    };
    let mut limits: BTreeMap<String, String> = text.lines().filter_map(line).collect();
    limits.get("Max core file size")?;
    limits.insert("nice".into(), stat(id)?.get(16)?.clone());
    let rank = fs::read_to_string(folder.join("oom_score_adj")).ok()?;
    limits.insert("oom_score_adj".into(), rank.trim().to_owned());
    Some(limits)
}
