//! Loss functions: means over the batch.

use std::fmt;
use std::mem::discriminant;
use std::str::FromStr;

use crate::attributes::Attributes;
use crate::constant::{Constant, ElementType};
use crate::dim::{Dim, Shape, text};
use crate::error::Reason;
use crate::graph::{Type, ValueId};
use crate::ops::Emitted;
use crate::tape::Tape;

/// A loss function, averaged over the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Softmax cross-entropy of logits and classes, the mean over all labels.
    ///
    /// Logits of shape `[N, C]` take labels of shape `[N]`; `[N, T, C]` takes `[N, T]`, as in language models; and
    /// `[N, C, H, W]` takes `[N, H, W]`, as in segmentation.
    CrossEntropy {
        /// Label of samples that are ignored.
        ignore_index: Option<i64>,
    },
    /// Mean of the squared differences, over all elements.
    MeanSquaredError,
    /// Binary cross-entropy of logits and targets in [0, 1], the mean over all elements.
    BinaryCrossEntropy,
}

/// All losses, by their names in manifests and on the command line.
pub const LOSSES: [(&str, Loss); 3] = [
    ("cross-entropy", Loss::CrossEntropy { ignore_index: None }),
    ("mean-squared-error", Loss::MeanSquaredError),
    ("binary-cross-entropy", Loss::BinaryCrossEntropy),
];

/// No loss has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no loss `{0}`: choose {known}", known = LOSSES.map(|(name, _)| format!("`{name}`")).join(", "))]
pub struct UnknownLoss(String);

impl fmt::Display for Loss {
    /// The name in [`LOSSES`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_self = |(_, loss): &(&str, Loss)| discriminant(loss) == discriminant(self);
        LOSSES.into_iter().find(is_self).map_or(Err(fmt::Error), |(name, _)| f.write_str(name))
    }
}

impl FromStr for Loss {
    type Err = UnknownLoss;

    fn from_str(name: &str) -> Result<Loss, UnknownLoss> {
        let found = LOSSES.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, loss)| loss).ok_or_else(|| UnknownLoss(name.to_owned()))
    }
}

impl Loss {
    /// Type of the labels for an output of the given shape.
    fn labels(self, output: &[Dim]) -> Result<Type, Reason> {
        let Loss::CrossEntropy { .. } = self else { return Ok(Type::new(ElementType::F32, output.to_vec())) };
        let axis = class_axis(output)?;
        let mut shape: Shape = output.to_vec();
        shape.remove(axis);
        Ok(Type::new(ElementType::I64, shape))
    }

    /// Adds the loss of `output`, of shape `[1]`.
    pub(crate) fn apply(self, tape: &mut Tape, output: ValueId) -> Emitted {
        if tape.graph.element(output) != ElementType::F32 {
            return Err("the model's output is not float32".into());
        }
        let ty = self.labels(tape.graph.shape(output))?;
        let labels = tape.graph.input("labels", ty);
        let loss = match self {
            Loss::CrossEntropy { ignore_index } => cross_entropy(tape, output, labels, ignore_index),
            Loss::MeanSquaredError => {
                let difference = step(tape, "Sub", &[output, labels])?;
                let square = step(tape, "Mul", &[difference, difference])?;
                mean_of_all(tape, square)
            }
            Loss::BinaryCrossEntropy => {
                // softplus(z) − z·y, which is stable for large z of either sign.
                let soft = step(tape, "Softplus", &[output])?;
                let product = step(tape, "Mul", &[output, labels])?;
                let each = step(tape, "Sub", &[soft, product])?;
                mean_of_all(tape, each)
            }
        }?;
        let one = tape.graph.integers(&[1]);
        tape.apply_one("Reshape", &[loss, one], Attributes::default().with("allowzero", 0))
    }
}

fn step(tape: &mut Tape, op: &'static str, inputs: &[ValueId]) -> Emitted {
    tape.apply_one(op, inputs, Attributes::default())
}

/// The axis of the classes in an output.
fn class_axis(output: &[Dim]) -> Result<usize, Reason> {
    match output.len() {
        2 => Ok(1),
        3 => Ok(2),
        4.. => Ok(1),
        _ => Err(format!("an output of shape {} has no axis of classes", text(output))),
    }
}

fn mean_of_all(tape: &mut Tape, x: ValueId) -> Emitted {
    let axes: Vec<i64> = (0..tape.graph.rank(x) as i64).collect();
    reduce(tape, "ReduceMean", x, &axes)
}

fn reduce(tape: &mut Tape, op: &'static str, x: ValueId, axes: &[i64]) -> Emitted {
    let axes = tape.graph.integers(axes);
    let attributes = Attributes::default().with("keepdims", 0).with("noop_with_empty_axes", 0);
    tape.apply_one(op, &[x, axes], attributes)
}

/// `−log softmax(z)` at the label, by a one-hot mask: its gradient is `softmax(z) − one-hot` divided by the count.
fn cross_entropy(tape: &mut Tape, output: ValueId, labels: ValueId, ignored: Option<i64>) -> Emitted {
    let rank = tape.graph.rank(output);
    let axis = class_axis(tape.graph.shape(output))?;
    let logits = if axis + 1 == rank {
        output
    } else {
        let perm: Vec<i64> = (0..rank).filter(|other| *other != axis).chain([axis]).map(|axis| axis as i64).collect();
        tape.apply_one("Transpose", &[output], Attributes::default().with("perm", perm))?
    };
    let classes = tape.graph.shape(logits)[rank - 1].fixed().ok_or("the number of classes is not known")?;
    let attributes = Attributes::default().with("axis", rank as i64 - 1);
    let log = tape.apply_one("LogSoftmax", &[logits], attributes)?;
    let depth = tape.graph.integers(&[classes]);
    let values = tape.graph.constant(Constant::floats(&[2], &[0.0, 1.0]));
    let attributes = Attributes::default().with("axis", rank as i64 - 1);
    let one_hot = tape.graph.op_with("OneHot", &[labels, depth, values], attributes)?;
    let taken = step(tape, "Mul", &[log, one_hot])?;
    let each = reduce(tape, "ReduceSum", taken, &[rank as i64 - 1])?;
    let mean = match ignored {
        None => mean_of_all(tape, each)?,
        Some(ignored) => {
            let ignored = tape.graph.constant(Constant::array(&[], &[ignored]));
            let is_ignored = tape.graph.op("Equal", &[labels, ignored])?;
            let counts = tape.graph.op("Not", &[is_ignored])?;
            let counts = tape.graph.cast(counts, ElementType::F32)?;
            let axes: Vec<i64> = (0..rank as i64 - 1).collect();
            let kept = step(tape, "Mul", &[each, counts])?;
            let sum = reduce(tape, "ReduceSum", kept, &axes)?;
            let count = reduce(tape, "ReduceSum", counts, &axes)?;
            // A batch with only ignored labels has loss 0.
            let one = tape.graph.scalar(1.0);
            let count = tape.graph.op("Max", &[count, one])?;
            step(tape, "Div", &[sum, count])?
        }
    };
    step(tape, "Neg", &[mean])
}
