//! End-to-end tests: the real program, real components, real files, real signals.

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

#[expect(dead_code, reason = "the tests of skein-graph write more kinds of files")]
#[path = "../../host/graph/tests/derive/build.rs"]
mod build;
#[path = "../../host/redis/tests/redis/client.rs"]
mod client;
#[expect(dead_code, reason = "the tests of skein-runtime assemble more kinds of components")]
#[path = "../../host/runtime/tests/assembled/components.rs"]
mod components;
#[path = "../../xtask/src/picture/draw.rs"]
mod draw;
#[expect(dead_code, reason = "the suite of skein-runtime assembles more kinds of functions")]
#[path = "../../host/runtime/tests/hostile/guests.rs"]
mod guests;
mod harness;
#[path = "../../xtask/src/readme/page.rs"]
mod page;
#[path = "../../xtask/src/measure/prose.rs"]
mod prose;
#[path = "../../host/redis/tests/redis/ready.rs"]
mod ready;
#[path = "../../xtask/src/readme/script.rs"]
mod script;
#[path = "../../xtask/src/configuration/tables.rs"]
mod tables;
#[path = "../../xtask/src/target.rs"]
mod target;

mod access;
mod bad_input;
mod brought;
mod certificates;
mod check;
mod chores;
mod circles;
mod command_line;
mod compile;
mod configuration;
mod databases;
mod demo;
mod dist;
mod formats;
mod function;
mod greetings;
mod hosts;
mod inspect;
mod liars;
mod logs;
mod losses;
mod manifests;
mod mistakes;
mod normalization;
mod onnx;
mod peers;
mod readme;
mod results;
mod servers;
mod status;
mod terminal;
mod tidy;
mod train;
mod two_machines;
mod versions;
mod workers;
