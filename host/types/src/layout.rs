//! Names and shapes of a model's parameters and running statistics, and where each lies inside the flat vector of all.

use std::ops::Range;

/// One named parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name, unique in the model; `layers.0.weight` in the manner of PyTorch.
    pub name: String,
    /// Sizes of the dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u32>,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|size| *size as usize).product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The parameters of a model in their fixed order, and behind them the running statistics, which no optimizer moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    parameters: Vec<Parameter>,
    offsets: Vec<usize>,
    len: usize,
    trained: usize,
}

impl Layout {
    /// Lays the parameters one after the other in the order given.
    pub fn new(parameters: Vec<Parameter>) -> Layout {
        Layout::with_statistics(parameters, Vec::new())
    }

    /// Lays parameters, then running statistics one after the other in the order given.
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

    /// Values of all of them together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many values, counted from the first, an optimizer moves.
    pub fn trained(&self) -> usize {
        self.trained
    }

    /// Whether the model has no value at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The one of that name, and where it lies in the flat vector.
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
    fn parameters_lie_one_after_the_other() {
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
