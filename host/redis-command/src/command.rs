//! The commands, with the arguments of each in their order.

use std::ffi::CStr;

use skein_kernels::mean::MEAN;
use skein_kernels::optimizer::{Optimizer, SGD, Step};
use skein_kernels::rule::Rule;
use skein_kernels::update::Change;

use crate::form::Form;
use crate::{Command, DIMENSIONS_MAX, KEYS_MAX, SyntaxError};

/// The keyword before the rows of [`Apply`], by which the server finds their keys for its access list.
pub const ROWS: &CStr = c"ROWS";

/// `SKEIN.VERSION`: the version of the grammar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version;

impl<A> Command<A> for Version {
    const NAME: &'static CStr = c"SKEIN.VERSION";

    fn arguments<F: Form<Argument = A>>(&mut self, _form: &mut F) -> Result<(), SyntaxError> {
        Ok(())
    }
}

/// `SKEIN.SET key version blob [dimension ...]`: stores a tensor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Set<A> {
    /// The key to write to.
    pub key: A,
    /// Version to store with the tensor, which `SKEIN.META` returns.
    pub version: u64,
    /// The tensor's values, as little-endian `f32`.
    pub blob: A,
    /// The tensor's shape; empty for a vector.
    pub shape: Vec<u32>,
}

impl<A: Default> Command<A> for Set<A> {
    const NAME: &'static CStr = c"SKEIN.SET";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("key", &mut self.key)?;
        form.value("version", &mut self.version)?;
        form.blob("blob", &mut self.blob)?;
        form.all_values("dimension", DIMENSIONS_MAX, &mut self.shape)
    }
}

/// `SKEIN.SETRANGE key start blob`: replaces some values of a tensor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SetRange<A> {
    /// Key of the tensor to change, which must exist.
    pub key: A,
    /// Index of the first value to replace.
    pub start: usize,
    /// The new values, as little-endian `f32`.
    pub blob: A,
}

impl<A: Default> Command<A> for SetRange<A> {
    const NAME: &'static CStr = c"SKEIN.SETRANGE";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("key", &mut self.key)?;
        form.value("start", &mut self.start)?;
        form.blob("blob", &mut self.blob)
    }
}

/// `SKEIN.GET key`: returns a tensor's values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Get<A> {
    /// Key of the tensor to read.
    pub key: A,
}

impl<A: Default> Command<A> for Get<A> {
    const NAME: &'static CStr = c"SKEIN.GET";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("key", &mut self.key)
    }
}

/// `SKEIN.GETRANGE key start count`: returns some of a tensor's values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GetRange<A> {
    /// Key of the tensor to read from.
    pub key: A,
    /// Index of the first value to return.
    pub start: usize,
    /// Number of values to return.
    pub count: usize,
}

impl<A: Default> Command<A> for GetRange<A> {
    const NAME: &'static CStr = c"SKEIN.GETRANGE";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("key", &mut self.key)?;
        form.value("start", &mut self.start)?;
        form.value("count", &mut self.count)
    }
}

/// `SKEIN.META key`: returns a tensor's version, length and shape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta<A> {
    /// Key of the tensor to describe.
    pub key: A,
}

impl<A: Default> Command<A> for Meta<A> {
    const NAME: &'static CStr = c"SKEIN.META";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("key", &mut self.key)
    }
}

/// `SKEIN.STAT key [key ...]`: returns version, length, hash and finiteness of tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stat<A> {
    /// The tensors' keys, 1 to [`KEYS_MAX`].
    pub keys: Vec<A>,
}

impl<A: Default> Command<A> for Stat<A> {
    const NAME: &'static CStr = c"SKEIN.STAT";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.all_keys("key", &mut self.keys)
    }
}

/// `SKEIN.NORM key`: returns a tensor's Euclidean norm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Norm<A> {
    /// Key of the tensor to measure.
    pub key: A,
}

impl<A: Default> Command<A> for Norm<A> {
    const NAME: &'static CStr = c"SKEIN.NORM";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("key", &mut self.key)
    }
}

/// `SKEIN.ACC sum parameters round index count samples loss blob`: adds a batch's gradient to the sum of its round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accumulate<A> {
    /// Key of the sum.
    pub sum: A,
    /// Key of the parameters, whose version is the previous round.
    pub parameters: A,
    /// The round of the batch.
    pub round: u64,
    /// Index of the batch, below `count`.
    pub index: u32,
    /// Number of batches of the round.
    pub count: u32,
    /// Number of samples of the batch, the weight of its gradient.
    pub samples: u32,
    /// Mean loss of the batch.
    pub loss: f32,
    /// The gradient, as little-endian `f32`.
    pub blob: A,
}

impl<A: Default> Command<A> for Accumulate<A> {
    const NAME: &'static CStr = c"SKEIN.ACC";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("sum", &mut self.sum)?;
        form.key("parameters", &mut self.parameters)?;
        form.value("round", &mut self.round)?;
        form.value("index", &mut self.index)?;
        form.value("count", &mut self.count)?;
        form.value("samples", &mut self.samples)?;
        form.value("loss", &mut self.loss)?;
        form.blob("blob", &mut self.blob)
    }
}

/// `SKEIN.AVERAGE destination sum round`: stores the average of a complete sum as a tensor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Average<A> {
    /// Key to store the average at.
    pub destination: A,
    /// Key of the sum.
    pub sum: A,
    /// The round of the sum, which becomes the average's version.
    pub round: u64,
}

impl<A: Default> Command<A> for Average<A> {
    const NAME: &'static CStr = c"SKEIN.AVERAGE";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("destination", &mut self.destination)?;
        form.key("sum", &mut self.sum)?;
        form.value("round", &mut self.round)
    }
}

/// `SKEIN.RESTORESUM sum payload`: restores a sum from the server's command log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RestoreSum<A> {
    /// Key to store the sum at.
    pub sum: A,
    /// The sum, as the module saves it.
    pub payload: A,
}

impl<A: Default> Command<A> for RestoreSum<A> {
    const NAME: &'static CStr = c"SKEIN.RESTORESUM";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("sum", &mut self.sum)?;
        form.blob("payload", &mut self.payload)
    }
}

/// `SKEIN.AGG destination version rule faults numkeys key [key ...] [WEIGHTS weight ...]`: aggregates tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate<A> {
    /// Key to store the aggregate at.
    pub destination: A,
    /// Version to store with the aggregate.
    pub version: u64,
    /// The rule, with the faults that it tolerates and its weights.
    pub rule: Rule,
    /// The tensors' keys, 1 to [`KEYS_MAX`].
    pub keys: Vec<A>,
}

impl<A: Default> Default for Aggregate<A> {
    fn default() -> Aggregate<A> {
        Aggregate { destination: A::default(), version: 0, rule: Rule::new(&MEAN, 0), keys: Vec::new() }
    }
}

impl<A: Default> Command<A> for Aggregate<A> {
    const NAME: &'static CStr = c"SKEIN.AGG";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.key("destination", &mut self.destination)?;
        form.value("version", &mut self.version)?;
        let mut weights = self.rule.weights().to_vec();
        rule(form, &mut self.rule)?;
        form.keys("numkeys", "key", &mut self.keys)?;
        if self.rule.kind().takes_weights {
            form.word("WEIGHTS")?;
            form.all_values("weight", KEYS_MAX, &mut weights)?;
            self.rule = self.rule.clone().weighted(weights);
        }
        Ok(())
    }
}

/// `SKEIN.APPLY numstate parameters [slot ...] ROWS numrows row [row ...] round rule faults WEIGHTS n [weight ...]
/// TRAINED n CLIPNORM x|none CLIPVALUE x|none OPTIMIZER optimizer STEP number learning-rate`: applies one round's
/// change to parameters and optimizer state.
#[derive(Debug, Clone, PartialEq)]
pub struct Apply<A> {
    /// Keys of the parameters, then of the vectors of optimizer state.
    pub state: Vec<A>,
    /// Keys of the contributions.
    pub rows: Vec<A>,
    /// The round to apply, which becomes the state's version.
    pub round: u64,
    /// The rule that aggregates the contributions.
    pub rule: Rule,
    /// How the aggregate changes the state.
    pub change: Change,
}

impl<A: Default> Default for Apply<A> {
    fn default() -> Apply<A> {
        let optimizer = Optimizer::new(&SGD);
        let step = Step { number: 1, learning_rate: 0.0 };
        let change = Change { trained: 0, clip_norm: None, clip_value: None, optimizer, step };
        Apply { state: Vec::new(), rows: Vec::new(), round: 0, rule: Rule::new(&MEAN, 0), change }
    }
}

impl<A: Default> Command<A> for Apply<A> {
    const NAME: &'static CStr = c"SKEIN.APPLY";

    fn arguments<F: Form<Argument = A>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.keys("numstate", "state key", &mut self.state)?;
        form.word("ROWS")?;
        form.keys("numrows", "row", &mut self.rows)?;
        form.value("round", &mut self.round)?;
        let mut weights = self.rule.weights().to_vec();
        rule(form, &mut self.rule)?;
        form.word("WEIGHTS")?;
        form.values("number of weights", "weight", &mut weights)?;
        self.rule = self.rule.clone().weighted(weights);
        let Change { trained, clip_norm, clip_value, optimizer, step } = &mut self.change;
        form.word("TRAINED")?;
        form.value("trained", trained)?;
        form.word("CLIPNORM")?;
        form.value("bound of the norm", clip_norm)?;
        form.word("CLIPVALUE")?;
        form.value("bound of values", clip_value)?;
        form.word("OPTIMIZER")?;
        form.value("optimizer", optimizer)?;
        form.word("STEP")?;
        form.value_if("number of the step", &mut step.number, |number| *number > 0, "1 or more")?;
        form.value_if("learning rate", &mut step.learning_rate, |rate| rate.is_finite(), "finite")
    }
}

/// A rule and how many Byzantine peers it tolerates; its weights come later in the command.
fn rule<F: Form>(form: &mut F, rule: &mut Rule) -> Result<(), SyntaxError> {
    let mut faults = rule.faults();
    form.value("rule", rule)?;
    form.value("faults", &mut faults)?;
    *rule = rule.clone().tolerating(faults);
    Ok(())
}
