//! Which classes the labels of a data set name, and what is wrong with labels that name none.

use std::ops::RangeInclusive;

use skein_types::counted;

/// Classes up to which any set may have more of them than samples, if the manifest does not say how many there are.
const CLASSES_USUAL: i64 = 1000;

/// Ranges of classes without a sample that a message names.
const NAMED_MAX: usize = 5;

/// The number of classes: as set in the manifest, otherwise one more than the largest label.
///
/// # Errors
/// A label that is not a class, worded to follow the path of the data set, with the fix.
pub(super) fn classes(labels: &[i64], set: Option<u32>) -> Result<u32, String> {
    let largest = labels.iter().copied().max().unwrap_or_default();
    let at = |is_wrong: &dyn Fn(i64) -> bool| {
        let sample = labels.iter().position(|label| is_wrong(*label))?;
        Some(format!("has label {} at sample {sample}", labels[sample]))
    };
    if let Some(place) = at(&|label| label < 0) {
        return Err(format!("{place}, and classes are counted from 0: leave such samples out, or number their class"));
    }
    if let Some(classes) = set {
        let Some(place) = at(&|label| label >= i64::from(classes)) else { return Ok(classes) };
        let is_shifted = largest == i64::from(classes) && !labels.contains(&0);
        let fix = if is_shifted {
            "the labels seem to count from 1, so subtract 1 from each".to_owned()
        } else {
            format!("set `data.classes` to {} or more, or correct the label", largest.saturating_add(1))
        };
        return Err(format!("{place}, expected a class from 0 to {}: {fix}", i64::from(classes) - 1));
    }
    let samples = labels.len();
    let classes = largest.saturating_add(1);
    match u32::try_from(classes) {
        // More classes than samples are no classes: years, prices or numbers of customers.
        Ok(_) if classes > CLASSES_USUAL && classes as usize > samples => Err(format!(
            "has label {largest}, so {classes} classes, and only {}: choose the labels (of a CSV file, by \
             `data.label_column`), number the classes from 0, or set `data.classes = {classes}` if there are so many",
            counted(samples, "sample")
        )),
        Ok(classes) => Ok(classes),
        Err(_) => {
            Err(format!("has label {largest}, expected a class from 0 to {}: number the classes from 0", u32::MAX - 1))
        }
    }
}

/// Classes without a sample, if `counts` are the samples of each class: numbers and ranges of them; `None` if every class
/// has a sample.
pub(super) fn empty(counts: &[u64]) -> Option<String> {
    let mut ranges: Vec<RangeInclusive<usize>> = Vec::new();
    for (class, _) in counts.iter().enumerate().filter(|(_, count)| **count == 0) {
        match ranges.last_mut() {
            Some(range) if *range.end() + 1 == class => *range = *range.start()..=class,
            _ => ranges.push(class..=class),
        }
    }
    let more = if ranges.len() > NAMED_MAX { ", …" } else { "" };
    let name = |range: &RangeInclusive<usize>| {
        let [first, last] = [range.start(), range.end()];
        if first == last { first.to_string() } else { format!("{first} to {last}") }
    };
    let named: Vec<String> = ranges.iter().take(NAMED_MAX).map(name).collect();
    (!named.is_empty()).then(|| named.join(", ") + more)
}

/// A warning about classes without a sample, with the fix; `None` if every class has one. The largest label made the number
/// of classes.
pub(crate) fn warning(counts: &[u64]) -> Option<String> {
    let empty = empty(counts)?;
    let smallest = counts.iter().position(|count| *count > 0)?;
    let classes = counts.len();
    let is_shifted = counts[smallest..].iter().all(|count| *count > 0);
    let fix = if is_shifted {
        format!("subtract {smallest} from each label")
    } else {
        "correct the labels, or number the classes from 0 without gaps".to_owned()
    };
    Some(format!(
        "the labels go from {smallest} to {}, so there are {classes} classes, but no sample of class {empty}: {fix}, or set \
         `data.classes = {classes}` if the model is to have so many",
        classes - 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_without_a_sample_are_named_with_the_fix() {
        let rest = "or set `data.classes = 4` if the model is to have so many";
        for (counts, expected) in [
            (&[2, 1, 3][..], None),
            (
                &[0, 5, 5, 5],
                Some(format!(
                    "the labels go from 1 to 3, so there are 4 classes, but no sample of class 0: subtract 1 from each label, {rest}"
                )),
            ),
            (
                &[0, 5, 0, 5],
                Some(format!(
                    "the labels go from 1 to 3, so there are 4 classes, but no sample of class 0, 2: correct the labels, or number the \
                     classes from 0 without gaps, {rest}"
                )),
            ),
        ] {
            assert_eq!(warning(counts), expected, "{counts:?}");
        }
        let mut stray = vec![0; 100];
        [0, 1, 2, 99].iter().for_each(|class| stray[*class] = 5);
        assert_eq!(empty(&stray).as_deref(), Some("3 to 98"));
        let every_other: Vec<u64> = (0..20).map(|class| class % 2).collect();
        assert_eq!(empty(&every_other).as_deref(), Some("0, 2, 4, 6, 8, …"));
        assert_eq!(empty(&[1, 1]), None);
    }

    #[test]
    fn labels_name_classes_or_are_refused_with_the_fix() {
        let error = |labels: &[i64], set| classes(labels, set).expect_err("no classes");
        assert_eq!(classes(&[0, 2, 1], None), Ok(3));
        assert_eq!(classes(&[0, 2, 1], Some(5)), Ok(5));
        assert_eq!(classes(&[999], None), Ok(1000), "a small sample of many classes");
        assert_eq!(
            error(&[0, -1], None),
            "has label -1 at sample 1, and classes are counted from 0: leave such samples out, or number their class"
        );
        assert!(error(&[-2, -3], Some(4)).starts_with("has label -2 at sample 0, and classes are counted from 0"));
        assert_eq!(
            error(&[0, 3, 5], Some(3)),
            "has label 3 at sample 1, expected a class from 0 to 2: set `data.classes` to 6 or more, or correct the label"
        );
        assert_eq!(
            error(&[1, 3, 2], Some(3)),
            "has label 3 at sample 1, expected a class from 0 to 2: the labels seem to count from 1, so subtract 1 from each"
        );
        assert_eq!(
            error(&[1999, 2026], None),
            "has label 2026, so 2027 classes, and only 2 samples: choose the labels (of a CSV file, by \
             `data.label_column`), number the classes from 0, or set `data.classes = 2027` if there are so many"
        );
        assert!(error(&[i64::MAX], None).contains("expected a class from 0 to 4294967294"));
    }
}
