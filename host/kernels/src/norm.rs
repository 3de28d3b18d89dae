//! Finiteness, norms and gradient clipping.

/// Values whose squares are summed into one partial sum; partial sums are then added in order.
const BLOCK: usize = 1 << 16;
/// Independent accumulators of a block, so that the loop vectorises with a fixed order.
const LANES: usize = 8;

/// Whether no value is NaN or infinite.
pub fn all_finite(values: &[f32]) -> bool {
    // There is no early exit within a chunk, so that the compiler vectorises the loop.
    values.chunks(1024).all(|chunk| chunk.iter().fold(true, |finite, value| finite & value.is_finite()))
}

/// Euclidean norm, accumulated in `f64`.
pub fn l2_norm(values: &[f32]) -> f64 {
    values.chunks(BLOCK).map(sum_of_squares).fold(0.0, |sum, block| sum + block).sqrt()
}

/// Scales `values` down so that their norm is at most `norm_max`; returns the norm they had.
///
/// The factor is `norm_max / norm` exactly, without the small constant some frameworks add.
pub fn clip_by_norm(values: &mut [f32], norm_max: f32) -> f64 {
    let norm = l2_norm(values);
    if norm > f64::from(norm_max) {
        let factor = (f64::from(norm_max) / norm) as f32;
        for value in values {
            *value *= factor;
        }
    }
    norm
}

/// Limits every value to `-value_max ..= value_max`.
pub fn clip_by_value(values: &mut [f32], value_max: f32) {
    for value in values {
        *value = value.clamp(-value_max, value_max);
    }
}

fn sum_of_squares(block: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_value_anywhere_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 1023, 1024, 2999] {
                let mut values = vec![f32::MAX; 3000];
                assert!(all_finite(&values));
                values[at] = bad;
                assert!(!all_finite(&values), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn clipping_bounds_the_norm_and_keeps_the_direction() {
        let values: Vec<f32> = (0..BLOCK + 13).map(|i| ((i % 7) as f32) - 3.0).collect();
        let reference = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        assert!((l2_norm(&values) / reference - 1.0).abs() < 1e-12);

        let mut clipped = values.clone();
        assert_eq!(clip_by_norm(&mut clipped, 2.0), l2_norm(&values));
        assert!((l2_norm(&clipped) - 2.0).abs() < 1e-5);
        let factor = 2.0 / reference;
        assert!(clipped.iter().zip(&values).all(|(c, v)| (f64::from(*c) - f64::from(*v) * factor).abs() < 1e-6));

        let mut small = vec![0.3, -0.4];
        clip_by_norm(&mut small, 2.0);
        assert_eq!(small, [0.3, -0.4], "below the bound nothing changes");
    }

    #[test]
    fn clipping_by_value_limits_each() {
        let mut values = [-5.0, -0.5, 0.0, 0.5, 5.0];
        clip_by_value(&mut values, 1.0);
        assert_eq!(values, [-1.0, -0.5, 0.0, 0.5, 1.0]);
    }
}
