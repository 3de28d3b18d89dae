//! `SKEIN.APPLY`: one round's change of parameters and optimizer state, all of it at one moment.

use std::ffi::{CStr, c_int};
use std::ops::Range;
use std::sync::Arc;

use skein_kernels::optimizer::{Moments, Optimizer, Step};
use skein_kernels::rule::Rule;
use skein_kernels::update::{After, Before, Change};

use super::aggregate::Rows;
use crate::access::{Touched, permit};
use crate::arguments::{Arguments, Reader};
use crate::buffer::Buffer;
use crate::command::{Access, At, Command, Keys, Next};
use crate::context::{Context, Expiry};
use crate::failure::Failure;
use crate::pool::share;
use crate::reply::Reply;
use crate::tensor::Tensor;
use crate::work::{Turn, Work};

/// Where the rows begin; by this word an access list finds their keys.
const ROWS: &CStr = c"ROWS";

pub(crate) struct Apply;

/// The arguments of one call.
struct Asked {
    state: Range<usize>,
    rows: Range<usize>,
    round: u64,
    rule: Rule,
    change: Change,
}

struct Applying {
    state: Range<usize>,
    round: u64,
    rule: Rule,
    change: Change,
    rows: Rows,
    /// Parameters, then slots.
    before: Vec<Arc<Tensor>>,
    after: Vec<Arc<Tensor>>,
}

impl Command for Apply {
    const NAME: &'static CStr = c"SKEIN.APPLY";
    const SUMMARY: &'static CStr = c"Aggregates gradients and moves parameters and optimizer state";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = -18;
    const KEYS: &'static [Keys] =
        &[Keys::new(At::Numbered(1), Access::ReadWrite), Keys::new(At::NumberedBehind(ROWS), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>) -> Result<Next, Failure> {
        let Asked { state, rows, round, rule, change } = read(arguments)?;
        let changed = Touched { keys: state.clone(), access: Access::ReadWrite };
        permit(context, arguments, &[changed, Touched { keys: rows.clone(), access: Access::Read }])?;
        let before = state.clone().map(|key| context.tensor(arguments, key)?.ok_or(Failure::NoState));
        let before: Vec<Arc<Tensor>> = before.collect::<Result<_, _>>()?;
        let parameters = before.first().ok_or(Failure::NoState)?;
        if let Some(reply) = applied(parameters, round)? {
            return Ok(Next::Reply(reply));
        }
        let (needed, given) = (change.optimizer.slots(), before.len() - 1);
        if needed != given {
            return Err(Failure::Slots { needed, given });
        }
        let expected = parameters.values.len();
        let rows = Rows::find(context, arguments, rows)?;
        rows.check(expected)?;
        let lengths = before.iter().map(|slot| slot.values.len()).chain([change.trained.max(expected)]);
        if let Some(actual) = { lengths }.find(|actual| *actual != expected) {
            return Err(Failure::Length { expected, actual });
        }
        Ok(Next::Work(Box::new(Applying { state, round, rule, change, rows, before, after: Vec::new() })))
    }
}

/// The answer when the round was applied before.
///
/// # Errors
/// The parameters are not those of the round before either.
fn applied(parameters: &Tensor, round: u64) -> Result<Option<Reply>, Failure> {
    match parameters.version {
        version if version == round => Ok(Some(Reply::count(round))),
        version if version.checked_add(1) == Some(round) => Ok(None),
        version => Err(Failure::Order { version }),
    }
}

fn read(arguments: Arguments<'_>) -> Result<Asked, Failure> {
    let mut reader = Reader::new(arguments);
    let state = reader.counted_keys("numstate", "state key")?;
    check_names(arguments, state.clone())?;
    reader.word("ROWS")?;
    let rows = reader.counted_keys("numrows", "row")?;
    let round = reader.version("round")?;
    let mut rule = super::rule(&mut reader)?;
    reader.word("WEIGHTS")?;
    let count = reader.number("number of weights")?;
    let given = reader.numbers(count, "weight")?;
    if rule.kind().takes_weights {
        rule = rule.weighted(given);
    } else if !given.is_empty() {
        return Err(Failure::Weights);
    }
    let change = read_change(&mut reader)?;
    reader.end()?;
    Ok(Asked { state, rows, round, rule, change })
}

/// Refuses keys of which one is named twice, or so that an access list would take it for the beginning of the rows.
fn check_names(arguments: Arguments<'_>, state: Range<usize>) -> Result<(), Failure> {
    let mut names: Vec<&[u8]> = state.map(|key| arguments.get(key)).collect();
    // The server compares as C does, up to the first zero.
    let keyword =
        |name: &&[u8]| name.split(|byte| *byte == 0).next().is_some_and(|n| n.eq_ignore_ascii_case(ROWS.to_bytes()));
    if names.iter().any(keyword) {
        return Err(Failure::Syntax("a state key can not be named `ROWS`".to_owned()));
    }
    names.sort_unstable();
    let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    if twice { Err(Failure::Syntax("a state key is named twice".to_owned())) } else { Ok(()) }
}

fn read_change(reader: &mut Reader<'_>) -> Result<Change, Failure> {
    reader.word("TRAINED")?;
    let trained = reader.number("trained")?;
    reader.word("CLIPNORM")?;
    let clip_norm = bound(reader)?;
    reader.word("CLIPVALUE")?;
    let clip_value = bound(reader)?;
    reader.word("OPTIMIZER")?;
    let optimizer = read_optimizer(reader)?;
    reader.word("STEP")?;
    let step = Step { number: reader.number("number of the step")?, learning_rate: reader.finite("learning rate")? };
    if step.number == 0 {
        return Err(Failure::Syntax("steps are counted from 1".to_owned()));
    }
    Ok(Change { trained, clip_norm, clip_value, optimizer, step })
}

/// A bound, which is not negative: between a bound and its negative there has to be something.
fn bound(reader: &mut Reader<'_>) -> Result<Option<f32>, Failure> {
    let text = reader.text("bound")?;
    match text.parse::<f32>() {
        _ if text.eq_ignore_ascii_case("none") => Ok(None),
        Ok(bound) if bound >= 0.0 => Ok(Some(bound)),
        _ => Err(Failure::Syntax("a bound is a number from 0 up, or `none`".to_owned())),
    }
}

fn read_optimizer(reader: &mut Reader<'_>) -> Result<Optimizer, Failure> {
    match reader.text("optimizer")? {
        "sgd" => Ok(Optimizer::Sgd { weight_decay: reader.finite("weight decay")? }),
        "momentum" => Ok(Optimizer::Momentum {
            momentum: reader.finite("momentum")?,
            nesterov: match reader.text("nesterov")? {
                "0" => false,
                "1" => true,
                _ => return Err(Failure::Syntax("`nesterov` is 0 or 1".to_owned())),
            },
            weight_decay: reader.finite("weight decay")?,
        }),
        "adam" => Ok(Optimizer::Adam(read_moments(reader)?)),
        "adamw" => Ok(Optimizer::AdamW(read_moments(reader)?)),
        _ => Err(Failure::Syntax("there is no such optimizer".to_owned())),
    }
}

fn read_moments(reader: &mut Reader<'_>) -> Result<Moments, Failure> {
    Ok(Moments {
        beta1: reader.finite("beta1")?,
        beta2: reader.finite("beta2")?,
        epsilon: reader.finite("epsilon")?,
        weight_decay: reader.finite("weight decay")?,
    })
}

impl Work for Applying {
    fn values(&self) -> usize {
        let rows: usize = self.rows.values().iter().map(|row| row.len()).sum();
        rows + self.before.iter().map(|tensor| tensor.values.len()).sum::<usize>()
    }

    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        let blank = |before: &Arc<Tensor>| Buffer::blank(before.values.len());
        let mut made: Vec<Buffer> = self.before.iter().map(blank).collect::<Result<_, _>>()?;
        let slots: Vec<&[f32]> = self.before[1..].iter().map(|slot| &*slot.values).collect();
        let before = Before { parameters: &self.before[0].values, slots: &slots };
        let (parameters, made_slots) = made.split_first_mut().ok_or(Failure::Internal)?;
        let slots = made_slots.iter_mut().map(Buffer::values_mut).collect();
        let after = After { parameters: parameters.values_mut(), slots };
        let share = share();
        self.change.apply(share.threads(), &self.rule, &self.rows.values(), before, after)?;
        let tensors = made.into_iter().zip(&self.before);
        let tensors = tensors.map(|(values, before)| Tensor::like(before, self.round, values).map(Arc::new));
        self.after = tensors.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure> {
        let parameters = context.tensor(arguments, self.state.start)?.ok_or(Failure::NoState)?;
        // Somebody else applied the same round meanwhile, to the same bits.
        if let Some(reply) = applied(&parameters, self.round)? {
            return Ok(Turn::Unchanged(reply));
        }
        for (key, before) in self.state.clone().zip(&self.before) {
            super::tensors::unchanged(context, arguments, key, before)?;
        }
        self.rows.unchanged(context, arguments)?;
        for (key, after) in self.state.clone().zip(self.after.drain(..)) {
            context.set_tensor(arguments, key, after, Expiry::Keep)?;
            context.notify(c"skein.apply", arguments, key);
        }
        Ok(Turn::Written(Reply::count(self.round)))
    }
}
