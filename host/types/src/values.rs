//! Immutable values, with their statistics cached beside them.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::Statistics;

/// Immutable values. Clones share the buffer and its statistics: it is hashed once, however many peers of a process
/// use it.
#[derive(Clone)]
pub struct Values {
    values: Arc<Vec<f32>>,
    statistics: Arc<OnceLock<Statistics>>,
}

impl Values {
    /// Length, hash and finiteness of the values; the first call reads them all.
    pub fn statistics(&self) -> Statistics {
        *self.statistics.get_or_init(|| Statistics::of(&self.values))
    }

    /// The statistics if they are known, which takes no time.
    pub fn known_statistics(&self) -> Option<Statistics> {
        self.statistics.get().copied()
    }

    /// The buffer itself, if no other clone shares it.
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
    /// Shows only how many there are: a model has millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.len())
    }
}
