//! Children that compile without end. A program of its own, since a process compiles one component at a time.

use std::path::Path;
use std::time::Duration;

use skein_runtime::{Compiler, Function, LoadError, Options, Runtime};

/// If a limit does not work, a test fails instead of hanging.
const BOUND: Duration = Duration::from_secs(60);

/// A child that computes or waits without end is killed, and one that dies is reported.
#[tokio::test]
async fn compiling_is_bounded() {
    let child = |program: &str, argument| Compiler::Child { program: program.into(), argument };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-functions/dist/gradient-mlp.wasm");
    let load = async |compiler, compile_time_max| {
        let options = Options { compiler, compile_time_max, ..Options::default() };
        let runtime = Runtime::start(options).expect("the engine starts");
        let bytes = std::fs::read(&path).expect("a component of the repository");
        let loading = tokio::time::timeout(
            BOUND,
            runtime.gradient_function(Function { name: "slow".into(), ..Function::default() }, &bytes),
        );
        loading.await.expect("the compiler is stopped").err().expect("no artifact")
    };
    let short = Duration::from_millis(200);
    let error = load(child("md5sum", "/dev/zero"), short).await;
    assert!(error.to_string().contains("did not compile within 200ms of processor time"), "{error}");
    let LoadError::Compiler { source, .. } = load(child("sleep", "1000"), short).await else { panic!("it only waits") };
    assert_eq!(source.to_string(), "it did not end within 2s: try again");
    assert!(matches!(load(child("false", ""), BOUND).await, LoadError::Compiler { .. }));
    assert!(matches!(load(child("/nonexistent", ""), BOUND).await, LoadError::Compiler { .. }));
    // One child at a time: the second load has to wait, which is bounded as well.
    let (first, second) =
        tokio::join!(load(child("sleep", "1000"), short), load(child("false", ""), Duration::from_millis(50)),);
    assert!(matches!(first, LoadError::Compiler { .. }), "{first}");
    let LoadError::Compiler { source, .. } = second else { panic!("{second}") };
    assert_eq!(source.to_string(), "other functions were still compiling or running after 500ms: try again");
}
