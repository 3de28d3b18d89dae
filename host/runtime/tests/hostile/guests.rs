//! Gradient functions that are assembled from text.

use super::components::{PRELUDE, assemble};

/// Imports that the gradient functions of the suite call.
pub(crate) const IMPORTS: &str = r#"
  (import "skein:train/settings@0.1.0" "get" (func $setting (param i32 i32 i32)))
  (import "skein:train/parameters@0.1.0" "get" (func $parameter (param i32 i32 i32)))
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[constructor]tensor"
    (func $tensor (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[method]tensor.data" (func $data (param i32 i32)))
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" "[resource-drop]tensor" (func $drop-tensor (param i32)))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load" (func $load (param i32 i32 i32 i32 i32)))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "load-by-name" (func $load-by-name (param i32 i32 i32)))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" "[method]graph.init-execution-context"
    (func $context (param i32 i32)))
  (import "wasi:nn/inference@0.2.0-rc-2024-10-28" "[method]graph-execution-context.compute"
    (func $compute (param i32 i32 i32 i32)))
  (import "wasi:nn/errors@0.2.0-rc-2024-10-28" "[method]error.data" (func $error-text (param i32 i32)))
"#;

/// What the functions share: names, and the results that they return from address 0 on.
pub(crate) const ITEMS: &str = r#"
  (data (i32.const 1024) "model/train")
  (data (i32.const 1040) "input")
  (data (i32.const 1048) "labels")
  ;; Makes the error of the host that of the call.
  (func $refuse (param $error i32)
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 64))
    (call $error-text (local.get $error) (i32.const 8))
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store8 (i32.const 4) (i32.const 2)))
  ;; A context of the job's graph; the call traps if there is none.
  (func $job-context (result i32)
    (call $load-by-name (i32.const 1024) (i32.const 11) (i32.const 512))
    (if (i32.load8_u (i32.const 512)) (then unreachable))
    (call $context (i32.load (i32.const 516)) (i32.const 512))
    (if (i32.load8_u (i32.const 512)) (then unreachable))
    (i32.load (i32.const 516)))
  ;; Writes a name and a handle at an address: one input of a graph.
  (func $put (param $at i32) (param $name i32) (param $length i32) (param $handle i32)
    (i32.store (local.get $at) (local.get $name))
    (i32.store offset=4 (local.get $at) (local.get $length))
    (i32.store offset=8 (local.get $at) (local.get $handle)))
"#;

/// A gradient function whose `compute` is this body: where it ends, the result at 0 is returned.
pub(crate) fn gradient(imports: &str, items: &str, body: &str) -> Vec<u8> {
    let name = "skein:train/gradients@0.1.0";
    let compute = format!(
        r#"(func (export "{name}#compute") (param $samples i32) (param $list i32) (param $count i32) (result i32)
          {body} i32.const 0)"#
    );
    let evaluate = format!(r#"(func (export "{name}#evaluate") (param i32 i32 i32) (result i32) unreachable)"#);
    assemble("gradient", &format!("(module {imports} {PRELUDE} {items} {compute} {evaluate})"))
}

/// Items that add so many pages of 64 KiB to the memory before the call.
pub(crate) fn reserving(pages: u32) -> String {
    format!("(func $reserve (drop (memory.grow (i32.const {pages})))) (start $reserve)")
}
