//! `SKEIN.META`, `SKEIN.STAT`, `SKEIN.NORM`: properties of tensors. `SKEIN.VERSION`: the version of the grammar.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use skein_redis_command::{VERSION, command as asked};

use crate::arguments::Arguments;
use crate::command::{Access, At, Command, Keys, Next};
use crate::context::Context;
use crate::failure::Failure;
use crate::reply::Reply;
use crate::tensor::Tensor;
use crate::work::{Turn, Work};

pub(crate) struct Version;

impl Command for Version {
    type Asked = asked::Version;
    const SUMMARY: &'static CStr = c"Returns the version of the commands' grammar";
    const FLAGS: &'static CStr = c"readonly fast";
    const ARITY: c_int = 1;
    const KEYS: &'static [Keys] = &[];

    fn prepare(_context: &Context<'_>, _arguments: Arguments<'_>, _asked: Self::Asked) -> Result<Next, Failure> {
        Ok(Next::Reply(Reply::Integer(i64::from(VERSION))))
    }
}

pub(crate) struct Meta;

impl Command for Meta {
    type Asked = asked::Meta<usize>;
    const SUMMARY: &'static CStr = c"Returns a tensor's version, length and shape";
    const FLAGS: &'static CStr = c"readonly fast";
    const ARITY: c_int = 2;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let described = context.tensor(arguments, asked.key)?.map_or(Reply::Nil, |tensor| {
            let shape = tensor.shape.iter().map(|dimension| Reply::Integer(i64::from(*dimension))).collect();
            let length = Reply::count(tensor.values.len() as u64);
            Reply::Array(vec![Reply::count(tensor.version), length, Reply::Array(shape)])
        });
        Ok(Next::Reply(described))
    }
}

pub(crate) struct Stat;

struct Hashing {
    tensors: Vec<Option<Arc<Tensor>>>,
    values: usize,
}

impl Command for Stat {
    type Asked = asked::Stat<usize>;
    const SUMMARY: &'static CStr = c"Returns the version, length, hash and finiteness of tensors";
    const FLAGS: &'static CStr = c"readonly";
    const ARITY: c_int = -2;
    const KEYS: &'static [Keys] = &[Keys::new(At::From(1), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let tensors = asked.keys.into_iter().map(|key| context.tensor(arguments, key));
        let tensors: Vec<Option<Arc<Tensor>>> = tensors.collect::<Result<_, _>>()?;
        let values = tensors.iter().flatten().map(|tensor| tensor.unhashed()).sum();
        Ok(Next::Work(Box::new(Hashing { tensors, values })))
    }
}

impl Work for Hashing {
    fn values(&self) -> usize {
        self.values
    }

    fn writes(&self) -> bool {
        false
    }

    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        self.tensors.iter().flatten().for_each(|tensor| _ = tensor.statistics());
        Ok(())
    }

    fn commit(&mut self, _context: &Context<'_>, _arguments: Arguments<'_>) -> Result<Turn, Failure> {
        let describe = |tensor: &Arc<Tensor>| {
            let found = tensor.statistics();
            Reply::Array(vec![
                Reply::count(tensor.version),
                Reply::count(found.len as u64),
                Reply::Bulk(found.hash.0.to_vec()),
                Reply::Integer(i64::from(found.finite)),
            ])
        };
        let replies = self.tensors.iter().map(|tensor| tensor.as_ref().map_or(Reply::Nil, describe));
        Ok(Turn::Unchanged(Reply::Array(replies.collect())))
    }
}

pub(crate) struct Norm;

struct Measuring {
    tensor: Arc<Tensor>,
    values: usize,
}

impl Command for Norm {
    type Asked = asked::Norm<usize>;
    const SUMMARY: &'static CStr = c"Returns a tensor's Euclidean norm";
    const FLAGS: &'static CStr = c"readonly";
    const ARITY: c_int = 2;
    const KEYS: &'static [Keys] = &[Keys::new(At::Index(1), Access::Read)];

    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure> {
        let Some(tensor) = context.tensor(arguments, asked.key)? else { return Ok(Next::Reply(Reply::Nil)) };
        let values = tensor.unmeasured();
        Ok(Next::Work(Box::new(Measuring { tensor, values })))
    }
}

impl Work for Measuring {
    fn values(&self) -> usize {
        self.values
    }

    fn writes(&self) -> bool {
        false
    }

    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        self.tensor.norm();
        Ok(())
    }

    fn commit(&mut self, _context: &Context<'_>, _arguments: Arguments<'_>) -> Result<Turn, Failure> {
        Ok(Turn::Unchanged(Reply::exact(self.tensor.norm())))
    }
}
