//! Scores outputs against their targets.

/// Loss and accuracy over a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Mean of the loss: over the samples of a classification, otherwise over all output values.
    pub loss: f32,
    /// Samples classified correctly; `None` if the task is not a classification.
    pub correct: Option<u32>,
}

/// Softmax cross-entropy of rows of `classes` logits. Sums are in 64 bits: batches are small, and losses are compared.
///
/// # Errors
/// The labels do not fit the logits.
pub fn cross_entropy(logits: &[f32], classes: usize, labels: &[i64]) -> Result<Score, String> {
    if classes == 0 || labels.is_empty() || logits.len() != labels.len() * classes {
        return Err(format!("{} logits of {classes} classes for {} labels", logits.len(), labels.len()));
    }
    let mut sum = 0.0;
    let mut correct = 0;
    for (row, label) in logits.chunks_exact(classes).zip(labels) {
        let label = usize::try_from(*label).ok().filter(|label| *label < classes);
        let label = label.ok_or_else(|| format!("a label is none of the {classes} classes"))?;
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        sum += exponentials.ln() - f64::from(row[label] - largest);
        // Of several largest logits the first is chosen.
        correct += u32::from(row.iter().position(|logit| *logit == largest) == Some(label));
    }
    Ok(Score { loss: (sum / labels.len() as f64) as f32, correct: Some(correct) })
}

/// Mean of `each` over pairs of output and target.
///
/// # Errors
/// The numbers of outputs and targets differ, or both are 0.
pub fn mean(outputs: &[f32], targets: &[f32], each: impl Fn(f64, f64) -> f64) -> Result<Score, String> {
    if outputs.is_empty() || outputs.len() != targets.len() {
        return Err(format!("{} outputs for {} targets", outputs.len(), targets.len()));
    }
    let sum: f64 = outputs.iter().zip(targets).map(|(output, target)| each((*output).into(), (*target).into())).sum();
    Ok(Score { loss: (sum / outputs.len() as f64) as f32, correct: None })
}

/// Binary cross-entropy of a logit, stable on either side: `max(z, 0) − z·y + ln(1 + e^−|z|)`.
pub fn binary_cross_entropy(logit: f64, target: f64) -> f64 {
    logit.max(0.0) - logit * target + (-logit.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_logits_have_the_loss_of_a_guess() {
        let score = cross_entropy(&[1.0; 6], 3, &[0, 2]).expect("labels that fit");
        assert!((score.loss - 3.0f32.ln()).abs() < 1e-6);
        assert_eq!(score.correct, Some(1), "the first of equal logits is chosen");
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let score = cross_entropy(&[1e4, -1e4, -1e4, 1e4], 2, &[0, 0]).expect("labels that fit");
        assert!((score.loss - 1e4).abs() < 1.0, "{}", score.loss);
        assert_eq!(binary_cross_entropy(1e4, 1.0), 0.0);
        assert_eq!(binary_cross_entropy(-1e4, 1.0), 1e4);
    }

    #[test]
    fn mismatched_lengths_are_refused() {
        assert!(cross_entropy(&[0.0; 5], 3, &[0, 2]).is_err());
        assert!(cross_entropy(&[0.0; 6], 3, &[0, 3]).is_err());
        assert!(cross_entropy(&[], 3, &[]).is_err());
        assert!(mean(&[0.0; 2], &[0.0; 3], |a, b| a - b).is_err());
    }
}
