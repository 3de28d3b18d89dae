//! The worlds that functions implement.

use std::fmt;

use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::compile::CompileError;

/// Packages of WASI 0.2 that every function may import.
const WASI: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];

/// The worlds in `wit/` that functions implement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum World {
    /// One batch to one gradient.
    Gradient,
    /// The contributions of a round to one vector.
    Aggregate,
}

impl World {
    /// The interface that a function of this world exports.
    pub(crate) fn export(self) -> &'static str {
        match self {
            World::Gradient => "skein:train/gradients@0.1.0",
            World::Aggregate => "skein:train/aggregation@0.1.0",
        }
    }

    /// The interfaces of ours that a function of this world may import, beside WASI.
    fn imports(self) -> &'static [&'static str] {
        match self {
            World::Gradient => &[
                "skein:train/settings@0.1.0",
                "skein:train/parameters@0.1.0",
                "wasi:nn/tensor@0.2.0-rc-2024-10-28",
                "wasi:nn/errors@0.2.0-rc-2024-10-28",
                "wasi:nn/graph@0.2.0-rc-2024-10-28",
                "wasi:nn/inference@0.2.0-rc-2024-10-28",
            ],
            World::Aggregate => &["skein:train/settings@0.1.0", "skein:train/contributions@0.1.0"],
        }
    }

    /// Checks by its types alone that a component is of this world.
    pub(crate) fn check(self, bytes: &[u8]) -> Result<(), CompileError> {
        let decoded = wit_component::decode(bytes).map_err(|error| CompileError::Invalid(error.into()))?;
        let DecodedWasm::Component(resolve, world) = decoded else {
            return Err(CompileError::WrongWorld("it is a package of WIT without code".into()));
        };
        let world = &resolve.worlds[world];
        let exports: Vec<String> = world.exports.iter().map(|(key, item)| name(&resolve, key, item)).collect();
        if !exports.iter().any(|name| name == self.export()) {
            return Err(CompileError::WrongWorld(format!("it exports {exports:?}, expected `{}`", self.export())));
        }
        let imports = world.imports.iter().map(|(key, item)| name(&resolve, key, item));
        let unknown: Vec<String> = imports.filter(|name| !self.knows(name)).collect();
        if !unknown.is_empty() {
            let reason = format!("it imports {unknown:?}, which functions of this world do not have");
            return Err(CompileError::WrongWorld(reason));
        }
        Ok(())
    }

    fn knows(self, import: &str) -> bool {
        let is_wasi = |package: &&str| {
            let rest = import.strip_prefix("wasi:").and_then(|rest| rest.strip_prefix(*package));
            rest.is_some_and(|rest| rest.starts_with('/') && rest.contains("@0.2."))
        };
        self.imports().contains(&import) || WASI.iter().any(is_wasi)
    }
}

/// The name of an import or export: that of its interface, or that of a function or type of the world itself.
fn name(resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> String {
    match item {
        WorldItem::Interface { id, .. } => resolve.id_of(*id).unwrap_or_else(|| resolve.name_world_key(key)),
        WorldItem::Function(_) | WorldItem::Type { .. } => resolve.name_world_key(key),
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            World::Gradient => "gradient",
            World::Aggregate => "aggregate",
        })
    }
}
