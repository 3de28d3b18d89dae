//! Skein's module for Redis and Valkey: tensors as a native type, aggregated and applied where they are.
//!
//! A peer's gradients, averages and parameters live in its own database. This module works on them there, so that
//! they do not have to travel to a client and back. It computes with [`skein_kernels`], hence with the bits that any
//! other store gives.
//!
//! Values never change: a command makes new ones and swaps a pointer under the server's lock. That lets workers read
//! without the lock, makes snapshots whole, and lets a command be replicated as it came, since a replica that has the
//! same values computes the same ones. What a worker started from is compared again before anything is written.
//!
//! | module | what |
//! |---|---|
//! | `api` | the server's functions, looked up by name |
//! | `access` | what the user of a call may touch |
//! | `context`, `arguments`, `reply`, `guard` | the safe layer above them; no panic passes |
//! | `buffer` | aligned values in the server's memory, used again |
//! | `tensor`, `sum`, `persistence` | the two native types, and what the server asks of them |
//! | `command`, `commands` | what a command is, and all of them with their answers |
//! | `work`, `pool`, `budget` | at once or by a worker, on how many threads |
//! | `info` | `INFO skein` |
//!
//! It is loaded with `--loadmodule libskein_redis_module.so [threads N] [queue N]`.
//!
//! An error's first word is its code: `WRONGTYPE`, `NOSTATE`, `LENGTH expected actual`, `RANGE length`, `LEAF index
//! leaves`, `INCOMPLETE round`, `ORDER version`, `SLOTS needed given`, `MISSING index`, `FEW needed present`,
//! `NONFINITE row`, `WEIGHTS`, `CHANGED what`, `QUEUEFULL`, `OOM`, `READONLY`, `NOPERM`, `DAMAGED`, and `ERR` for all
//! else. `CHANGED` and `QUEUEFULL` pass when the command is sent again.
//!
//! Known limits. Within a transaction or a script, and on a replica, work is done on the server's main thread, which
//! serves nobody else meanwhile. A large blob is received there too. Saving compresses in vain unless the server has
//! `rdbcompression no`.

#![expect(unsafe_code, reason = "the entry point is called by the server")]

mod access;
mod api;
mod arguments;
mod budget;
mod buffer;
mod command;
mod commands;
mod context;
mod counters;
mod failure;
mod guard;
mod info;
mod options;
mod persistence;
mod pool;
mod reply;
mod sum;
mod tensor;
mod work;

use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::Arc;

use api::{Event, RawContext, RawString, api};
use arguments::Arguments;
use context::Context;
use guard::guarded;
use options::Options;

/// Name of the file that a server loads.
pub const FILE_NAME: &str = "libskein_redis_module.so";
/// Name under which a server lists the module.
pub const MODULE_NAME: &str = "skein";
/// Version under which a server lists the module.
pub const MODULE_VERSION: i32 = 1;

/// What the server calls when it loads the module.
///
/// # Safety
/// Only a server may call it, as it calls every module's.
#[unsafe(no_mangle)]
unsafe extern "C" fn RedisModule_OnLoad(context: *mut RawContext, argv: *mut *mut RawString, argc: c_int) -> c_int {
    // SAFETY: the server gives a context and as many arguments as it says.
    match guarded(|| unsafe { load(context, argv, argc) }) {
        Some(Ok(())) => api::OK,
        Some(Err(reason)) => {
            if api::is_loaded() {
                // SAFETY: the context is that of the entry point.
                unsafe { Context::new(context) }.log(&reason);
            }
            api::ERR
        }
        None => api::ERR,
    }
}

/// # Safety
/// As for [`RedisModule_OnLoad`].
unsafe fn load(context: *mut RawContext, argv: *mut *mut RawString, argc: c_int) -> Result<(), CString> {
    // SAFETY: the caller's promise.
    unsafe {
        api::load(context).map_err(CStr::to_owned)?;
        // A server may be told to load the same file twice.
        if (api().IsModuleNameBusy)(c"skein".as_ptr()) != 0 {
            return Err(c"a module of this name is loaded already".to_owned());
        }
        (api().SetModuleAttribs)(context, c"skein".as_ptr(), MODULE_VERSION, 1);
        let options = Options::read(Arguments::of_call(argv, argc))?;
        // Data that can not be read is refused by the types themselves and must not end the server.
        (api().SetModuleOptions)(context, api::OPTIONS_HANDLE_IO_ERRORS);
        if !register(context, &options) {
            return Err(c"a command or a type of this name is there already".to_owned());
        }
        // A module that is refused after this would leave threads behind, which then run code that is gone.
        pool::start(options.threads, options.queue).map_err(|_| c"no thread can be started".to_owned())?;
        let event = Event { id: api::EVENT_CRON_LOOP, version: 1 };
        if (api().SubscribeToServerEvent)(context, event, cron) != api::OK {
            Context::new(context).log(c"skein: there is no cron, so memory that was retired is kept");
        }
        Ok(())
    }
}

/// # Safety
/// As for [`RedisModule_OnLoad`].
unsafe fn register(context: *mut RawContext, options: &Options) -> bool {
    use commands::{accumulate, aggregate, apply, average, look, panic, tensors};
    // SAFETY: the caller's promise.
    unsafe {
        persistence::register::<Arc<tensor::Tensor>>(context)
            && persistence::register::<sum::Sum>(context)
            && command::register::<tensors::Set>(context)
            && command::register::<tensors::SetRange>(context)
            && command::register::<tensors::Get>(context)
            && command::register::<tensors::GetRange>(context)
            && command::register::<look::Version>(context)
            && command::register::<look::Meta>(context)
            && command::register::<look::Stat>(context)
            && command::register::<look::Norm>(context)
            && command::register::<accumulate::Accumulate>(context)
            && command::register::<average::Average>(context)
            && command::register::<average::RestoreSum>(context)
            && command::register::<aggregate::Aggregate>(context)
            && command::register::<apply::Apply>(context)
            && (!options.panic_command || command::register::<panic::Panic>(context))
            && (api().RegisterInfoFunc)(context, info::write) == api::OK
    }
}

unsafe extern "C" fn cron(_context: *mut RawContext, _event: Event, _subevent: u64, _data: *mut c_void) {
    guarded(|| {
        buffer::watch(context::used_memory());
        buffer::age();
        work::tick();
    });
}
