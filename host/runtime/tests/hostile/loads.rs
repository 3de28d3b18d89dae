//! Graphs that functions bring along: endless ones, huge ones, and very many.

use std::fmt::Write;

use skein_engine::Kind;

use super::brought::{endless, filled, squared};
use super::driver::{BOUNDS, Expected, LONG_MS, Place, Process, WALL_MS, gradient};
use super::found::engines;
use super::guests::{self, IMPORTS, ITEMS};
use super::protocol::{Bounds, Request};

/// Memory for the process of a graph, which has the libraries of its engine.
const BROUGHT: Bounds = Bounds { memory_mib: 384, handles: 1_000_000, ..BOUNDS };

/// Loads the graph; the result is at 512.
const LOAD: &str = "(call $load (i32.const 4096) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 512))";
const REFUSE: &str =
    "(if (i32.load8_u (i32.const 512)) (then (call $refuse (i32.load (i32.const 516))) (return (i32.const 0))))";

pub(crate) fn all() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    let run = format!(
        r#"{LOAD} {REFUSE}
        (call $context (i32.load (i32.const 516)) (i32.const 512))
        (i32.store (i32.const 2048) (i32.const 1))
        (f32.store (i32.const 2052) (f32.const 3))
        (call $put (i32.const 4112) (i32.const 1060) (i32.const 1)
          (call $tensor (i32.const 2048) (i32.const 1) (i32.const 1) (i32.const 2052) (i32.const 4)))
        (call $compute (i32.load (i32.const 516)) (i32.const 4112) (i32.const 1) (i32.const 512)) {REFUSE}"#
    );
    let none = Expected::Error { kind: "bad output", words: "it counts 0 samples" };
    for engine in engines().into_iter().map(Kind::name) {
        let request = |graph: &[u8], body: &str, bounds| {
            let path = place.component("brings", &bringing(graph, body));
            Request { loader: Some(engine.into()), ..gradient(&path, bounds) }
        };
        // What the cases differ from.
        process.check(&format!("a square on {engine}"), &request(&squared(), &run, BROUGHT), none);
        let wall = Bounds { wall_ms: WALL_MS, ..BROUGHT };
        let case = format!("an endless loop on {engine}");
        process.check(&case, &request(&endless(), &run, wall), Expected::Limit("wall"));
        let refused = Expected::Error { kind: "refused", words: engine };
        let case = format!("2⁴⁰ numbers on {engine}");
        process.check(&case, &request(&filled(&[1 << 20, 1 << 20]), &run, BROUGHT), refused);
    }
    // Beside the graph there is no memory for the process, but there was as soon as the graph was gone.
    let large = format!("(i32.store (i32.const 4100) (i32.const {})) {LOAD} unreachable", 8 << 20);
    let path = place.component("large", &bringing(&[], &large));
    let bounds = Bounds { memory_mib: 17, ..BROUGHT };
    let request = Request { loader: Some(Kind::Rten.name().into()), ..gradient(&path, bounds) };
    process.check("a graph beside which no process fits", &request, Expected::Limit("memory_mib"));
    // Four are as many as a call may hold.
    let hoard = format!(
        "(local $left i32) (local $loaded i32)
        (local.set $left (i32.const 10000))
        (loop $more
          {LOAD}
          (local.set $loaded (i32.add (local.get $loaded) (i32.eqz (i32.load8_u (i32.const 512)))))
          (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (if (i32.ne (local.get $loaded) (i32.const 4)) (then unreachable))"
    );
    let path = place.component("hoards", &bringing(&squared(), &hoard));
    let request = Request { loader: Some(Kind::Rten.name().into()), ..gradient(&path, BROUGHT) };
    process.check("10,000 loads", &request, none);
    println!("  {process}");
}

/// A gradient function with a graph at 8192, of which the list of its only part is at 4096.
fn bringing(graph: &[u8], body: &str) -> Vec<u8> {
    let part = [8192u32.to_le_bytes(), (graph.len() as u32).to_le_bytes()].concat();
    let data = [(1060, b"x".as_slice()), (4096, &part), (8192, graph)].map(|(at, bytes)| {
        let text = bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:02x}").expect("a string");
            text
        });
        format!(r#"(data (i32.const {at}) "{text}")"#)
    });
    guests::gradient(IMPORTS, &format!("{ITEMS} {} {}", data.concat(), guests::reserving(128)), body)
}
