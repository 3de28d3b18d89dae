//! Mean and weighted mean of rows. Neither tolerates a single Byzantine peer; see [`crate::order`] for rules that do.

use crate::error::{Error, check_rows};
use crate::rule::{Aggregate, RuleKind};
use crate::tree::sum_rows;

/// [`mean`]: every row counts the same; tolerates no Byzantine peer.
pub static MEAN: RuleKind = RuleKind {
    name: "mean",
    function: "aggregate-mean",
    takes_weights: false,
    parameters: &[],
    rows_min: |_| 1,
    aggregate: Aggregate::Coordinates(|_, rows, out| mean(rows, out)),
};

/// [`weighted_mean`], with one weight for each row; tolerates no Byzantine peer.
pub static WEIGHTED_MEAN: RuleKind = RuleKind {
    name: "weighted-mean",
    function: "aggregate-mean",
    takes_weights: true,
    parameters: &[],
    rows_min: |_| 1,
    aggregate: Aggregate::Coordinates(|rule, rows, out| weighted_mean(rows, rule.weights(), out)),
};

/// Arithmetic mean: `out[k] = (Σ rows[i][k]) / n`, summed in tree order.
///
/// # Errors
/// No row, rows of different lengths, or a value that is not finite.
pub fn mean(rows: &[&[f32]], out: &mut [f32]) -> Result<(), Error> {
    check_rows(rows, 1, out)?;
    sum_rows(rows, None, out)?;
    divide(out, rows.len() as f32);
    Ok(())
}

/// Weighted mean: `out[k] = (Σ weights[i] · rows[i][k]) / Σ weights[i]`.
///
/// # Errors
/// As [`mean`], and weights that are negative, are not one per row, or do not sum to a positive finite value.
pub fn weighted_mean(rows: &[&[f32]], weights: &[f32], out: &mut [f32]) -> Result<(), Error> {
    check_rows(rows, 1, out)?;
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let positive = total.is_finite() && total > 0.0;
    if weights.len() != rows.len() || weights.iter().any(|weight| *weight < 0.0) || !positive {
        return Err(Error::Weights);
    }
    sum_rows(rows, Some(weights), out)?;
    divide(out, total as f32);
    Ok(())
}

/// `values[k] /= divisor`; a division, since multiplying by the reciprocal rounds twice.
pub fn divide(values: &mut [f32], divisor: f32) {
    for value in values {
        *value /= divisor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn means_follow_their_f64_reference(
            rows in (1usize..20).prop_flat_map(|n| prop::collection::vec(
                (prop::collection::vec(-1e3f32..1e3, 5), 0.1f32..100.0), n)),
        ) {
            let (values, weights): (Vec<Vec<f32>>, Vec<f32>) = rows.into_iter().unzip();
            let rows: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let mut plain = [0.0; 5];
            let mut weighted = [0.0; 5];
            mean(&rows, &mut plain).expect("valid rows");
            weighted_mean(&rows, &weights, &mut weighted).expect("valid rows");
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for k in 0..5 {
                let column = || rows.iter().map(|row| f64::from(row[k]));
                let expected = column().sum::<f64>() / rows.len() as f64;
                prop_assert!((f64::from(plain[k]) - expected).abs() < 1e-3);
                let expected = column().zip(&weights).map(|(x, w)| x * f64::from(*w)).sum::<f64>() / total;
                prop_assert!((f64::from(weighted[k]) - expected).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn bad_rows_are_refused() {
        let mut out = [0.0; 2];
        let good = [1.0f32, 2.0];
        assert_eq!(mean(&[], &mut out), Err(Error::TooFew { needed: 1, present: 0 }));
        let short: &[f32] = &[1.0];
        assert_eq!(mean(&[&good, short], &mut out), Err(Error::Length { row: 1, expected: 2, actual: 1 }));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(mean(&[&good, &[0.0, bad]], &mut out), Err(Error::NonFinite { row: 1 }));
        }
        for weights in [&[1.0f32][..], &[0.0, 0.0], &[1.0, f32::NAN], &[2.0, -1.0]] {
            assert_eq!(weighted_mean(&[&good, &good], weights, &mut out), Err(Error::Weights));
        }
    }
}
