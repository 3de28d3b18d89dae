//! `SKEIN.ACC`: adds a batch's gradient to the sum of its round.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use skein_redis_command::command as asked;

use crate::arguments::Arguments;
use crate::buffer::Buffer;
use crate::command::{Access, At, Command, Keys, Next};
use crate::context::Context;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::sum::{BATCHES_MAX, Batch, Entering, Sum};
use crate::work::{Turn, Work};

pub(crate) struct Accumulate;

struct Accumulating {
    asked: asked::Accumulate<usize>,
    len: usize,
    batch: Batch,
    /// The weighted batch plus the sums added so far; `None` before the first computation.
    sum: Option<Buffer>,
    /// The sum to add next.
    next: Option<Arc<Buffer>>,
}

impl Command for Accumulate {
    type Asked = asked::Accumulate<usize>;
    const SUMMARY: &'static CStr = c"Adds a batch's gradient to the sum of its round, once";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = 9;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Update), Keys::new(At::Index(2), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let asked::Accumulate { parameters, index, count, samples, loss, blob, .. } = asked;
        let bytes = arguments.get(blob).len();
        if count == 0 || count > BATCHES_MAX || index >= count {
            return Err(Failure::Batch { index, count });
        }
        let batch = Batch { index, samples, loss, added: Vec::new() };
        let len = bytes / size_of::<f32>();
        let work = Accumulating { asked, len, batch, sum: None, next: None };
        if !bytes.is_multiple_of(size_of::<f32>()) {
            let expected = context.tensor(arguments, parameters)?.ok_or(Failure::NoState)?.values.len();
            return Err(Failure::Length { expected: expected * size_of::<f32>(), actual: bytes });
        }
        if work.duplicate(context, arguments)? {
            return Ok(Next::Reply(Reply::Integer(0)));
        }
        Ok(Next::Work(Box::new(work)))
    }
}

impl Accumulating {
    /// Whether the batch was counted before, or its round was already applied.
    ///
    /// # Errors
    /// The batch does not fit the parameters or the sum.
    fn duplicate(&self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<bool, Failure> {
        let asked::Accumulate { sum, parameters, round, count, .. } = self.asked;
        let parameters = context.tensor(arguments, parameters)?.ok_or(Failure::NoState)?;
        let expected = parameters.values.len();
        if self.len != expected {
            return Err(Failure::Length { expected, actual: self.len });
        }
        if round <= parameters.version {
            // A key of another type is an error even if the batch is late.
            return context.check::<Sum>(arguments, sum).map(|()| true);
        }
        context.sum(arguments, sum, |sum| {
            sum.map_or(Ok(false), |sum| sum.counted(round, self.batch.index, count, self.len))
        })
    }
}

impl Work for Accumulating {
    fn values(&self) -> usize {
        self.len
    }

    fn compute(&mut self, arguments: Arguments<'_>) -> Result<(), Failure> {
        let Some(sum) = &mut self.sum else {
            let weight = self.batch.samples as f32;
            let mut weighted = Buffer::blank(self.len)?;
            for (value, bytes) in weighted.values_mut().iter_mut().zip(arguments.get(self.asked.blob).as_chunks().0) {
                *value = f32::from_le_bytes(*bytes) * weight;
            }
            self.sum = Some(weighted);
            return Ok(());
        };
        if let Some(next) = self.next.take() {
            // The order of two values does not change their sum by a bit.
            skein_kernels::tree::add(sum.values_mut(), &next);
            self.batch.added.push(next);
        }
        Ok(())
    }

    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure> {
        if self.duplicate(context, arguments)? {
            return Ok(Turn::Unchanged(Reply::Integer(0)));
        }
        let entering = context.sum(arguments, self.asked.sum, |sum| match sum {
            Some(sum) => sum.next(&self.batch),
            None if self.batch.added.is_empty() => Ok(Entering::Ready),
            None => Err(Failure::Changed { what: "sum" }),
        })?;
        if let Entering::Add(next) = entering {
            self.next = Some(next);
            return Ok(Turn::Again);
        }
        let sum = self.sum.take().ok_or(Failure::Internal)?;
        let new = || Sum::new(self.asked.round, self.asked.count, self.len);
        context.change_sum(arguments, self.asked.sum, new, |entered| entered.enter(&self.batch, sum))?;
        context.notify(c"skein.acc", arguments, self.asked.sum);
        Ok(Turn::Written(Reply::Integer(1)))
    }
}
