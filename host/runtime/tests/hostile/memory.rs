//! Memory of the host that a guest causes: tensors, names, handles, memories, tables, sockets.

use std::fmt::Write;

use super::components::{self, IMPORTS as AGGREGATION};
use super::driver::{BOUNDS, BRIEF, Expected, LONG_MS, Place, Process, aggregation, gradient, probe};
use super::guests::{self, IMPORTS, ITEMS, reserving};
use super::protocol::{Bounds, Network, Request};

/// More handles than fit into the memory.
const MANY: Bounds = Bounds { handles: 1_000_000, ..BOUNDS };
/// Bytes of a long name.
const NAME_BYTES: u32 = 64 << 20;

fn small_network() -> Option<Network> {
    Some(Network { engine: "rten".into(), model: String::new() })
}

/// Tensors without elements, names and handles once took memory of the host that did not count.
pub(crate) fn counts() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    for behaviour in ["dimensions", "views", "allocate"] {
        process.check(behaviour, &probe(behaviour, MANY), Expected::Limit("memory_mib"));
    }
    process.check("10,000 handles", &probe("handles", BOUNDS), Expected::Limit("handles"));
    let rank = Expected::Trap("a tensor has at most 16 dimensions, this one has 1048576");
    process.check("a million dimensions", &probe("huge-rank", BOUNDS), rank);
    for behaviour in ["graph-hoard-errors", "graph-hoard-graphs", "graph-hoard-contexts"] {
        let request = Request { network: small_network(), ..probe(behaviour, MANY) };
        process.check(behaviour, &request, Expected::Limit("memory_mib"));
    }
    println!("  {process}");
}

/// Names of 64 MiB, wherever a function passes one.
pub(crate) fn names_are_bounded() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    let items = format!("{ITEMS} {}", reserving(NAME_BYTES / 65536 + 16));
    let fill = format!("(memory.fill (i32.const 131072) (i32.const 97) (i32.const {NAME_BYTES}))");
    let name = format!("(i32.const 131072) (i32.const {NAME_BYTES})");
    let tensor = format!(
        "(i32.store (i32.const 2048) (i32.const 1))
        (call $put (i32.const 4096) {name}
          (call $tensor (i32.const 2048) (i32.const 1) (i32.const 4) (i32.const 2048) (i32.const 1)))"
    );
    let refuse = "(if (i32.load8_u (i32.const 512)) (then (call $refuse (i32.load (i32.const 516)))))";
    let wide = Bounds { memory_mib: 256, hostcall_mib: 256, ..BOUNDS };
    let none = Expected::Error { kind: "bad output", words: "it counts 0 samples" };
    let unknown = |words| Expected::Error { kind: "refused", words };
    let input =
        format!("{tensor} (call $compute (call $job-context) (i32.const 4096) (i32.const 1) (i32.const 512)) {refuse}");
    let result = format!(
        "{tensor} (i32.store (i32.const 8) (local.get $samples)) (i32.store (i32.const 12) (i32.const 4096))
        (i32.store (i32.const 16) (i32.const 1))"
    );
    for (case, body, expected) in [
        ("input", &input, unknown("input `aaaa")),
        ("graph", &format!("(call $load-by-name {name} (i32.const 512)) {refuse}"), unknown("no graph `aaaa")),
        ("parameter", &format!("(call $parameter {name} (i32.const 512))"), none),
        ("setting", &format!("(call $setting {name} (i32.const 512))"), none),
        ("result", &result, Expected::Error { kind: "bad output", words: "`aaaa" }),
    ] {
        let component = guests::gradient(IMPORTS, &items, &format!("{fill} {body}"));
        let path = place.component(case, &component);
        let request = |bounds| Request { network: small_network(), ..gradient(&path, bounds) };
        let narrow = Bounds { hostcall_mib: 63, ..wide };
        process.check(&format!("a name of 64 MiB: {case}"), &request(narrow), Expected::Limit("hostcall_mib"));
        process.check(&format!("the same without that limit: {case}"), &request(wide), expected);
        if case == "input" {
            let little = Bounds { memory_mib: 100, ..wide };
            process.check("the host's copy of the name counts", &request(little), Expected::Limit("memory_mib"));
        }
    }
    println!("  {process}");
}

/// Memories and tables that grow until they may not, and go on asking.
pub(crate) fn growing() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    let memories = (0..16).fold(String::new(), |mut text, index| {
        write!(text, "(memory $m{index} 1)").expect("a string");
        text
    });
    let in_turn = (0..16).fold(String::new(), |mut text, index| {
        write!(text, "(if (i32.eq (memory.grow $m{index} (i32.const 1)) (i32.const -1)) (then unreachable))")
            .expect("a string");
        text
    });
    // A table has at most 100,000 elements, 0.8 MB.
    let (tables, filled) = (0..32).fold((String::new(), String::new()), |(mut tables, mut filled), index| {
        write!(tables, "(table $t{index} 1 funcref)").expect("a string");
        write!(filled, "(drop (table.grow $t{index} (ref.null func) (i32.const 99999)))").expect("a string");
        (tables, filled)
    });
    let memory = Expected::Limit("memory_mib");
    for (case, items, body, bounds, expected) in [
        ("tables", tables.as_str(), filled.as_str(), Bounds { memory_mib: 16, ..BOUNDS }, memory),
        (
            "a table that goes on asking",
            "(table $table 1 funcref)",
            "(loop $more (drop (table.grow $table (ref.null func) (i32.const -2))) (br $more))",
            BRIEF,
            Expected::Limit("cpu"),
        ),
        (
            "a memory that is filled",
            "",
            "(local $at i32)
            (loop $more
              (local.set $at (memory.grow (i32.const 16)))
              (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
              (memory.fill (i32.mul (local.get $at) (i32.const 65536)) (i32.const 1) (i32.const 1048576))
              (br $more))",
            BOUNDS,
            memory,
        ),
        ("memories in turn", memories.as_str(), &format!("(loop $more {in_turn} (br $more))"), BOUNDS, memory),
        (
            "a memory that goes on asking",
            "",
            "(loop $more (drop (memory.grow (i32.const 1))) (br $more))",
            BRIEF,
            Expected::Limit("cpu"),
        ),
    ] {
        let path = place.component("growing", &components::aggregation(AGGREGATION, items, body));
        process.check(case, &aggregation(&path, bounds), expected);
    }
    println!("  {process}");
}

/// A composition of some components has three memories or more, which must not be refused.
pub(crate) fn many_memories() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    let called = Expected::Error { kind: "bad output", words: "value 0 of the aggregate was not written" };
    for (count, expected) in
        [(3, called), (32, called), (33, Expected::Error { kind: "too complex", words: "more memories" })]
    {
        // One of them is that of every module.
        let memories = (1..count).fold(String::new(), |mut text, index| {
            write!(text, "(memory $m{index} 1)").expect("a string");
            text
        });
        let path = place.component(
            "memories",
            &components::aggregation(AGGREGATION, &memories, "(call $drop-sink (local.get $sink))"),
        );
        process.check(&format!("{count} memories"), &aggregation(&path, BOUNDS), expected);
    }
}

/// Without a network, a socket would still take a file of the host's, as many as a function may have handles.
pub(crate) fn sockets() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    for kind in ["tcp", "udp"] {
        let imports = format!(
            r#"(import "wasi:sockets/{kind}-create-socket@0.2.0" "create-{kind}-socket" (func $socket (param i32 i32)))"#
        );
        let body = "(local $done i32)
          (loop $more
            (call $socket (i32.const 0) (i32.const 512))
            (if (i32.eqz (i32.load8_u (i32.const 512))) (then unreachable))
            (local.set $done (i32.add (local.get $done) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $done) (i32.const 2000))))
          (memory.fill (i32.const 512) (i32.const 0) (i32.const 16))";
        let path = place.component(kind, &guests::gradient(&imports, "", body));
        let none = Expected::Error { kind: "bad output", words: "it counts 0 samples" };
        process.check(&format!("{kind} sockets"), &gradient(&path, BOUNDS), none);
    }
}
