//! Components that bring a graph, assembled from text.

use std::fmt::Write;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::harness::root;

/// Loads the graph, runs it on the number 3 and returns the first number of its output as the loss.
pub(super) const CALL_ONCE: &str = "
  (if (call $load) (then (return (call $refused (i32.load (i32.const 36))))))
  (call $init (i32.load (i32.const 36)) (i32.const 40))
  (i32.store (i32.const 264) (call $tensor (i32.const 160) (i32.const 1) (i32.const 1) (i32.const 164) (i32.const 4)))
  (call $compute (i32.load (i32.const 44)) (i32.const 256) (i32.const 1) (i32.const 48))
  (if (i32.load8_u (i32.const 48)) (then (return (call $refused (i32.load (i32.const 52))))))
  (call $data (i32.load offset=8 (i32.load (i32.const 52))) (i32.const 16))
  (call $accepted (f32.load (i32.load (i32.const 16))))";

/// Loads the graph a thousand times and drops none; the loss is the number of loads without an error.
pub(super) const HOLD_ALL: &str = "
  (local $left i32) (local $loaded f32)
  (local.set $left (i32.const 1000))
  (loop $more
    (if (i32.eqz (call $load)) (then (local.set $loaded (f32.add (local.get $loaded) (f32.const 1)))))
    (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
  (call $accepted (local.get $loaded))";

/// Loads the graph twenty times and drops it each time; the loss is the number of loads without an error.
pub(super) const DROP_EACH: &str = "
  (local $left i32) (local $loaded f32)
  (local.set $left (i32.const 20))
  (loop $more
    (if (call $load) (then (return (call $refused (i32.load (i32.const 36))))))
    (local.set $loaded (f32.add (local.get $loaded) (f32.const 1)))
    (call $drop (i32.load (i32.const 36)))
    (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
  (call $accepted (local.get $loaded))";

/// Imports, memory and functions of all components. The memory: results of calls from 16 on, the list of the graph's
/// parts at 64, the name of the input at 128, its dimensions and its value at 160, the list of inputs at 256, the graph
/// at 4096.
const COMMON: &str = r#"
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load" (func $graph-load (param i32 i32 i32 i32 i32)))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "[method]graph.init-execution-context" (func $init (param i32 i32)))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "[resource-drop]graph" (func $drop (param i32)))
  (import "wasi:nn/inference@0.2.0-rc-2024-10-28" "[method]graph-execution-context.compute"
    (func $compute (param i32 i32 i32 i32)))
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[constructor]tensor"
    (func $tensor (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.data" (func $data (param i32 i32)))
  (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.data" (func $error-data (param i32 i32)))
  (memory (export "memory") 4)
  (global $next (mut i32) (i32.const 131072))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $grown i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3)))
    (local.set $grown (i32.sub (i32.shr_u (global.get $next) (i32.const 16)) (i32.sub (memory.size) (i32.const 1))))
    (if (i32.gt_s (local.get $grown) (i32.const 0)) (then (drop (memory.grow (local.get $grown))))))
  (data (i32.const 128) "x")
  (data (i32.const 160) "\01\00\00\00\00\00\40\40")
  (data (i32.const 256) "\80\00\00\00\01\00\00\00")
  (func $load (result i32)
    (call $graph-load (i32.const 64) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 32))
    (i32.load8_u (i32.const 32)))
  (func $refused (param $error i32) (result i32)
    (call $error-data (local.get $error) (i32.const 16))
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store8 (i32.const 4) (i32.const 2))
    (i64.store (i32.const 8) (i64.load (i32.const 16)))
    (i32.const 0))
  (func $accepted (param $loss f32) (result i32)
    (f32.store (i32.const 4) (local.get $loss))
    (i32.store (i32.const 8) (i32.const 1))
    (i64.store (i32.const 12) (i64.const 0))
    (i32.const 0))
"#;

/// A gradient function of this body that brings `graph`; it computes and evaluates alike.
pub(super) fn bringing(graph: &[u8], body: &str) -> Vec<u8> {
    let mut bytes = String::new();
    graph.iter().for_each(|byte| write!(bytes, "\\{byte:02x}").unwrap());
    let part: String =
        [0, 16, 0, 0].iter().chain(&(graph.len() as u32).to_le_bytes()).fold(String::new(), |mut text, byte: &u8| {
            write!(text, "\\{byte:02x}").unwrap();
            text
        });
    let interface = "skein:train/gradients@0.1.0";
    let text = format!(
        r#"(module {COMMON}
          (data (i32.const 64) "{part}")
          (data (i32.const 4096) "{bytes}")
          (func (export "{interface}#compute") (export "{interface}#evaluate") (param i32 i32 i32) (result i32) {body}))"#
    );
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some("gradient")).unwrap();
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().validate(true).module(&module).unwrap();
    encoder.realloc_via_memory_grow(false).encode().unwrap_or_else(|error| panic!("{error:#}"))
}
