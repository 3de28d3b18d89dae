//! The network itself, independent of components, so that it can be tested natively.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, Zip};

/// One fully connected layer: `y = x · weightᵀ + bias`.
#[derive(Debug)]
pub struct Layer<'a> {
    /// Shape `[outputs, inputs]`, as in PyTorch's `Linear`.
    pub weight: ArrayView2<'a, f32>,
    /// Shape `[outputs]`, added to the layer's result for every sample.
    pub bias: ArrayView1<'a, f32>,
}

/// Layers whose sizes fit one another.
#[derive(Debug)]
pub struct Network<'a> {
    layers: Vec<Layer<'a>>,
}

/// Gradient of one [`Layer`], of the same shapes.
#[derive(Debug)]
pub struct LayerGradient {
    /// Gradient of [`Layer::weight`], of shape `[outputs, inputs]`.
    pub weight: Array2<f32>,
    /// Gradient of [`Layer::bias`], of shape `[outputs]`.
    pub bias: Array1<f32>,
}

/// Mean loss over a batch and the number of samples classified correctly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Mean softmax cross-entropy in nats.
    pub loss: f32,
    /// Samples whose largest logit is their label's; of equal logits the first counts as largest.
    pub correct: u32,
}

/// Layers or a batch that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The model has no layers.
    #[error("the model has no layer")]
    NoLayers,
    /// A layer does not take as many values as the one before it returns, or its bias has another length.
    #[error("layer {0} does not fit the layer before it or its own bias")]
    Layers(usize),
    /// The samples do not have as many features as the first layer takes.
    #[error("a sample has {actual} features where the first layer takes {expected}")]
    Features {
        /// Columns of the first weight.
        expected: usize,
        /// Features of the batch.
        actual: usize,
    },
    /// Not as many labels as samples, or no sample.
    #[error("{labels} labels for {samples} samples")]
    Samples {
        /// Rows of the input.
        samples: usize,
        /// Labels of the batch, of which there must be one per sample.
        labels: usize,
    },
    /// A label that is not a class of the last layer.
    #[error("label {label} of sample {sample} is none of the {classes} classes")]
    Label {
        /// Index in the batch.
        sample: usize,
        /// The label that is out of range.
        label: i64,
        /// Rows of the last weight.
        classes: usize,
    },
}

impl<'a> Network<'a> {
    /// Checks that the layers fit one another.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::Layers`].
    pub fn new(layers: Vec<Layer<'a>>) -> Result<Network<'a>, Error> {
        if layers.is_empty() {
            return Err(Error::NoLayers);
        }
        for (index, layer) in layers.iter().enumerate() {
            let follows = index == 0 || layers[index - 1].weight.nrows() == layer.weight.ncols();
            if !follows || layer.bias.len() != layer.weight.nrows() {
                return Err(Error::Layers(index));
            }
        }
        Ok(Network { layers })
    }

    /// Loss over a batch: `input` of shape `[samples, features]`, one label per sample.
    ///
    /// # Errors
    /// A batch that does not fit the network.
    pub fn evaluate(&self, input: ArrayView2<'_, f32>, labels: &[i64]) -> Result<Score, Error> {
        self.check(input, labels)?;
        let mut logits = self.activations(input).pop().expect("there is a last layer");
        Ok(softmax_loss(&mut logits, labels))
    }

    /// Loss and its gradient, layer by layer.
    ///
    /// # Errors
    /// As [`Network::evaluate`].
    pub fn gradient(&self, input: ArrayView2<'_, f32>, labels: &[i64]) -> Result<(Score, Vec<LayerGradient>), Error> {
        self.check(input, labels)?;
        let mut activations = self.activations(input);
        let mut delta = activations.pop().expect("there is a last layer");
        let score = softmax_loss(&mut delta, labels);
        let mut gradients = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let below = activations.pop();
            let layer_input = below.as_ref().map_or(input, |below| below.view());
            gradients.push(LayerGradient { weight: delta.t().dot(&layer_input), bias: delta.sum_axis(Axis(0)) });
            if index > 0 {
                delta = delta.dot(&layer.weight);
                // The rectifier passes the gradient where it passed the value.
                Zip::from(&mut delta).and(layer_input).for_each(|delta, value| {
                    if *value <= 0.0 {
                        *delta = 0.0;
                    }
                });
            }
        }
        gradients.reverse();
        Ok((score, gradients))
    }

    /// Output of every layer, rectified except for the last one's logits.
    fn activations(&self, input: ArrayView2<'_, f32>) -> Vec<Array2<f32>> {
        let mut outputs: Vec<Array2<f32>> = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let below = outputs.last().map_or(input, |below| below.view());
            let mut output = below.dot(&layer.weight.t()) + layer.bias;
            if index + 1 < self.layers.len() {
                output.mapv_inplace(|value| value.max(0.0));
            }
            outputs.push(output);
        }
        outputs
    }

    fn check(&self, input: ArrayView2<'_, f32>, labels: &[i64]) -> Result<(), Error> {
        let (samples, features) = input.dim();
        if samples != labels.len() || samples == 0 {
            return Err(Error::Samples { samples, labels: labels.len() });
        }
        let expected = self.layers[0].weight.ncols();
        if features != expected {
            return Err(Error::Features { expected, actual: features });
        }
        let classes = self.layers[self.layers.len() - 1].weight.nrows();
        match labels.iter().position(|label| !(0..classes as i64).contains(label)) {
            Some(sample) => Err(Error::Label { sample, label: labels[sample], classes }),
            None => Ok(()),
        }
    }
}

/// Mean softmax cross-entropy; turns `logits` into its gradient with respect to them.
fn softmax_loss(logits: &mut Array2<f32>, labels: &[i64]) -> Score {
    let samples = labels.len() as f32;
    let mut loss = 0.0f64;
    let mut correct = 0;
    for (mut row, &label) in logits.rows_mut().into_iter().zip(labels) {
        let label = label as usize;
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        correct += u32::from(row.iter().position(|value| *value == largest) == Some(label));
        // Shifted by the largest logit, no exponential overflows and their sum is at least one.
        let shifted = row[label] - largest;
        row.mapv_inplace(|value| (value - largest).exp());
        let sum = row.sum();
        loss += f64::from(sum.ln() - shifted);
        row.mapv_inplace(|value| value / (sum * samples));
        row[label] -= 1.0 / samples;
    }
    Score { loss: (loss / f64::from(samples)) as f32, correct }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array, array};

    /// Parameters of layers with the given sizes, from a linear congruential generator.
    fn parameters(sizes: &[usize]) -> Vec<(Array2<f32>, Array1<f32>)> {
        let mut state = 7u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        sizes
            .windows(2)
            .map(|s| {
                let weight = Array::from_shape_simple_fn((s[1], s[0]), &mut next);
                (weight, Array::from_shape_simple_fn(s[1], &mut next))
            })
            .collect()
    }

    fn network(parameters: &[(Array2<f32>, Array1<f32>)]) -> Network<'_> {
        let layers = parameters.iter().map(|(w, b)| Layer { weight: w.view(), bias: b.view() }).collect();
        Network::new(layers).expect("layers that fit")
    }

    /// Central differences along each coordinate of each parameter.
    #[test]
    fn gradients_agree_with_finite_differences() {
        for sizes in [&[3, 4][..], &[3, 5, 4], &[3, 6, 5, 4]] {
            let mut parameters = parameters(sizes);
            let input = array![[0.5, -1.0, 0.25], [1.0, 0.75, -0.5]];
            let labels = [3, 1];
            let (_, gradients) = network(&parameters).gradient(input.view(), &labels).expect("a batch that fits");
            let step = 1e-2;
            for layer in 0..parameters.len() {
                for index in 0..parameters[layer].0.len() {
                    let at = (index / parameters[layer].0.ncols(), index % parameters[layer].0.ncols());
                    let mut loss_at = |offset: f32| {
                        let original = parameters[layer].0[at];
                        parameters[layer].0[at] = original + offset;
                        let score = network(&parameters).evaluate(input.view(), &labels).expect("a batch that fits");
                        parameters[layer].0[at] = original;
                        score.loss
                    };
                    let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step);
                    let analytic = gradients[layer].weight[at];
                    assert!((numeric - analytic).abs() < 2e-3, "{sizes:?} {layer} {at:?}: {numeric} {analytic}");
                }
                let sum: f32 = gradients[layer].bias.sum();
                let mut loss_at = |offset: f32| {
                    parameters[layer].1 += offset;
                    let score = network(&parameters).evaluate(input.view(), &labels).expect("a batch that fits");
                    parameters[layer].1 -= offset;
                    score.loss
                };
                let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step);
                assert!((numeric - sum).abs() < 2e-3, "{sizes:?} {layer} bias: {numeric} {sum}");
            }
        }
    }

    #[test]
    fn huge_logits_have_a_finite_loss() {
        let mut logits = array![[1e30f32, -1e30]];
        let score = softmax_loss(&mut logits, &[0]);
        assert_eq!(score, Score { loss: 0.0, correct: 1 });
        assert!(logits.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn mismatched_sizes_are_refused() {
        let parameters = parameters(&[3, 4]);
        let network = network(&parameters);
        let input = Array2::zeros((2, 3));
        let refused = |input: &Array2<f32>, labels: &[i64]| network.evaluate(input.view(), labels).err();
        assert_eq!(refused(&input, &[0]), Some(Error::Samples { samples: 2, labels: 1 }));
        assert_eq!(refused(&Array2::zeros((0, 3)), &[]), Some(Error::Samples { samples: 0, labels: 0 }));
        assert_eq!(refused(&input, &[0, 4]), Some(Error::Label { sample: 1, label: 4, classes: 4 }));
        assert_eq!(refused(&input, &[-1, 0]), Some(Error::Label { sample: 0, label: -1, classes: 4 }));
        assert_eq!(refused(&Array2::zeros((1, 5)), &[0]), Some(Error::Features { expected: 3, actual: 5 }));
        assert_eq!(Network::new(vec![]).err(), Some(Error::NoLayers));
    }
}
