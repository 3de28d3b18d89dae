//! What a data set holds, for people who look at it before they train on it.

use std::path::Path;

use serde::Serialize;

use super::{Dataset, Inputs, labels};

/// What the files of a data set hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// Name of the format.
    pub format: &'static str,
    /// The parts, in the order of the files.
    pub entries: Vec<Entry>,
}

/// One part of a data set: an array, a column, or a file that has no parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Name of the array, the column or the file.
    pub name: String,
    /// Type of its values, as the format names it.
    #[serde(rename = "type")]
    pub ty: String,
    /// Sizes of its dimensions, the samples first.
    pub shape: Vec<u64>,
    /// What training uses it as.
    pub used_as: Use,
}

/// What training uses a part of a data set as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// The values that the model computes on.
    Inputs,
    /// The class of each sample, as a number from 0.
    Labels,
    /// Both, one after the other.
    Both,
    /// Training does not read it.
    Nothing,
}

/// Figures of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contents {
    /// The format and the parts of the files.
    #[serde(flatten)]
    pub source: Source,
    /// Number of samples, at least 1.
    pub samples: usize,
    /// Shape of one sample.
    pub shape: Vec<u32>,
    /// Number of samples of each class, from class 0 on.
    pub classes: Vec<u64>,
    /// Smallest value of an input, as the file holds it.
    pub min: f32,
    /// Largest value of an input, as the file holds it.
    pub max: f32,
    /// Mean of the inputs, as the file holds them.
    pub mean: f64,
    /// Training divides the inputs by this.
    pub scale: f32,
}

impl Contents {
    /// The classes without a sample, as numbers and ranges of them; `None` if every class has one.
    pub fn empty_classes(&self) -> Option<String> {
        labels::empty(&self.classes)
    }
}

impl Dataset {
    /// Number of samples of each class, from class 0 on.
    pub(crate) fn samples_of_classes(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes() as usize];
        for label in &self.0.raw.labels {
            counts[usize::try_from(*label).expect("labels are classes")] += 1;
        }
        counts
    }

    /// Counts what the data set holds.
    pub fn contents(&self) -> Contents {
        let samples = &*self.0;
        let (min, max, mean) = match &samples.raw.inputs {
            Inputs::Bytes(bytes) => figures(bytes.iter().map(|byte| f32::from(*byte))),
            Inputs::Floats(floats) => figures(floats.iter().copied()),
        };
        Contents {
            source: samples.raw.source.clone(),
            samples: self.len(),
            shape: self.shape().to_vec(),
            classes: self.samples_of_classes(),
            min,
            max,
            mean,
            scale: samples.scale,
        }
    }
}

/// Minimum, maximum and mean.
fn figures(values: impl ExactSizeIterator<Item = f32>) -> (f32, f32, f64) {
    let count = values.len() as f64;
    let mut sum = 0.0;
    let mut min = f32::INFINITY;
    let mut max = f32::NEG_INFINITY;
    for value in values {
        sum += f64::from(value);
        min = min.min(value);
        max = max.max(value);
    }
    (min, max, sum / count)
}

/// The last part of a path, as text.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
