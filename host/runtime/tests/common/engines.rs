//! The engines of this machine.

use skein_engine::{Kind, library};

/// Returns the engines that can be opened. `SKEIN_ENGINES_REQUIRED` makes a missing one a failure.
pub(crate) fn engines() -> Vec<Kind> {
    let is_there = |kind: &Kind| match library::find(*kind) {
        _ if *kind == Kind::Rten => true,
        Ok(_) => true,
        Err(error) if std::env::var_os("SKEIN_ENGINES_REQUIRED").is_none() => {
            println!("  skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    };
    Kind::ALL.into_iter().filter(is_there).collect()
}
