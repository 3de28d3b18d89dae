//! Values that never change once they are made, and what was found out about them.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use skein_kernels::Digest;
use skein_kernels::norm::all_finite;

/// Values looked at together: they are hashed and checked while they are in the cache.
const CHUNK: usize = 1 << 15;

/// Immutable values. Cloning shares them, and with them their statistics: however many peers of a process look at
/// the same buffer, it is hashed once.
#[derive(Clone)]
pub struct Values {
    values: Arc<Vec<f32>>,
    statistics: Arc<OnceLock<Statistics>>,
}

/// What a store finds out about values it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Number of values.
    pub len: usize,
    /// BLAKE3 of their little-endian bytes.
    pub hash: Digest,
    /// Whether none is NaN or infinite.
    pub finite: bool,
}

impl Values {
    /// What there is to know about the values; takes a pass over them the first time.
    pub fn statistics(&self) -> Statistics {
        *self.statistics.get_or_init(|| Statistics::of(&self.values))
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

impl Statistics {
    /// Looks at every value.
    pub fn of(values: &[f32]) -> Statistics {
        const { assert!(cfg!(target_endian = "little"), "values are hashed as they lie in memory") };
        let mut hasher = blake3::Hasher::new();
        let mut finite = true;
        for chunk in values.chunks(CHUNK) {
            hasher.update(bytemuck::cast_slice(chunk));
            finite &= all_finite(chunk);
        }
        Statistics { len: values.len(), hash: Digest(*hasher.finalize().as_bytes()), finite }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_span_chunks() {
        let mut values = vec![0.5f32; 3 * CHUNK + 5];
        let good = Values::from(values.clone());
        let whole = blake3::hash(bytemuck::cast_slice(&values));
        assert_eq!(good.statistics(), Statistics { len: values.len(), hash: Digest(*whole.as_bytes()), finite: true });
        values[2 * CHUNK] = f32::NAN;
        assert!(!Values::from(values).statistics().finite);
    }
}
