//! Skein's module for Redis and Valkey: tensors as a native type, aggregated and applied in the database.
//!
//! A peer's gradients, averages and parameters are stored in its own database. This module computes on them there, so
//! that they do not have to travel to a client and back. It computes with [`skein_kernels`], so its results have the
//! same bits as those of any other store.
//!
//! Values never change: a command creates new ones and swaps a pointer under the server's lock. So workers read without
//! the lock, snapshots are consistent, and a command is replicated verbatim, since a replica with the same values
//! computes the same result. Before a worker writes, it checks that its inputs have not changed.
//!
//! | module | purpose |
//! |---|---|
//! | `api` | the server's functions, looked up by name |
//! | `access` | which keys the user of a call may touch |
//! | `context`, `arguments`, `reply`, `guard` | the safe layer above them, which no panic crosses |
//! | `buffer` | aligned, reused values in the server's memory |
//! | `tensor`, `sum`, `persistence` | the two native types, and the callbacks they need |
//! | `command`, `commands` | the trait and registration of commands, and all commands with their answers |
//! | `work`, `pool`, `budget` | work done at once or by a worker, and its threads |
//! | `info` | `INFO skein` |
//!
//! Load it with `--loadmodule libskein_redis_module.so [threads N] [queue N]`.
//!
//! An error's first word is its code: `WRONGTYPE`, `NOSTATE`, `LENGTH expected actual`, `RANGE length`, `LEAF index
//! count`, `INCOMPLETE round`, `ORDER version`, `SLOTS needed given`, `MISSING index`, `FEW needed present`,
//! `NONFINITE row`, `WEIGHTS`, `CHANGED what`, `QUEUEFULL`, `OOM`, `READONLY`, `NOPERM`, `DAMAGED`, and `ERR` for all
//! others. After `CHANGED` or `QUEUEFULL`, send the command again.
//!
//! Known limits. In a transaction or a script, and on a replica, work blocks the server's main thread, and with it all
//! other clients. So does receiving a large blob. Compressing values in snapshots wastes time: set `rdbcompression no`.

#![expect(unsafe_code, reason = "the server calls the entry point")]

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

/// The entry point that the server calls when it loads the module.
///
/// # Safety
/// Only a server may call it, with the arguments that it passes to every module.
#[unsafe(no_mangle)]
unsafe extern "C" fn RedisModule_OnLoad(context: *mut RawContext, argv: *mut *mut RawString, argc: c_int) -> c_int {
    // SAFETY: the server passes a context and `argc` arguments.
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
        // A user may load the same file twice.
        if (api().IsModuleNameBusy)(c"skein".as_ptr()) != 0 {
            return Err(c"a module named `skein` is already loaded".to_owned());
        }
        (api().SetModuleAttribs)(context, c"skein".as_ptr(), MODULE_VERSION, 1);
        let options = Options::read(Arguments::of_call(argv, argc))?;
        // The types themselves refuse data that cannot be read, which must not end the server.
        (api().SetModuleOptions)(context, api::OPTIONS_HANDLE_IO_ERRORS);
        if !register(context, &options) {
            return Err(c"the server refused a command or a type: another module may have its name".to_owned());
        }
        // Loading must not fail after this: the threads would keep running code that the server has unloaded.
        pool::start(options.threads, options.queue).map_err(|_| c"failed to start a thread".to_owned())?;
        let event = Event { id: api::EVENT_CRON_LOOP, version: 1 };
        if (api().SubscribeToServerEvent)(context, event, cron) != api::OK {
            Context::new(context).log(c"skein: the server has no cron event, so retired memory is kept");
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
