//! `SKEIN.PANIC`: panics in the call, in a worker or in its commit. Only tests load the module with it.

use std::ffi::{CStr, c_int};

use skein_redis_command::{self as grammar, Form, SyntaxError};

use crate::arguments::Arguments;
use crate::command::{Command, Keys, Next};
use crate::context::Context;
use crate::failure::Failure;
use crate::work::{Turn, Work};

pub(crate) struct Panic;

/// `SKEIN.PANIC where`: panics in a worker, in a commit, or at once for any other place.
#[derive(Default)]
pub(crate) struct Where {
    place: usize,
}

impl grammar::Command<usize> for Where {
    const NAME: &'static CStr = c"SKEIN.PANIC";

    fn arguments<F: Form<Argument = usize>>(&mut self, form: &mut F) -> Result<(), SyntaxError> {
        form.blob("where", &mut self.place)
    }
}

struct Panicking {
    in_commit: bool,
}

impl Command for Panic {
    type Asked = Where;
    const SUMMARY: &'static CStr = c"Panics, to test that the server survives";
    const FLAGS: &'static CStr = c"readonly";
    const ARITY: c_int = 2;
    const KEYS: &'static [Keys] = &[];

    fn prepare(_context: &Context<'_>, arguments: Arguments<'_>, Where { place }: Where) -> Result<Next, Failure> {
        let work = match arguments.get(place) {
            b"worker" => Panicking { in_commit: false },
            b"commit" => Panicking { in_commit: true },
            _ => panic!("requested by a test"),
        };
        Ok(Next::Work(Box::new(work)))
    }
}

impl Work for Panicking {
    fn values(&self) -> usize {
        usize::MAX
    }

    fn writes(&self) -> bool {
        false
    }

    fn compute(&mut self, _arguments: Arguments<'_>) -> Result<(), Failure> {
        assert!(self.in_commit, "requested by a test");
        Ok(())
    }

    fn commit(&mut self, _context: &Context<'_>, _arguments: Arguments<'_>) -> Result<Turn, Failure> {
        panic!("requested by a test")
    }
}
