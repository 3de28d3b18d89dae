//! The model's parameters: their names and shapes, and their values before the first round.

use skein_kernels::layout::{Layout, Parameter};
use skein_workflow::random::Stream;

use crate::manifest;
use crate::manifest::model::Init;

/// Parameters as the job describes them, for samples of `features` values and `classes` classes.
///
/// Without parameters of its own a job gets a multilayer perceptron: `layers.<i>.weight` of shape `[out, in]` and
/// `layers.<i>.bias` of shape `[out]`, in the manner of PyTorch.
pub fn describe(model: &manifest::Model, features: usize, classes: u32) -> Vec<manifest::model::Parameter> {
    if !model.parameters.is_empty() {
        return model.parameters.clone();
    }
    let features = u32::try_from(features).expect("samples were read into memory");
    let sizes: Vec<u32> = [&[features], &model.hidden[..], &[classes]].concat();
    let layers = sizes.windows(2).enumerate().flat_map(|(layer, sizes)| {
        let (inputs, outputs) = (sizes[0], sizes[1]);
        let parameter = |name: &str, shape: Vec<u32>, init| manifest::model::Parameter {
            name: format!("layers.{layer}.{name}"),
            shape,
            init,
        };
        [parameter("weight", vec![outputs, inputs], Init::Kaiming), parameter("bias", vec![outputs], Init::Zeros)]
    });
    layers.collect()
}

/// Where each parameter lies in the flat vector.
pub fn layout(parameters: &[manifest::model::Parameter]) -> Layout {
    let parameters = parameters.iter();
    Layout::new(parameters.map(|p| Parameter { name: p.name.clone(), shape: p.shape.clone() }).collect())
}

/// Values before the first round: the same bits on every machine, each parameter from a stream of its own.
pub fn initial(parameters: &[manifest::model::Parameter], seed: u64) -> Vec<f32> {
    let mut values = Vec::with_capacity(layout(parameters).len());
    for parameter in parameters {
        let count: usize = parameter.shape.iter().map(|size| *size as usize).product();
        let fan_in: f32 = parameter.shape.iter().skip(1).map(|size| *size as f32).product();
        let fan_out = parameter.shape.first().map_or(1.0, |size| *size as f32);
        let mut stream = Stream::new("skein 2026-11 initial parameters", seed, &[parameter.name.as_bytes()]);
        let mut uniform = |bound: f32| values.extend((0..count).map(|_| stream.next_uniform(bound)));
        match parameter.init {
            Init::Kaiming => uniform((6.0 / fan_in).sqrt()),
            Init::Xavier => uniform((6.0 / (fan_in + fan_out)).sqrt()),
            Init::Zeros => values.resize(values.len() + count, 0.0),
            Init::Ones => values.resize(values.len() + count, 1.0),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perceptron_has_a_pair_of_parameters_for_each_layer() {
        let hidden = manifest::Model { hidden: vec![32, 16], parameters: vec![] };
        let shapes: Vec<_> = describe(&hidden, 64, 10).into_iter().map(|p| (p.name, p.shape)).collect();
        let expected = [
            ("layers.0.weight", vec![32, 64]),
            ("layers.0.bias", vec![32]),
            ("layers.1.weight", vec![16, 32]),
            ("layers.1.bias", vec![16]),
            ("layers.2.weight", vec![10, 16]),
            ("layers.2.bias", vec![10]),
        ];
        assert_eq!(shapes, expected.map(|(name, shape)| (name.to_owned(), shape)));
        assert_eq!(describe(&manifest::Model::default(), 64, 10).len(), 2, "softmax regression");
    }

    #[test]
    fn initial_values_depend_on_seed_and_name_only() {
        let parameters = describe(&manifest::Model { hidden: vec![8], parameters: vec![] }, 24, 3);
        let values = initial(&parameters, 1);
        assert_eq!(values.len(), layout(&parameters).len());
        assert_eq!(values, initial(&parameters, 1));
        assert_ne!(values, initial(&parameters, 2));
        let bound = (6.0f32 / 24.0).sqrt();
        assert!(values[..24 * 8].iter().all(|value| value.abs() <= bound));
        assert!(values[..24 * 8].iter().any(|value| value.abs() > 0.9 * bound));
        assert_eq!(values[24 * 8..][..8], [0.0; 8]);
    }
}
