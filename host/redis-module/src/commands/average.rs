//! `SKEIN.AVERAGE`: turns a complete sum into a tensor. `SKEIN.RESTORESUM`: stores a sum from the command log.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use skein_redis_command::command as asked;

use crate::arguments::Arguments;
use crate::buffer::Buffer;
use crate::command::{Access, At, Command, Keys, Next};
use crate::context::{Context, Expiry};
use crate::failure::Failure;
use crate::reply::Reply;
use crate::sum::{self, Sum};
use crate::tensor::Tensor;
use crate::work::{Turn, Work};

pub(crate) struct Average;

struct Averaging {
    asked: asked::Average<usize>,
    average: sum::Average,
    root: Arc<Buffer>,
    made: Option<Arc<Tensor>>,
    old: Option<Arc<Tensor>>,
}

/// State of a sum that has all batches of its round.
enum Found {
    /// The average was taken before.
    Taken(sum::Average),
    /// The sum of all batches, and the answer for its average.
    Complete(Arc<Buffer>, sum::Average),
}

fn answer(average: sum::Average) -> Reply {
    Reply::Array(vec![Reply::count(average.samples), Reply::exact(average.loss)])
}

fn find(
    context: &Context<'_>,
    arguments: Arguments<'_>,
    &asked::Average { sum, round, .. }: &asked::Average<usize>,
) -> Result<Found, Failure> {
    let incomplete = Failure::Incomplete { round };
    context.sum(arguments, sum, |sum| {
        let sum = sum.filter(|sum| sum.round == round).ok_or(incomplete.clone())?;
        match sum.average {
            Some(average) => Ok(Found::Taken(average)),
            None => Ok(Found::Complete(sum.root().ok_or(incomplete)?.clone(), sum.answer())),
        }
    })
}

impl Command for Average {
    type Asked = asked::Average<usize>;
    const SUMMARY: &'static CStr = c"Stores the average of all batches of a round";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = 4;
    const KEYS: &'static [Keys] =
        &[Keys::new(At::Index(1), Access::Overwrite), Keys::new(At::Index(2), Access::ReadWrite)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        match find(context, arguments, &asked)? {
            Found::Taken(average) => Ok(Next::Reply(answer(average))),
            Found::Complete(root, average) => {
                context.check::<Arc<Tensor>>(arguments, asked.destination)?;
                Ok(Next::Work(Box::new(Averaging { asked, average, root, made: None, old: None })))
            }
        }
    }
}

impl Work for Averaging {
    fn values(&self) -> usize {
        self.root.len()
    }

    /// Divides into a new buffer: a snapshot taken during the computation must find the whole sum.
    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        let divisor = self.average.samples as f32;
        let mut values = Buffer::blank(self.root.len())?;
        for (value, sum) in values.values_mut().iter_mut().zip(&**self.root) {
            *value = sum / divisor;
        }
        let length = u32::try_from(values.len()).map_err(|_| Failure::Internal)?;
        self.made = Some(Arc::new(Tensor::new(self.asked.round, vec![length], values)?));
        Ok(())
    }

    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure> {
        match find(context, arguments, &self.asked) {
            Ok(Found::Taken(average)) => return Ok(Turn::Unchanged(answer(average))),
            Ok(Found::Complete(root, _)) if Arc::ptr_eq(&root, &self.root) => {}
            _ => return Err(Failure::Changed { what: "sum" }),
        }
        let asked::Average { destination, sum, round } = self.asked;
        let made = self.made.take().ok_or(Failure::Internal)?;
        self.old = context.set_tensor(arguments, destination, made, Expiry::Remove)?;
        // `close` returns the root that `self` also holds, so it is freed later.
        context.change_sum(arguments, sum, || Sum::new(round, 1, 0), |sum| drop(sum.close(self.average)))?;
        context.notify(c"skein.average", arguments, destination);
        Ok(Turn::Written(answer(self.average)))
    }
}

pub(crate) struct RestoreSum;

impl Command for RestoreSum {
    type Asked = asked::RestoreSum<usize>;
    const SUMMARY: &'static CStr = c"Stores a sum in the form of the command log";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = 3;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Overwrite)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        context.admit()?;
        let sum = context.deserialize::<Sum>(arguments, asked.payload).ok_or(Failure::Damaged)?;
        context.set_sum(arguments, asked.sum, sum)?;
        context.replicate(arguments);
        Ok(Next::Reply(Reply::Ok))
    }
}
