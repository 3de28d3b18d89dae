//! Programs that end without a result, and programs that do not end.

use super::components::{self, IMPORTS as AGGREGATION};
use super::driver::{BOUNDS, BRIEF, Expected, LONG_MS, NAME, Place, Process, WALL_MS, aggregation, gradient, probe};
use super::guests::{self, IMPORTS, ITEMS};
use super::protocol::{Bounds, Request};

/// Only the wall clock ends the call.
const WALL: Bounds = Bounds { wall_ms: WALL_MS, ..BOUNDS };

/// What the functions of this file import of WASI.
const WASI: &str = r#"
  (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
  (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $print (param i32 i32 i32 i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))
  (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
"#;

/// A call of the host again and again; what it returns goes to the same place each time.
fn endless(call: &str) -> String {
    format!("(loop $more (global.set $next (i32.const 65536)) {call} (br $more))")
}

pub(crate) fn all() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    ending(&place, &mut process);
    spinning(&place, &mut process);
    waiting(&place, &mut process);
    absurd_limits(&mut process);
    println!("  {process}");
}

/// Programs that end: the call is over, the host is not.
fn ending(place: &Place, process: &mut Process) {
    let exit = |status| format!("(call $exit (i32.const {status}))");
    for (case, body, words) in [
        ("exit with success", exit(0), "it ended its program with status 0 and returned nothing"),
        ("exit with failure", exit(1), "it ended its program with status 1 and returned nothing"),
        ("more random numbers than memory", "(call $random (i64.const -1) (i32.const 512))".into(), ""),
        ("a function that calls itself", "(call $deeper)".into(), "call stack exhausted"),
        ("an allocation that returns nothing", "(return (i32.const -1))".into(), ""),
    ] {
        let items = "(func $deeper (call $deeper))";
        let imports = format!("{AGGREGATION}{WASI}");
        let path = place.component("ends", &components::aggregation(&imports, items, &body));
        process.check(&format!("{case}, aggregating"), &aggregation(&path, BOUNDS), Expected::Trap(words));
        let imports = format!("{IMPORTS}{WASI}");
        let path = place.component("ends", &guests::gradient(&imports, &format!("{ITEMS}{items}"), &body));
        process.check(case, &gradient(&path, BOUNDS), Expected::Trap(words));
    }
    process.check("deep recursion of a compiler's code", &probe("recurse", BOUNDS), Expected::Trap("call stack"));
    process.check("a panic", &probe("trap", BOUNDS), Expected::Trap("unreachable"));
}

/// Guests that never stop computing, in code of their own and in the host's.
fn spinning(place: &Place, process: &mut Process) {
    process.check("a loop within its processor time", &probe("loop", BRIEF), Expected::Limit("cpu"));
    process.check("a loop within its wall time", &probe("loop", WALL), Expected::Limit("wall"));
    for (case, before, call) in [
        ("random numbers", "", "(call $random (i64.const 65536) (i32.const 512))"),
        ("the time", "", "(drop (call $now))"),
        (
            "printing",
            "(local $stream i32) (local.set $stream (call $stderr))",
            "(call $print (local.get $stream) (i32.const 4096) (i32.const 4096) (i32.const 512))",
        ),
        ("settings", "", "(call $setting (i32.const 4096) (i32.const 60000) (i32.const 512))"),
        ("graphs that do not exist", "", "(call $load-by-name (i32.const 4096) (i32.const 60000) (i32.const 512))"),
        (
            "tensors that are copied",
            "(local $tensor i32)
            (i32.store (i32.const 2048) (i32.const 60000))
            (local.set $tensor
              (call $tensor (i32.const 2048) (i32.const 1) (i32.const 4) (i32.const 4096) (i32.const 60000)))",
            "(call $data (local.get $tensor) (i32.const 512))",
        ),
    ] {
        let body = format!("{before} {}", endless(call));
        let path = place.component("spins", &guests::gradient(&format!("{IMPORTS}{WASI}"), ITEMS, &body));
        let bounds = Bounds { memory_mib: 256, handles: 1_000_000, ..BRIEF };
        process.check(&format!("again and again: {case}"), &gradient(&path, bounds), Expected::Limit("cpu"));
    }
}

/// Guests that wait for what does not come.
fn waiting(place: &Place, process: &mut Process) {
    let hour = "(call $after (i64.const 3600000000000))";
    // The same pollable again and again.
    let list = |count: u32| {
        format!(
            "(local $one i32) (local $at i32)
            (local.set $one {hour})
            (loop $more
              (i32.store (i32.add (local.get $at) (i32.const 131072)) (local.get $one))
              (local.set $at (i32.add (local.get $at) (i32.const 4)))
              (br_if $more (i32.lt_u (local.get $at) (i32.const {bytes}))))
            (call $poll (i32.const 131072) (i32.const {count}) (i32.const 512))",
            bytes = 4 * count,
        )
    };
    let too_many = Expected::Trap("handle limit exceeded");
    for (case, body, expected) in [
        ("an hour", format!("(call $block {hour})"), Expected::Limit("wall")),
        ("an hour, 10,000 times", list(10_000), Expected::Limit("wall")),
        ("an hour, a million times", list(1_000_000), too_many),
    ] {
        let items = format!("{ITEMS}{}", guests::reserving(100));
        let path = place.component("waits", &guests::gradient(&format!("{IMPORTS}{WASI}"), &items, &body));
        process.check(&format!("waiting for {case}"), &gradient(&path, WALL), expected);
    }
    let hoard = format!("(loop $more (drop {hour}) (br $more))");
    let path = place.component("hoards", &guests::gradient(&format!("{IMPORTS}{WASI}"), ITEMS, &hoard));
    // What WASI holds is not counted by its bytes, so the memory bounds how many handles there can be.
    let bounds = Bounds { handles: u32::MAX, ..BOUNDS };
    process.check("timers that are kept", &gradient(&path, bounds), Expected::Limit("memory_mib"));
}

/// Limits beyond all measure are limits like any others.
fn absurd_limits(process: &mut Process) {
    let bounds =
        Bounds { memory_mib: u32::MAX, cpu_ms: u64::MAX, wall_ms: u64::MAX, hostcall_mib: u32::MAX, handles: u32::MAX };
    let request = Request { name: NAME.into(), ..probe("zeros", bounds) };
    process.check("the largest limits", &request, Expected::Result);
}
