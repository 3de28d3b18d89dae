//! Components are compiled by one child process at a time, which does not inherit the environment.

use std::fs;
use std::time::Duration;

use skein_runtime::{Compiler, Function, LoadError, Options, Runtime};

use crate::harness::{Place, dist};

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
