//! Databases as stores: the conformance suite on both kinds of databases, and tests of failures that only databases
//! have.

mod addresses;
mod availability;
mod client;
mod faults;
mod queue;
mod ready;
mod server;
#[path = "../../../store/tests/conformance/suite.rs"]
mod suite;
mod tls;

use skein_redis::Scope;
use skein_store::{Ports, State, StoreError};
use skein_types::{Digest, PeerId};

use crate::server::Kind;

/// The peer that owns the database.
const ME: PeerId = PeerId([1; 32]);

/// Runs `test` on both kinds of databases, fresh, with the state of round 0 set to `len` zeros.
fn on_every_store(len: usize, test: impl AsyncFn(Ports)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for kind in Kind::ALL {
            let server = kind.start(&[]);
            let store = skein_redis::open(&server.options(), scope(len)).await.expect("a database");
            assert_eq!(store.state.aggregates(), kind == Kind::Module);
            let state = State::new(0, vec![0.0; len].into(), vec![vec![0.0; len].into()]);
            store.state.set_state(state).await.expect("a state");
            test(store).await;
        }
    });
}

/// An error with its causes, as it is shown to users.
fn shown(error: &StoreError) -> String {
    let cause = std::error::Error::source(error);
    let causes = std::iter::successors(cause, |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn scope(values: usize) -> Scope {
    Scope { run: Digest([7; 32]), peer: ME, values }
}
