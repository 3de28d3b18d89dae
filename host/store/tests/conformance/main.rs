//! Runs the conformance suite on the embedded store.

mod suite;

use skein_store::{Embedded, Ports, State};

/// Runs `test` on a fresh store, with the state of round 0 set to `len` zeros.
fn on_every_store(len: usize, test: impl AsyncFn(Ports)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let store = Ports::of(Embedded::default());
        let state = State::new(0, vec![0.0; len].into(), vec![vec![0.0; len].into()]);
        store.state.set_state(state).await.expect("a state");
        test(store).await;
    });
}
