//! `SKEIN.SET`, `SKEIN.SETRANGE`, `SKEIN.GET`, `SKEIN.GETRANGE`: store and return values.

use std::ffi::{CStr, c_int};
use std::ops::Range;
use std::sync::Arc;

use skein_redis_command::command as asked;

use crate::arguments::Arguments;
use crate::buffer::Buffer;
use crate::command::{Access, At, Command, Keys, Next};
use crate::context::{Context, Expiry};
use crate::failure::Failure;
use crate::reply::Reply;
use crate::tensor::{Tensor, places};
use crate::work::{Turn, Work};

const VALUE: usize = size_of::<f32>();

/// Number of values in a blob.
///
/// # Errors
/// [`Failure::Length`], in bytes, if the blob's length is not a multiple of four.
fn values_in(blob: &[u8]) -> Result<usize, Failure> {
    if blob.len().is_multiple_of(VALUE) {
        Ok(blob.len() / VALUE)
    } else {
        Err(Failure::Length { expected: blob.len() / VALUE * VALUE, actual: blob.len() })
    }
}

pub(crate) struct Set;

struct Setting {
    key: usize,
    version: u64,
    blob: usize,
    shape: Vec<u32>,
    values: usize,
    made: Option<Arc<Tensor>>,
    old: Option<Arc<Tensor>>,
}

impl Command for Set {
    type Asked = asked::Set<usize>;
    const SUMMARY: &'static CStr = c"Stores a tensor";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = -4;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Overwrite)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let asked::Set { key, version, blob, mut shape } = asked;
        let values = values_in(arguments.get(blob))?;
        if shape.is_empty() {
            let too_many = |_| Failure::Length { expected: u32::MAX as usize, actual: values };
            shape.push(u32::try_from(values).map_err(too_many)?);
        }
        let expected = places(&shape).unwrap_or(usize::MAX);
        if expected != values {
            return Err(Failure::Length { expected, actual: values });
        }
        context.check::<Arc<Tensor>>(arguments, key)?;
        Ok(Next::Work(Box::new(Setting { key, version, blob, shape, values, made: None, old: None })))
    }
}

impl Work for Setting {
    fn values(&self) -> usize {
        self.values
    }

    fn compute(&mut self, arguments: Arguments<'_>) -> Result<(), Failure> {
        let values = Buffer::of_bytes(arguments.get(self.blob))?;
        self.made = Some(Arc::new(Tensor::new(self.version, std::mem::take(&mut self.shape), values)?));
        Ok(())
    }

    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure> {
        let made = self.made.take().ok_or(Failure::Internal)?;
        self.old = context.set_tensor(arguments, self.key, made, Expiry::Remove)?;
        context.notify(c"skein.set", arguments, self.key);
        Ok(Turn::Written(Reply::Ok))
    }
}

pub(crate) struct SetRange;

struct SettingRange {
    key: usize,
    start: usize,
    blob: usize,
    before: Arc<Tensor>,
    made: Option<Arc<Tensor>>,
}

impl Command for SetRange {
    type Asked = asked::SetRange<usize>;
    const SUMMARY: &'static CStr = c"Replaces some values of a tensor";
    const FLAGS: &'static CStr = c"write deny-oom";
    const ARITY: c_int = 4;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Update)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let asked::SetRange { key, start, blob } = asked;
        let count = values_in(arguments.get(blob))?;
        let before = context.tensor(arguments, key)?.ok_or(Failure::Range { length: 0 })?;
        range(start, count, before.values.len())?;
        Ok(Next::Work(Box::new(SettingRange { key, start, blob, before, made: None })))
    }
}

impl Work for SettingRange {
    fn values(&self) -> usize {
        self.before.values.len()
    }

    fn compute(&mut self, arguments: Arguments<'_>) -> Result<(), Failure> {
        let mut values = Buffer::of_bytes(self.before.values.bytes())?;
        let blob = arguments.get(self.blob);
        for (value, bytes) in values.values_mut()[self.start..].iter_mut().zip(blob.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        self.made = Some(Arc::new(Tensor::like(&self.before, self.before.version, values)?));
        Ok(())
    }

    fn commit(&mut self, context: &Context<'_>, arguments: Arguments<'_>) -> Result<Turn, Failure> {
        let made = self.made.take().ok_or(Failure::Internal)?;
        unchanged(context, arguments, self.key, &self.before)?;
        context.set_tensor(arguments, self.key, made, Expiry::Keep)?;
        context.notify(c"skein.setrange", arguments, self.key);
        Ok(Turn::Written(Reply::Ok))
    }
}

/// Fails if the key no longer holds the tensor `before`.
pub(crate) fn unchanged(
    context: &Context<'_>,
    arguments: Arguments<'_>,
    key: usize,
    before: &Arc<Tensor>,
) -> Result<(), Failure> {
    match context.tensor(arguments, key) {
        Ok(Some(now)) if Arc::ptr_eq(&now, before) => Ok(()),
        _ => Err(Failure::Changed { what: "input" }),
    }
}

fn range(start: usize, count: usize, length: usize) -> Result<Range<usize>, Failure> {
    let end = start.checked_add(count).filter(|end| *end <= length).ok_or(Failure::Range { length })?;
    Ok(start..end)
}

pub(crate) struct Get;
pub(crate) struct GetRange;

/// Sends values, which copies them; a worker does so if they are many.
struct Sending {
    tensor: Arc<Tensor>,
    range: Range<usize>,
}

impl Command for Get {
    type Asked = asked::Get<usize>;
    const SUMMARY: &'static CStr = c"Returns a tensor's values";
    const FLAGS: &'static CStr = c"readonly";
    const ARITY: c_int = 2;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let Some(tensor) = context.tensor(arguments, asked.key)? else { return Ok(Next::Reply(Reply::Nil)) };
        let range = 0..tensor.values.len();
        Ok(Next::Work(Box::new(Sending { tensor, range })))
    }
}

impl Command for GetRange {
    type Asked = asked::GetRange<usize>;
    const SUMMARY: &'static CStr = c"Returns some of a tensor's values";
    const FLAGS: &'static CStr = c"readonly";
    const ARITY: c_int = 4;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let asked::GetRange { key, start, count } = asked;
        let Some(tensor) = context.tensor(arguments, key)? else { return Ok(Next::Reply(Reply::Nil)) };
        let range = range(start, count, tensor.values.len())?;
        Ok(Next::Work(Box::new(Sending { tensor, range })))
    }
}

impl Work for Sending {
    fn values(&self) -> usize {
        self.range.len()
    }

    fn writes(&self) -> bool {
        false
    }

    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn commit(&mut self, _context: &Context<'_>, _arguments: Arguments<'_>) -> Result<Turn, Failure> {
        Ok(Turn::Unchanged(Reply::Values(self.tensor.clone(), self.range.clone())))
    }
}
