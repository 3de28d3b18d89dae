//! Sizes of dimensions, some of them known only at run time.

use std::fmt;
use std::sync::Arc;

/// A size: a number times any named sizes, such as `batch` or `4·batch`.
///
/// Reshaping needs only products; sums of names do not occur in models that can be differentiated.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    factor: i64,
    symbols: Vec<Arc<str>>,
}

/// Sizes of a tensor's dimensions, outermost first.
pub type Shape = Vec<Dim>;

impl Dim {
    /// A size with a name, known at run time.
    pub fn symbol(name: &str) -> Dim {
        Dim { factor: 1, symbols: vec![name.into()] }
    }

    /// The size as a number, if it has no names.
    pub fn fixed(&self) -> Option<i64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    /// The size if all its names were 1.
    pub(crate) fn factor(&self) -> i64 {
        self.factor
    }

    /// Names of its factors, in alphabetical order.
    pub fn symbols(&self) -> impl Iterator<Item = &str> {
        self.symbols.iter().map(|symbol| &**symbol)
    }

    /// The product; `None` if it overflows.
    pub(crate) fn times(&self, other: &Dim) -> Option<Dim> {
        let mut symbols = [&self.symbols[..], &other.symbols[..]].concat();
        symbols.sort();
        Some(Dim { factor: self.factor.checked_mul(other.factor)?, symbols })
    }

    /// The quotient; `None` if the division leaves a remainder.
    pub(crate) fn over(&self, divisor: &Dim) -> Option<Dim> {
        if divisor.factor == 0 || self.factor % divisor.factor != 0 {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &divisor.symbols {
            symbols.remove(symbols.iter().position(|own| own == symbol)?);
        }
        Some(Dim { factor: self.factor / divisor.factor, symbols })
    }
}

impl From<i64> for Dim {
    fn from(factor: i64) -> Dim {
        Dim { factor, symbols: Vec::new() }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.factor, self.symbols.join("·")) {
            (factor, names) if names.is_empty() => write!(f, "{factor}"),
            (1, names) => f.write_str(&names),
            (factor, names) => write!(f, "{factor}·{names}"),
        }
    }
}

/// A shape as text: `[batch, 3, 32, 32]`.
pub(crate) fn text(shape: &[Dim]) -> String {
    let sizes: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// Number of elements; `None` if it overflows.
pub(crate) fn product(shape: &[Dim]) -> Option<Dim> {
    shape.iter().try_fold(Dim::from(1), |product, dim| product.times(dim))
}

/// All sizes as numbers, if all are known.
pub(crate) fn fixed(shape: &[Dim]) -> Option<Vec<i64>> {
    shape.iter().map(Dim::fixed).collect()
}

/// Shape of an element-wise result, broadcast as in NumPy.
pub(crate) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Shape, String> {
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(axis) => shape[axis].clone(),
        None => Dim::from(1),
    };
    let pair = |axis| match (at(a, axis), at(b, axis)) {
        (a, b) if a == b || b == Dim::from(1) => Ok(a),
        (a, b) if a == Dim::from(1) => Ok(b),
        _ => Err(format!("the shapes {} and {} do not fit together", text(a), text(b))),
    };
    (0..rank).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_quotients_undo_each_other() {
        let batch = Dim::symbol("batch");
        let heads = Dim::symbol("heads");
        let product = batch.times(&heads).and_then(|dim| dim.times(&Dim::from(6))).expect("a small product");
        assert_eq!(product.to_string(), "6·batch·heads");
        assert_eq!(product.over(&batch).and_then(|dim| dim.over(&heads)), Some(Dim::from(6)));
        assert_eq!(batch.over(&heads), None);
        assert_eq!(Dim::from(6).over(&Dim::from(4)), None);
        assert_eq!(Dim::from(6).over(&Dim::from(0)), None);
        assert_eq!(Dim::from(i64::MAX).times(&Dim::from(2)), None);
    }

    #[test]
    fn shapes_broadcast_as_in_numpy() {
        let shape = |sizes: &[i64]| sizes.iter().copied().map(Dim::from).collect::<Shape>();
        assert_eq!(broadcast(&shape(&[4, 1, 3]), &shape(&[5, 1])), Ok(shape(&[4, 5, 3])));
        assert_eq!(broadcast(&[Dim::symbol("n")], &shape(&[1])), Ok(vec![Dim::symbol("n")]));
        let error = broadcast(&[Dim::symbol("n")], &shape(&[7])).expect_err("7 may differ from n");
        assert_eq!(error, "the shapes [n] and [7] do not fit together");
    }
}
