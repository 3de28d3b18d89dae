//! Why arguments are none of a command's.

use std::fmt;

/// Why arguments are none of a command's. It repeats little of what was sent, and no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax(pub(crate) String);

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Syntax {}
