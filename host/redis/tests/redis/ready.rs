//! The database server that tests run: one of this machine if it fits, otherwise Valkey, installed once beside the
//! build. That is the only use that tests make of the network.

#![allow(dead_code, reason = "each of the tests that share this file uses a part of it")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use skein_redis::provision::install;
use skein_redis::provision::program::Places;

struct Ready {
    program: PathBuf,
    /// The folder of installed servers in which it was searched.
    installed: PathBuf,
}

fn ready() -> &'static Ready {
    static READY: OnceLock<Result<Ready, String>> = OnceLock::new();
    let find = || {
        let places = Places::of_user(None);
        places.find(false).map(|program| Ready { program, installed: places.installed }).or_else(|reason| {
            println!("{reason}; tests install Valkey");
            Ok(Ready { program: valkey_beside_build()?, installed: beside_build() })
        })
    };
    // An attempt that failed is not repeated by every test.
    match READY.get_or_init(find) {
        Ok(ready) => ready,
        Err(reason) => panic!("{reason}"),
    }
}

/// The program of the server.
pub(crate) fn server() -> &'static Path {
    &ready().program
}

/// The folder of installed servers with which `skein` finds the server.
pub(crate) fn installed() -> &'static Path {
    &ready().installed
}

/// The program of a server with TLS; if this machine has none, prints the reason and returns `None`.
/// `SKEIN_TLS_REQUIRED` makes that a failure.
pub(crate) fn tls_server() -> Option<PathBuf> {
    match Places::of_user(None).find(true) {
        Ok(program) => Some(program),
        Err(reason) => {
            assert!(std::env::var_os("SKEIN_TLS_REQUIRED").is_none(), "{reason}");
            println!("skipped: {reason}");
            None
        }
    }
}

/// The folder of installed servers in which Valkey is, if it is installed; otherwise prints the reason and returns
/// `None`. `SKEIN_VALKEY_REQUIRED` installs it.
pub(crate) fn valkey_root() -> Option<PathBuf> {
    let found = [install::root(), beside_build()].into_iter().find(|root| install::find(root).is_some());
    if found.is_none() && std::env::var_os("SKEIN_VALKEY_REQUIRED").is_some() {
        valkey_beside_build().unwrap_or_else(|reason| panic!("{reason}"));
        return Some(beside_build());
    }
    if found.is_none() {
        println!("skipped: Valkey is not installed: `SKEIN_VALKEY_REQUIRED=1` installs it");
    }
    found
}

/// The folder of installed servers beside the build: this program is `target/release/deps/NAME`.
fn beside_build() -> PathBuf {
    let own = std::env::current_exe().expect("a program");
    own.ancestors().nth(3).expect("a folder of builds").join("servers")
}

/// Installs Valkey beside the build, unless another test has done so; returns its program.
fn valkey_beside_build() -> Result<PathBuf, String> {
    let root = beside_build();
    let lock = File::create(root.with_extension("lock")).expect("the folder of builds can be written");
    lock.lock().expect("a lock");
    if let Some(program) = install::find(&root) {
        return Ok(program);
    }
    let installed = install::install(&root, |what| println!("{what}"));
    installed.map(|installed| installed.program).map_err(|error| format!("tests need a database server: {error:#}"))
}
