//! Values that never change once they are made, and what was found out about them.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::Statistics;

/// Immutable values. Cloning shares them, and with them their statistics: however many peers of a process look at
/// the same buffer, it is hashed once.
#[derive(Clone)]
pub struct Values {
    values: Arc<Vec<f32>>,
    statistics: Arc<OnceLock<Statistics>>,
}

impl Values {
    /// What there is to know about the values; takes a pass over them the first time.
    pub fn statistics(&self) -> Statistics {
        *self.statistics.get_or_init(|| Statistics::of(&self.values))
    }

    /// The buffer itself, if nobody else has it.
    pub fn into_buffer(self) -> Option<Vec<f32>> {
        Arc::into_inner(self.values)
    }

    /// The buffer itself, shared.
    pub fn buffer(&self) -> Arc<Vec<f32>> {
        self.values.clone()
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Values {
        Values { values: Arc::new(values), statistics: Arc::default() }
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Values) -> bool {
        self.values == other.values
    }
}

impl fmt::Debug for Values {
    /// How many there are: nobody reads a million numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.len())
    }
}
