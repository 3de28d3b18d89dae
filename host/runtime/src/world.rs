//! The worlds that functions implement.

use std::fmt;

/// The package of WIT whose worlds these are.
pub(crate) const PACKAGE: &str = "skein:train@0.1.0";

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
    /// Every world.
    pub(crate) const ALL: [World; 2] = [World::Gradient, World::Aggregate];

    /// The package of WIT that has the world, such as `skein:train@0.1.0`. A function of another version is refused.
    pub fn package(self) -> &'static str {
        PACKAGE
    }

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

    /// What a function of this world gets less from an import than its interface promises.
    pub(crate) fn reservation(self, import: &str) -> Option<&'static str> {
        let (package, interface) = import.strip_prefix("wasi:")?.split_once('/')?;
        let interface = interface.split('@').next()?;
        match (package, interface) {
            ("cli", "environment") => Some("no arguments and no environment"),
            ("cli", "exit") => Some("a call that exits fails"),
            ("cli", "stdin") => Some("no input"),
            ("cli", "stdout" | "stderr") => Some("shown with the error of a call that fails"),
            ("cli", _) => Some("no terminal"),
            ("clocks" | "random", _) if self == World::Aggregate => Some("the same on every peer"),
            ("filesystem", _) => Some("no files"),
            ("sockets", _) => Some("no network"),
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_provided_with_nothing_in_it_says_what_is_missing() {
        for (import, gradient, aggregate) in [
            ("wasi:sockets/tcp@0.2.6", Some("no network"), Some("no network")),
            ("wasi:filesystem/preopens@0.2.0", Some("no files"), Some("no files")),
            ("wasi:random/random@0.2.0", None, Some("the same on every peer")),
            ("wasi:io/streams@0.2.0", None, None),
            ("skein:train/settings@0.1.0", None, None),
        ] {
            for (world, expected) in [(World::Gradient, gradient), (World::Aggregate, aggregate)] {
                assert!(world.has_import(import), "{world}: {import}");
                assert_eq!(world.reservation(import), expected, "{world}: {import}");
            }
        }
        assert!(!World::Gradient.has_import("wasi:http/types@0.2.0"));
    }

    #[test]
    fn the_interfaces_are_of_the_package() {
        let (package, version) = PACKAGE.split_once('@').expect("a version");
        for world in World::ALL {
            for name in
                world.imports().iter().copied().chain([world.export()]).filter(|name| !name.starts_with("wasi:"))
            {
                assert!(name.starts_with(&format!("{package}/")) && name.ends_with(&format!("@{version}")), "{name}");
            }
        }
    }
}
