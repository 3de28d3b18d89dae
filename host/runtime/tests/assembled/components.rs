//! Components assembled from text.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

/// What every module begins with: a memory, an allocator that never frees, and one drop that the interface requires.
pub(crate) const PRELUDE: &str = r#"
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
"#;

/// Imports that the tests' functions call.
pub(crate) const IMPORTS: &str = r#"
  (import "skein:train/contributions@0.1.0" "[method]sink.write" (func $write (param i32 i64 i32 i32)))
  (import "skein:train/contributions@0.1.0" "[method]contribution.read" (func $read (param i32 i64 i32 i32)))
  (import "skein:train/contributions@0.1.0" "[resource-drop]sink" (func $drop-sink (param i32)))
  (import "skein:train/settings@0.1.0" "get" (func $setting (param i32 i32 i32)))
"#;

/// An aggregation function whose body returns where its result lies: all zeros at 0 are an empty report.
pub(crate) fn aggregation(imports: &str, items: &str, body: &str) -> Vec<u8> {
    let name = "skein:train/aggregation@0.1.0#aggregate";
    let parameters = "(param $list i32) (param $count i32) (param $faults i32) (param $sink i32) (result i32)";
    let function = format!(r#"(func (export "{name}") {parameters} {body} i32.const 0)"#);
    assemble("aggregate", &format!("(module {imports} {PRELUDE} {items} {function})"))
}

/// The interfaces of functions with those of WASI that tests use, and the world of that name.
pub(crate) fn world(name: &str) -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    // The tests of the program use this file too.
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    resolve.push_dir(host.join("../wit")).expect("the interfaces");
    resolve.push_path(host.join("runtime/tests/assembled/wasi.wit")).expect("what the tests use of WASI");
    let package = resolve.package_names.iter().find(|(name, _)| name.name == "assembled-worlds").expect("their worlds");
    let world = resolve.select_world(&[*package.1], Some(name)).expect("the world");
    (resolve, world)
}

/// The component of a module in text form.
pub(crate) fn assemble(world_name: &str, text: &str) -> Vec<u8> {
    let (resolve, world) = world(world_name);
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the world is valid");
    let encoder = ComponentEncoder::default().validate(true).module(&module).expect("a module of the world");
    encoder.realloc_via_memory_grow(false).encode().unwrap_or_else(|error| panic!("{error:#}"))
}
