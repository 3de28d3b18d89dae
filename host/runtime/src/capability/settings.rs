//! `skein:train/settings`: the function's own settings, as text.

use super::{State, bindings};

impl bindings::settings::Host for State {
    fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.settings.get(&name).cloned())
    }
}
