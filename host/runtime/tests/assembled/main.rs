//! Components assembled from text, which do what no compiler would emit: against the limits, the blame for a failure,
//! and the repeatability of aggregation functions.

mod components;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use self::components::{IMPORTS, aggregation};
use skein_runtime::aggregate::{AggregateFunction, Aggregated, Contribution};
use skein_runtime::{CallError, Function, Limit, Limits, LoadError, Options, Runtime, Trap};

/// If a limit does not work, a test fails instead of hanging.
const BOUND: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits { memory_mib: 16, cpu: BOUND, wall: BOUND, hostcall_mib: 8, handles: 100, ..Limits::default() }
}

async fn load(component: &[u8]) -> Result<AggregateFunction, LoadError> {
    let runtime = Runtime::start(Options { concurrency: 2, ..Options::default() }).expect("the engine starts");
    let function = Function { name: "rule".into(), limits: limits(), ..Function::default() };
    runtime.aggregate_function(function, component).await
}

async fn aggregate(component: &[u8], seed: u64) -> Result<Aggregated, CallError> {
    let function = load(component).await.expect("it loads");
    let values = Arc::new(vec![1.0; 4]);
    let contributions = vec![Contribution { peer: "peer".into(), samples: 1, values }];
    function.aggregate(&function.slot().await, contributions, 0, seed).await.result
}

/// The trap of a call of this body, which is the guest's fault.
async fn trap(imports: &str, body: &str) -> Trap {
    let error = aggregate(&aggregation(imports, "", body), 0).await.expect_err(body);
    match error {
        CallError::Trap { trap, .. } => *trap,
        other => panic!("{body}: {other}"),
    }
}

/// Writes the four values from address 0 on, and drops what it was lent.
const WRITE: &str = "(call $write (local.get $sink) (i64.const 0) (i32.const 0) (i32.const 4))
    (call $drop-sink (local.get $sink))
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 16))";

#[tokio::test]
async fn a_pointer_past_the_end_is_the_guests_fault_in_every_import() {
    for body in [
        "(call $write (local.get $sink) (i64.const 0) (i32.const 0x7fff0000) (i32.const 4))",
        "(call $write (local.get $sink) (i64.const 0) (i32.const 1) (i32.const 4))",
        "(call $write (local.get $sink) (i64.const 3) (i32.const 0) (i32.const 4))",
        "(call $write (local.get $sink) (i64.const -1) (i32.const 0) (i32.const 4))",
        "(call $write (i32.const 77) (i64.const 0) (i32.const 0) (i32.const 4))",
        "(call $read (i32.load (local.get $list)) (i64.const 0) (i32.const 4) (i32.const 0x7fff0000))",
        "(call $read (i32.load (local.get $list)) (i64.const 0) (i32.const 4) (i32.const 2))",
        "(call $read (i32.load (local.get $list)) (i64.const 4) (i32.const 1) (i32.const 0))",
        "(call $read (local.get $sink) (i64.const 0) (i32.const 1) (i32.const 0))",
        "(call $setting (i32.const 0x7fff0000) (i32.const 4) (i32.const 0))",
        "(call $setting (i32.const 0) (i32.const 0x7fffffff) (i32.const 0))",
        "(call $setting (i32.const 0) (i32.const 0) (i32.const 0x7fff0000))",
    ] {
        let trap = trap(IMPORTS, body).await;
        assert!(!trap.reason.is_empty(), "{body}");
    }
}

#[tokio::test]
async fn a_result_past_the_end_is_the_guests_fault() {
    let trap = trap(IMPORTS, "(return (i32.const 0x7fff0000))").await;
    assert!(!trap.reason.is_empty(), "{trap}");
}

#[tokio::test]
async fn a_program_that_exits_returned_nothing() {
    for (status, code) in [(0, 0), (1, 1)] {
        let imports = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
        let trap = trap(imports, &format!("(call $exit (i32.const {status}))")).await;
        assert_eq!(trap.reason, format!("it ended its program with status {code} and returned nothing"));
    }
}

/// The names of functions and what the guest printed tell what went wrong.
#[tokio::test]
async fn a_trap_tells_what_was_printed_and_where() {
    let imports = r#"
      (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
      (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
        (func $print (param i32 i32 i32 i32)))"#;
    let items = r#"
      (data (i32.const 1024) "Traceback:\n  NameError: name 'x' is not defined\1b[2J\n")
      (func $inner unreachable)
      (func $outer (call $inner))"#;
    let body = "(call $print (call $stderr) (i32.const 1024) (i32.const 53) (i32.const 64)) (call $outer)";
    let error = aggregate(&aggregation(imports, items, body), 0).await.expect_err("it traps").to_string();
    let expected =
        "function `rule` trapped: wasm trap: wasm `unreachable` instruction executed\n  in inner\n  in outer\n";
    assert!(error.starts_with(expected), "{error}");
    let expected = "\n  it printed:\n    Traceback:\n      NameError: name 'x' is not defined [2J";
    assert!(error.ends_with(expected), "{error}");
}

#[tokio::test]
async fn tables_count_as_memory() {
    // A table of the pool has at most 100,000 elements, 0.8 MB.
    let (items, body) = (0..32).fold((String::new(), String::new()), |(mut items, mut body), index| {
        write!(items, "(table $t{index} 1 funcref)").expect("a string");
        write!(body, "(drop (table.grow $t{index} (ref.null func) (i32.const 99999)))").expect("a string");
        (items, body)
    });
    let error = aggregate(&aggregation("", &items, &body), 0).await.expect_err("25 MB");
    let CallError::Limit { hit, .. } = &error else { panic!("{error}") };
    assert_eq!((hit.limit, hit.bound.as_str()), (Limit::Memory, "16"));
    assert_eq!(error.to_string(), "function `rule` hit its limit `memory_mib = 16`");
}

/// A memory or a table that has a maximum may ask for more, and go on when it gets nothing.
#[tokio::test]
async fn growing_past_a_maximum_costs_nothing() {
    let items = "(memory $small 1 2) (table $few 1 2 funcref) (table $many 1 funcref)";
    let body = "(local $tries i32)
      (loop $more
        (if (i32.ne (memory.grow $small (i32.const 60000)) (i32.const -1)) (then unreachable))
        (if (i32.ne (table.grow $few (ref.null func) (i32.const 10000)) (i32.const -1)) (then unreachable))
        (if (i32.ne (table.grow $many (ref.null func) (i32.const 200000)) (i32.const -1)) (then unreachable))
        (local.set $tries (i32.add (local.get $tries) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $tries) (i32.const 1000))))
      (i32.store (i32.const 0) (i32.const 0x3f800000))";
    let body = format!("{body} {WRITE}");
    let aggregated = aggregate(&aggregation(IMPORTS, items, &body), 0).await.expect("nothing is wrong");
    assert_eq!(aggregated.values, [1.0, 0.0, 0.0, 0.0]);
}

#[tokio::test]
async fn more_memories_than_a_call_may_have_are_refused_by_name_and_not_blamed_on_the_compiler() {
    let memories = |count: usize| {
        (0..count).fold(String::new(), |mut text, index| {
            write!(text, "(memory $m{index} 1)").expect("a string");
            text
        })
    };
    load(&aggregation("", &memories(3), "")).await.expect("four memories in all");
    let error = load(&aggregation("", &memories(40), "")).await.err().expect("41 memories");
    assert!(matches!(error, LoadError::TooComplex { .. }), "{error}");
    assert!(error.to_string().contains("`rule`"), "{error}");
}

/// A component of another world is refused before it is compiled, and so is one with imports that no function has.
#[tokio::test]
async fn unknown_imports_are_named() {
    let imports = r#"(import "wasi:http/types@0.2.0" "anything" (func $call))"#;
    let error = load(&aggregation(imports, "", "(call $call)")).await.err().expect("an unknown import");
    assert!(matches!(error, LoadError::WrongWorld { .. }), "{error}");
    assert!(error.to_string().contains("it imports [\"wasi:http/types@0.2.0\"]"), "{error}");
}

/// How often a timer was asked before it was over once differed between peers, and so did which of two was over first.
#[tokio::test]
async fn waiting_takes_an_aggregation_no_time() {
    let imports = r#"
      (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
      (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
      (import "wasi:io/poll@0.2.0" "[method]pollable.ready" (func $ready (param i32) (result i32)))
      (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
      (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#;
    let body = format!(
        "(local $hour i32) (local $asked i32)
        (local.set $hour (call $after (i64.const 3600000000000)))
        (loop $more
          (local.set $asked (i32.add (local.get $asked) (i32.const 1)))
          (br_if $more (i32.eqz (call $ready (local.get $hour)))))
        (call $block (call $after (i64.const -1)))
        (i32.store (i32.const 64) (local.get $hour))
        (i32.store (i32.const 68) (call $after (i64.const 1)))
        (call $poll (i32.const 64) (i32.const 2) (i32.const 72))
        (f32.store (i32.const 0) (f32.convert_i32_u (local.get $asked)))
        (f32.store (i32.const 4) (f32.convert_i32_u (i32.load (i32.const 76))))
        (f32.store (i32.const 8) (f32.convert_i64_u (call $now)))
        {WRITE}"
    );
    let component = aggregation(&format!("{IMPORTS}{imports}"), "", &body);
    let values = aggregate(&component, 0).await.expect("it waits for nothing").values;
    assert_eq!(values, [1.0, 2.0, u64::MAX as f32, 0.0], "asked once, both are over, the clock shows the last time");
}

/// Same inputs, same bits: random numbers, both clocks, and the bits of a NaN.
#[tokio::test]
async fn an_aggregation_is_repeatable() {
    let imports = r#"
      (import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))
      (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $monotonic (result i64)))
      (import "wasi:clocks/wall-clock@0.2.0" "now" (func $wall (param i32)))"#;
    let body = format!(
        "(call $wall (i32.const 64))
        (f32.store (i32.const 0) (f32.convert_i64_u (i64.shr_u (call $random) (i64.const 40))))
        (f32.store (i32.const 4) (f32.convert_i64_u (call $monotonic)))
        (f32.store (i32.const 8) (f32.convert_i64_u (i64.load (i32.const 64))))
        (f32.store (i32.const 12) (f32.convert_i32_u (i32.shr_u
          (i32.reinterpret_f32 (f32.add (f32.reinterpret_i32 (i32.const 0xffc12345)) (f32.const 1))) (i32.const 8))))
        {WRITE}"
    );
    let component = aggregation(&format!("{IMPORTS}{imports}"), "", &body);
    let first = aggregate(&component, 1).await.expect("four finite values").values;
    assert_eq!(aggregate(&component, 1).await.expect("the same").values, first);
    let other = aggregate(&component, 2).await.expect("other random numbers").values;
    assert_ne!(other[0], first[0], "random numbers follow from the seed");
    assert_eq!(other[1..], first[1..], "all else does not");
    assert_eq!(first[3], (0x7fc0_0000u32 >> 8) as f32, "a NaN has the canonical bits");
}
