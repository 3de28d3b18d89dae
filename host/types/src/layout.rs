//! Names and shapes of a model's parameters and running statistics, and their positions in one flat vector.

use std::ops::Range;

/// Name and shape of a parameter or a running statistic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name, unique in the model; as in PyTorch, for example `layers.0.weight`.
    pub name: String,
    /// Sizes of the dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u32>,
}

impl Parameter {
    /// Number of values: the product of the dimensions, 1 for a scalar.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|size| *size as usize).product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The parameters of a model in their fixed order, followed by the running statistics, which no optimizer updates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    parameters: Vec<Parameter>,
    offsets: Vec<usize>,
    len: usize,
    trained: usize,
}

impl Layout {
    /// Lays out the parameters one after the other, in the order given.
    pub fn new(parameters: Vec<Parameter>) -> Layout {
        Layout::with_statistics(parameters, Vec::new())
    }

    /// Lays out parameters, then running statistics, one after the other in the order given.
    pub fn with_statistics(mut parameters: Vec<Parameter>, statistics: Vec<Parameter>) -> Layout {
        let trained = parameters.iter().map(Parameter::len).sum();
        parameters.extend(statistics);
        let mut len = 0;
        let offsets = parameters
            .iter()
            .map(|parameter| {
                let offset = len;
                len += parameter.len();
                offset
            })
            .collect();
        Layout { parameters, offsets, len, trained }
    }

    /// All parameters and running statistics in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Length of the flat vector.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many values, counted from the first, an optimizer updates.
    pub fn trained(&self) -> usize {
        self.trained
    }

    /// Whether the flat vector has no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parameter or statistic called `name`, and its range in the flat vector.
    pub fn find(&self, name: &str) -> Option<(&Parameter, Range<usize>)> {
        let index = self.parameters.iter().position(|parameter| parameter.name == name)?;
        let start = self.offsets[index];
        Some((&self.parameters[index], start..start + self.parameters[index].len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_laid_out_one_after_the_other() {
        let parameter = |name: &str, shape: &[u32]| Parameter { name: name.into(), shape: shape.into() };
        let layout = Layout::new(vec![parameter("w", &[3, 2]), parameter("scale", &[]), parameter("b", &[3])]);
        assert_eq!(layout.len(), 10);
        assert_eq!(layout.find("scale").map(|(_, range)| range), Some(6..7));
        assert_eq!(layout.find("b").map(|(_, range)| range), Some(7..10));
        assert_eq!(layout.find("c"), None);
        assert_eq!(layout.trained(), 10);
        let layout = Layout::with_statistics(vec![parameter("w", &[3, 2])], vec![parameter("mean", &[3])]);
        assert_eq!((layout.trained(), layout.len()), (6, 9));
        assert_eq!(layout.find("mean").map(|(_, range)| range), Some(6..9));
    }
}
