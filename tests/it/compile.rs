//! Components are compiled by one child process at a time, which does not inherit the environment and has no access to
//! files.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skein_runtime::{Compiler, Function, LoadError, Options, Refusal, Runtime};

use crate::harness::{Place, dist, is_confined};

/// A compiler child run by a shell that records its environment, and whether another child runs at the same time.
fn noting(place: &Place) -> Compiler {
    let folder = place.path("");
    let program = env!("CARGO_BIN_EXE_skein");
    let script = format!(
        "cd '{}'\ncat /proc/$$/environ > environment\nmkdir child || touch overlap\n'{program}' compile-component\n\
         status=$?\nrmdir child\nexit $status\n",
        folder.display(),
    );
    place.write("script.sh", script);
    let script = place.path("script.sh").into_os_string().into_string().unwrap();
    Compiler::Child { program: "/bin/sh".into(), argument: script.leak() }
}

async fn load(compiler: Compiler, name: &str) -> Result<(), LoadError> {
    let options = Options { compiler, compile_time_max: Duration::from_secs(60), ..Options::default() };
    let runtime = Runtime::start(options).unwrap();
    let bytes = fs::read(dist(name)).unwrap();
    runtime.gradient_function(Function::default(), &bytes).await.map(drop)
}

/// A password for the database may be among the variables, as `SKEIN_REDIS_PASSWORD`.
#[tokio::test]
async fn the_compiling_child_inherits_no_environment() {
    assert!(std::env::vars_os().next().is_some(), "the environment is not empty");
    let place = Place::new();
    load(noting(&place), "gradient-mlp").await.unwrap();
    let environment = fs::read(place.path("environment")).unwrap();
    assert_eq!(String::from_utf8_lossy(&environment), "RAYON_NUM_THREADS=2\0");
}

/// A check tells as much as a load, and its process reads no more of a component than the header.
#[tokio::test]
async fn a_check_leaves_the_component_to_the_child() {
    let bytes = fs::read(dist("gradient-mlp")).unwrap();
    let check = async |compiler| {
        let runtime = Runtime::start(Options { compiler, ..Options::default() }).unwrap();
        runtime.check_function(Function::default(), &bytes).await
    };
    let place = Place::new();
    let checked = check(noting(&place)).await;
    assert!(checked.refusal.is_none() && checked.imports.is_some(), "{checked:?}");
    assert!(place.path("environment").exists(), "a child did it");
    let checked = check(Compiler::Child { program: "/bin/false".into(), argument: "" }).await;
    assert!(matches!(checked.refusal, Some(Refusal::Load(LoadError::Compiler { .. }))), "{checked:?}");
    assert!(checked.imports.is_none() && checked.world.is_none(), "{checked:?}");
}

/// A child uses two cores and up to 2 GiB: ten at a time once used ten times as much.
#[tokio::test]
async fn functions_that_are_loaded_together_are_compiled_one_after_the_other() {
    let place = Place::new();
    let load = |name| load(noting(&place), name);
    let loaded = tokio::join!(load("gradient-mlp"), load("gradient-probe"), load("gradient-onnx"));
    for result in [loaded.0, loaded.1, loaded.2] {
        result.unwrap();
    }
    assert!(!place.path("overlap").exists(), "two children at once");
    assert!(!place.path("child").exists(), "the last child has ended");
}

/// The kernel's view of the child before it has read a byte of the component.
#[test]
fn the_compiling_child_is_in_a_sandbox_before_it_reads_a_component() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skein"));
    let piped = command.arg("compile-component").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A gradient function, a minute of processor time, 1 GiB of memory.
    let header = [&[0][..], &60u64.to_le_bytes(), &(1u64 << 30).to_le_bytes()].concat();
    child.stdin.as_mut().unwrap().write_all(&header).unwrap();
    let begun = Instant::now();
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        if is_confined(&status) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status}");
        std::thread::yield_now();
    }
    // Nothing follows: that is no component.
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
}
