//! The worlds that functions implement.

use std::fmt;

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
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            World::Gradient => "gradient",
            World::Aggregate => "aggregate",
        })
    }
}
