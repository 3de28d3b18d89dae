//! Why arguments do not fit the grammar of their command.

use std::fmt;

/// Why arguments do not fit the grammar of their command. The message quotes little of the arguments, and no control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError(pub(crate) String);

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SyntaxError {}
