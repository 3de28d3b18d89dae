//! `SKEIN.APPLY`: applies one round's change to parameters and optimizer state, atomically.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use skein_kernels::rule::Rule;
use skein_kernels::update::{After, Before, Change};
use skein_redis_command::command::{self as asked, ROWS};

use super::aggregate::Rows;
use crate::access::{Touched, permit};
use crate::arguments::Arguments;
use crate::buffer::Buffer;
use crate::command::{Access, At, Command, Keys, Next};
use crate::context::{Context, Expiry};
use crate::failure::Failure;
use crate::pool::share;
use crate::reply::Reply;
use crate::tensor::Tensor;
use crate::work::{Turn, Work};

pub(crate) struct Apply;

struct Applying {
    state: Vec<usize>,
    round: u64,
    rule: Rule,
    change: Change,
    rows: Rows,
    /// The state before the round: parameters, then slots.
    before: Vec<Arc<Tensor>>,
    after: Vec<Arc<Tensor>>,
}

impl Command for Apply {
    type Asked = asked::Apply<usize>;
    const SUMMARY: &'static CStr = c"Aggregates gradients and updates parameters and optimizer state";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = -22;
    const KEYS: &'static [Keys] =
        &[Keys::new(At::Numbered(1), Access::ReadWrite), Keys::new(At::NumberedBehind(ROWS), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let asked::Apply { state, rows, round, rule, change } = asked;
        check_names(arguments, &state)?;
        if !rule.kind().takes_weights && !rule.weights().is_empty() {
            return Err(Failure::Weights);
        }
        let changed = Touched { keys: &state, access: Access::ReadWrite };
        permit(context, arguments, &[changed, Touched { keys: &rows, access: Access::Read }])?;
        let before = state.iter().map(|key| context.tensor(arguments, *key)?.ok_or(Failure::NoState));
        let before: Vec<Arc<Tensor>> = before.collect::<Result<_, _>>()?;
        let parameters = before.first().ok_or(Failure::NoState)?;
        if let Some(reply) = applied(parameters, round)? {
            return Ok(Next::Reply(reply));
        }
        let needed = change.optimizer.kind().slots;
        let given = before.len() - 1;
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

/// The answer if the round was already applied.
///
/// # Errors
/// [`Failure::Order`] if the parameters are of neither this round nor the one before.
fn applied(parameters: &Tensor, round: u64) -> Result<Option<Reply>, Failure> {
    match parameters.version {
        version if version == round => Ok(Some(Reply::count(round))),
        version if version.checked_add(1) == Some(round) => Ok(None),
        version => Err(Failure::Order { version }),
    }
}

/// Refuses a key that is named twice, or that an access list would take for the keyword before the rows.
fn check_names(arguments: Arguments<'_>, state: &[usize]) -> Result<(), Failure> {
    let mut names: Vec<&[u8]> = state.iter().map(|key| arguments.get(*key)).collect();
    // The server compares C strings, up to the first zero byte.
    let keyword =
        |name: &&[u8]| name.split(|byte| *byte == 0).next().is_some_and(|n| n.eq_ignore_ascii_case(ROWS.to_bytes()));
    if names.iter().any(keyword) {
        return Err(Failure::Syntax("a state key cannot be named `ROWS`".to_owned()));
    }
    names.sort_unstable();
    let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    if twice { Err(Failure::Syntax("a state key is named twice".to_owned())) } else { Ok(()) }
}

impl Work for Applying {
    fn values(&self) -> usize {
        let rows = self.rule.values(self.rows.values().len(), self.before[0].values.len());
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
        let parameters = context.tensor(arguments, self.state[0])?.ok_or(Failure::NoState)?;
        // Another client has applied the same round since, with the same bits.
        if let Some(reply) = applied(&parameters, self.round)? {
            return Ok(Turn::Unchanged(reply));
        }
        for (key, before) in self.state.iter().zip(&self.before) {
            super::tensors::unchanged(context, arguments, *key, before)?;
        }
        self.rows.unchanged(context, arguments)?;
        for (key, after) in self.state.iter().zip(self.after.drain(..)) {
            context.set_tensor(arguments, *key, after, Expiry::Keep)?;
            context.notify(c"skein.apply", arguments, *key);
        }
        Ok(Turn::Written(Reply::count(self.round)))
    }
}
