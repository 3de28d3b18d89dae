//! Length, hash and finiteness of values, computed in one pass.

use skein_kernels::norm::all_finite;

use crate::Digest;

/// Values per chunk: each is hashed and checked while it is in the cache.
const CHUNK: usize = 1 << 15;

/// Hash and finiteness of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Number of values that were hashed.
    pub len: usize,
    /// BLAKE3 of their little-endian bytes.
    pub hash: Digest,
    /// Whether no value is NaN or infinite.
    pub finite: bool,
}

impl Statistics {
    /// Computes the statistics of `values`.
    pub fn of(values: &[f32]) -> Statistics {
        const { assert!(cfg!(target_endian = "little"), "values are hashed as their bytes in memory") };
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
        let whole = Digest(*blake3::hash(bytemuck::cast_slice(&values)).as_bytes());
        assert_eq!(Statistics::of(&values), Statistics { len: values.len(), hash: whole, finite: true });
        values[2 * CHUNK] = f32::NAN;
        assert!(!Statistics::of(&values).finite);
    }
}
