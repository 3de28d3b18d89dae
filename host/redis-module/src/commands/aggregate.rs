//! `SKEIN.AGG`: aggregates several tensors into one by a rule.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use skein_kernels::rule::Rule;
use skein_redis_command::command as asked;

use super::tensors::unchanged;
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

pub(crate) struct Aggregate;

/// Tensors to aggregate, with the places of their keys among the arguments.
pub(crate) struct Rows {
    keys: Vec<usize>,
    tensors: Vec<Arc<Tensor>>,
}

impl Rows {
    /// Finds the tensors at `keys`.
    ///
    /// # Errors
    /// [`Failure::Missing`] with the index of a tensor that does not exist; [`Failure::WrongType`].
    pub(crate) fn find(context: &Context<'_>, arguments: Arguments<'_>, keys: Vec<usize>) -> Result<Rows, Failure> {
        let found = keys.iter().enumerate();
        let found = found.map(|(index, key)| context.tensor(arguments, *key)?.ok_or(Failure::Missing { index }));
        let tensors = found.collect::<Result<_, _>>()?;
        Ok(Rows { keys, tensors })
    }

    /// Refuses a tensor that is not as long as `expected`.
    pub(crate) fn check(&self, expected: usize) -> Result<(), Failure> {
        let lengths = self.tensors.iter().map(|tensor| tensor.values.len());
        match { lengths }.find(|actual| *actual != expected) {
            Some(actual) => Err(Failure::Length { expected, actual }),
            None => Ok(()),
        }
    }

    /// Fails if a key no longer holds the tensor that was found there.
    pub(crate) fn unchanged(&self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<(), Failure> {
        let mut rows = self.keys.iter().zip(&self.tensors);
        rows.try_for_each(|(key, tensor)| unchanged(context, arguments, *key, tensor))
    }

    pub(crate) fn values(&self) -> Vec<&[f32]> {
        self.tensors.iter().map(|tensor| &*tensor.values).collect()
    }

    /// The first tensor; after [`Rows::check`] all others have its length.
    pub(crate) fn first(&self) -> Option<&Arc<Tensor>> {
        self.tensors.first()
    }
}

struct Aggregating {
    destination: usize,
    version: u64,
    rule: Rule,
    rows: Rows,
    made: Option<Arc<Tensor>>,
    old: Option<Arc<Tensor>>,
}

impl Command for Aggregate {
    type Asked = asked::Aggregate<usize>;
    const SUMMARY: &'static CStr = c"Aggregates tensors by a rule";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = -7;
    const KEYS: &'static [Keys] =
        &[Keys::new(At::Index(1), Access::Overwrite), Keys::new(At::Numbered(5), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let asked::Aggregate { destination, version, rule, keys } = asked;
        let written = Touched { keys: &[destination], access: Access::Overwrite };
        permit(context, arguments, &[written, Touched { keys: &keys, access: Access::Read }])?;
        let rows = Rows::find(context, arguments, keys)?;
        let expected = rows.first().map_or(0, |row| row.values.len());
        rows.check(expected)?;
        context.check::<Arc<Tensor>>(arguments, destination)?;
        Ok(Next::Work(Box::new(Aggregating { destination, version, rule, rows, made: None, old: None })))
    }
}

impl Work for Aggregating {
    fn values(&self) -> usize {
        let len = self.rows.first().map_or(0, |row| row.values.len());
        self.rule.values(self.rows.tensors.len(), len)
    }

    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        let first = self.rows.first().ok_or(Failure::Few { needed: 1, present: 0 })?;
        let mut values = Buffer::blank(first.values.len())?;
        let share = share();
        self.rule.apply_on(share.threads(), &self.rows.values(), values.values_mut())?;
        self.made = Some(Arc::new(Tensor::like(first, self.version, values)?));
        Ok(())
    }

    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure> {
        let made = self.made.take().ok_or(Failure::Internal)?;
        self.rows.unchanged(context, arguments)?;
        self.old = context.set_tensor(arguments, self.destination, made, Expiry::Remove)?;
        context.notify(c"skein.agg", arguments, self.destination);
        Ok(Turn::Written(Reply::Ok))
    }
}
