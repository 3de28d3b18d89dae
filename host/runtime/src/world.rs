//! The worlds that functions implement.

use std::fmt;

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

    /// Whether a function of this world may import the interface of that name.
    pub(crate) fn has_import(self, import: &str) -> bool {
        let is_wasi = |package: &&str| {
            let rest = import.strip_prefix("wasi:").and_then(|rest| rest.strip_prefix(*package));
            rest.is_some_and(|rest| rest.starts_with('/') && rest.contains("@0.2."))
        };
        self.imports().contains(&import) || WASI.iter().any(is_wasi)
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
