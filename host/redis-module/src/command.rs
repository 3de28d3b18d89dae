//! The [`Command`] trait, and the registration of commands with the server.
//!
//! Each key is described by its argument and by how it is accessed, so that an access list can permit a user to read
//! the gradients and write the average.

#![expect(unsafe_code, reason = "commands are registered and called through C structures")]

use std::ffi::{CStr, c_int};
use std::mem::size_of;
use std::ptr::null;

use skein_redis_command::Command as Grammar;

use crate::api::{self, BeginSearch, Keyword, RawCommandInfo, RawContext, RawInfoVersion, RawKeySpec, RawString, api};
use crate::arguments::Arguments;
use crate::context::Context;
use crate::counters;
use crate::failure::Failure;
use crate::guard::guarded;
use crate::reply::{Reply, send_failure};
use crate::work::{Work, start};

/// The next step of a command that has read its arguments.
pub(crate) enum Next {
    /// Answers at once, since there is nothing to compute.
    Reply(Reply),
    /// Do this work first.
    Work(Box<dyn Work>),
}

/// A command that the module registers with the server.
pub(crate) trait Command {
    /// Name and arguments; keys and blobs are places among the arguments.
    type Asked: Grammar<usize>;
    const SUMMARY: &'static CStr;
    const FLAGS: &'static CStr;
    /// Number of arguments, including the name; `-n` means at least `n`.
    const ARITY: c_int;
    const KEYS: &'static [Keys];

    /// Finds the inputs and checks them. Changes nothing.
    fn prepare(context: &Context<'_>, arguments: Arguments<'_>, asked: Self::Asked) -> Result<Next, Failure>;
}

/// Some of a command's keys: where they are among the arguments, and how they are accessed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) at: At,
    pub(crate) access: Access,
}

/// Where keys are among the arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// One key, at this index.
    Index(c_int),
    /// All arguments from this index on.
    From(c_int),
    /// A number of keys at this index, followed by that many keys.
    Numbered(c_int),
    /// The same, after a keyword that no earlier key may be spelled like.
    NumberedBehind(&'static CStr),
}

/// How a command accesses a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    /// Reads the value and leaves it unchanged.
    Read,
    /// Replaces the value without reading it.
    Overwrite,
    /// Changes the value; none of its data reaches the client or another key.
    Update,
    /// Reads and changes the value.
    ReadWrite,
}

impl Access {
    /// The server's flags: how the value is treated, and how its data are used.
    fn flags(self) -> u64 {
        const READ_ONLY: u64 = 1;
        const READ_WRITE: u64 = 1 << 1;
        const OVERWRITE: u64 = 1 << 2;
        let treated = match self {
            Access::Read => READ_ONLY,
            Access::Overwrite => OVERWRITE,
            Access::Update | Access::ReadWrite => READ_WRITE,
        };
        treated | self.permissions() as u64
    }

    /// The flags that an access list checks.
    pub(crate) fn permissions(self) -> c_int {
        const ACCESS: c_int = 1 << 4;
        const UPDATE: c_int = 1 << 5;
        match self {
            Access::Read => ACCESS,
            Access::Overwrite | Access::Update => UPDATE,
            Access::ReadWrite => ACCESS | UPDATE,
        }
    }
}

impl Keys {
    pub(crate) const fn new(at: At, access: Access) -> Keys {
        Keys { at, access }
    }

    fn raw(&self) -> RawKeySpec {
        const BY_INDEX: c_int = 2;
        const BY_KEYWORD: c_int = 3;
        const RANGE: c_int = 2;
        const NUMBERED: c_int = 3;
        let index = |index| (BY_INDEX, BeginSearch { index });
        let ((begin_type, begin), find_type, find) = match self.at {
            At::Index(at) => (index(at), RANGE, [0, 1, 0]),
            At::From(at) => (index(at), RANGE, [-1, 1, 0]),
            At::Numbered(at) => (index(at), NUMBERED, [0, 1, 1]),
            At::NumberedBehind(word) => {
                let keyword = Keyword { word: word.as_ptr(), start: 1 };
                ((BY_KEYWORD, BeginSearch { keyword }), NUMBERED, [0, 1, 1])
            }
        };
        RawKeySpec { notes: null(), flags: self.access.flags(), begin_type, begin, find_type, find }
    }
}

/// Marks the end of a list of specifications.
const NO_KEYS: RawKeySpec =
    RawKeySpec { notes: null(), flags: 0, begin_type: 0, begin: BeginSearch { index: 0 }, find_type: 0, find: [0; 3] };

/// Sizes by which the server steps through lists; those of structures that are never passed are of its first version.
static VERSION: RawInfoVersion = RawInfoVersion {
    version: 1,
    history_bytes: 2 * size_of::<usize>(),
    key_spec_bytes: size_of::<RawKeySpec>(),
    argument_bytes: 10 * size_of::<usize>(),
};

/// Registers the command with the server. Returns `false` if the server refuses it.
///
/// # Safety
/// `context` is that of the module's entry point.
pub(crate) unsafe fn register<C: Command>(context: *mut RawContext) -> bool {
    let specs: Vec<RawKeySpec> = C::KEYS.iter().map(Keys::raw).chain([NO_KEYS]).collect();
    let info = RawCommandInfo {
        version: &raw const VERSION,
        summary: C::SUMMARY.as_ptr(),
        complexity: null(),
        since: c"0.1.0".as_ptr(),
        history: null(),
        tips: null(),
        arity: C::ARITY,
        key_specs: specs.as_ptr(),
        arguments: null(),
    };
    let name = C::Asked::NAME.as_ptr();
    // SAFETY: all texts end in a zero, and the list of specifications in `NO_KEYS`; the server copies what it keeps.
    unsafe {
        let created = (api().CreateCommand)(context, name, call::<C>, C::FLAGS.as_ptr(), 0, 0, 0);
        if created != api::OK {
            return false;
        }
        let command = (api().GetCommand)(context, name);
        !command.is_null() && (api().SetCommandInfo)(command, &raw const info) == api::OK
    }
}

unsafe extern "C" fn call<C: Command>(raw: *mut RawContext, argv: *mut *mut RawString, argc: c_int) -> c_int {
    let answer = guarded(|| {
        // SAFETY: the server calls with its lock held.
        let context = unsafe { Context::new(raw) };
        // SAFETY: the arguments outlive the call.
        let arguments = unsafe { Arguments::of_call(argv, argc) };
        match arguments.command().and_then(|asked| C::prepare(&context, arguments, asked)) {
            Ok(Next::Reply(reply)) => Some(Ok(reply)),
            Ok(Next::Work(work)) => start(&context, arguments, work),
            Err(failure) => Some(Err(failure)),
        }
    });
    let Some(answer) = answer.unwrap_or(Some(Err(Failure::Internal))) else {
        return api::OK;
    };
    counters::count(&answer);
    // SAFETY: the context is that of this call, which has no answer yet.
    guarded(|| unsafe {
        match &answer {
            Ok(reply) => reply.send(raw),
            Err(failure) => send_failure(failure, raw),
        }
    });
    api::OK
}
