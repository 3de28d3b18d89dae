//! The server's module interface: a table of C functions, looked up by name when the server loads the module.
//!
//! Only the functions that this crate calls are bound, which needs neither headers nor a C compiler. Redis 7.0.15 and
//! Valkey 9 have all of them under these names; if one is missing, the module refuses to load.

#![expect(unsafe_code, reason = "functions are looked up by name and cast to their C signature")]
#![expect(non_snake_case, reason = "the table keeps the names of the server's interface")]

use std::ffi::{CStr, c_char, c_double, c_int, c_longlong, c_ulonglong, c_void};
use std::sync::OnceLock;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[repr(C)]
        pub(crate) struct $name {
            _opaque: [u8; 0],
        }
    )* };
}

opaque! {
    /// The context in which the server calls the module.
    RawContext;
    /// A reference-counted string; the counter is not atomic.
    RawString;
    /// A key of the database, as `OpenKey` returns it.
    RawKey;
    /// A registered native type.
    RawType;
    /// A stream that a value is saved to or loaded from.
    RawIo;
    /// The running state of a digest.
    RawDigest;
    /// A client that waits for a worker.
    RawBlocked;
    /// A registered command, as `GetCommand` returns it.
    RawCommand;
    /// A reply of INFO that is being written.
    RawInfo;
    /// A handle of a user.
    RawUser;
    /// The reply of a command that the module called.
    RawReply;
}

/// Entry point of a command.
pub(crate) type CommandFn = unsafe extern "C" fn(*mut RawContext, *mut *mut RawString, c_int) -> c_int;
/// Entry point of INFO; the flag is set while the server is crashing.
pub(crate) type InfoFn = unsafe extern "C" fn(*mut RawInfo, c_int);
/// Entry point of a server event.
pub(crate) type EventFn = unsafe extern "C" fn(*mut RawContext, Event, u64, *mut c_void);
type FreeFn = unsafe extern "C" fn(*mut RawContext, *mut c_void);

/// Identifies a server event.
#[repr(C)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) version: u64,
}

/// Entry points of a native type, in the layout of version 3.
#[repr(C)]
pub(crate) struct TypeMethods {
    pub(crate) version: u64,
    pub(crate) rdb_load: unsafe extern "C" fn(*mut RawIo, c_int) -> *mut c_void,
    pub(crate) rdb_save: unsafe extern "C" fn(*mut RawIo, *mut c_void),
    pub(crate) aof_rewrite: unsafe extern "C" fn(*mut RawIo, *mut RawString, *mut c_void),
    pub(crate) mem_usage: unsafe extern "C" fn(*const c_void) -> usize,
    pub(crate) digest: unsafe extern "C" fn(*mut RawDigest, *mut c_void),
    pub(crate) free: unsafe extern "C" fn(*mut c_void),
    pub(crate) aux_load: *const c_void,
    pub(crate) aux_save: *const c_void,
    pub(crate) aux_save_triggers: c_int,
    pub(crate) free_effort: unsafe extern "C" fn(*mut RawString, *const c_void) -> usize,
    pub(crate) unlink: *const c_void,
    pub(crate) copy: unsafe extern "C" fn(*mut RawString, *mut RawString, *const c_void) -> *mut c_void,
    pub(crate) defrag: *const c_void,
}

/// Where the search for keys begins: at an index or after a keyword.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union BeginSearch {
    pub(crate) index: c_int,
    pub(crate) keyword: Keyword,
}

/// A keyword, and the argument from which the search for it starts.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Keyword {
    pub(crate) word: *const c_char,
    pub(crate) start: c_int,
}

/// One key specification of a command.
#[repr(C)]
pub(crate) struct RawKeySpec {
    pub(crate) notes: *const c_char,
    pub(crate) flags: u64,
    pub(crate) begin_type: c_int,
    pub(crate) begin: BeginSearch,
    pub(crate) find_type: c_int,
    /// For a range: last key, step, limit. Otherwise: index of the number of keys, first key, step.
    pub(crate) find: [c_int; 3],
}

/// Sizes of the structures below, from which the server derives their version.
#[repr(C)]
pub(crate) struct RawInfoVersion {
    pub(crate) version: c_int,
    pub(crate) history_bytes: usize,
    pub(crate) key_spec_bytes: usize,
    pub(crate) argument_bytes: usize,
}

/// Description of a command for the server.
#[repr(C)]
pub(crate) struct RawCommandInfo {
    pub(crate) version: *const RawInfoVersion,
    pub(crate) summary: *const c_char,
    pub(crate) complexity: *const c_char,
    pub(crate) since: *const c_char,
    pub(crate) history: *const c_void,
    pub(crate) tips: *const c_char,
    pub(crate) arity: c_int,
    pub(crate) key_specs: *const RawKeySpec,
    pub(crate) arguments: *const c_void,
}

pub(crate) const OK: c_int = 0;
pub(crate) const ERR: c_int = 1;
pub(crate) const READ: c_int = 1;
pub(crate) const WRITE: c_int = 2;
/// Type of a key that holds nothing.
pub(crate) const KEYTYPE_EMPTY: c_int = 0;
pub(crate) const NOTIFY_MODULE: c_int = 1 << 13;
pub(crate) const OPTIONS_HANDLE_IO_ERRORS: c_int = 1;
pub(crate) const EVENT_CRON_LOOP: u64 = 8;
pub(crate) const TYPE_METHODS_VERSION: u64 = 3;

/// Flags that describe a context.
pub(crate) mod flags {
    use std::ffi::c_int;

    pub(crate) const LUA: c_int = 1;
    pub(crate) const MULTI: c_int = 1 << 1;
    pub(crate) const READONLY: c_int = 1 << 4;
    pub(crate) const REPLICATED: c_int = 1 << 12;
    pub(crate) const LOADING: c_int = 1 << 13;
    pub(crate) const DENY_BLOCKING: c_int = 1 << 21;
}

macro_rules! functions {
    ($($name:ident: $signature:ty;)*) => {
        /// The server's functions that the module calls.
        pub(crate) struct Api {
            $(pub(crate) $name: $signature,)*
        }

        impl Api {
            /// Looks up every function; returns the name of the first that is missing.
            fn resolve(lookup: impl Fn(&CStr) -> Option<*const c_void>) -> Result<Api, &'static CStr> {
                Ok(Api { $($name: {
                    let name = const {
                        match CStr::from_bytes_with_nul(concat!("RedisModule_", stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => panic!("a name has one zero byte, at its end"),
                        }
                    };
                    let function = lookup(name).ok_or(name)?;
                    // SAFETY: the server returned the function of this name, whose C signature is the one above.
                    unsafe { std::mem::transmute::<*const c_void, $signature>(function) }
                },)* })
            }
        }
    };
}

functions! {
    IsModuleNameBusy: unsafe extern "C" fn(*const c_char) -> c_int;
    SetModuleAttribs: unsafe extern "C" fn(*mut RawContext, *const c_char, c_int, c_int);
    SetModuleOptions: unsafe extern "C" fn(*mut RawContext, c_int);
    CreateCommand: unsafe extern "C" fn(*mut RawContext, *const c_char, CommandFn, *const c_char, c_int, c_int, c_int) -> c_int;
    GetCommand: unsafe extern "C" fn(*mut RawContext, *const c_char) -> *mut RawCommand;
    SetCommandInfo: unsafe extern "C" fn(*mut RawCommand, *const RawCommandInfo) -> c_int;
    CreateDataType: unsafe extern "C" fn(*mut RawContext, *const c_char, c_int, *const TypeMethods) -> *mut RawType;
    RegisterInfoFunc: unsafe extern "C" fn(*mut RawContext, InfoFn) -> c_int;
    InfoAddSection: unsafe extern "C" fn(*mut RawInfo, *const c_char) -> c_int;
    InfoAddFieldULongLong: unsafe extern "C" fn(*mut RawInfo, *const c_char, c_ulonglong) -> c_int;
    SubscribeToServerEvent: unsafe extern "C" fn(*mut RawContext, Event, EventFn) -> c_int;
    Log: unsafe extern "C" fn(*mut RawContext, *const c_char, *const c_char, ...);
    LogIOError: unsafe extern "C" fn(*mut RawIo, *const c_char, *const c_char, ...);

    OpenKey: unsafe extern "C" fn(*mut RawContext, *mut RawString, c_int) -> *mut RawKey;
    CloseKey: unsafe extern "C" fn(*mut RawKey);
    KeyType: unsafe extern "C" fn(*mut RawKey) -> c_int;
    ModuleTypeGetType: unsafe extern "C" fn(*mut RawKey) -> *mut RawType;
    ModuleTypeGetValue: unsafe extern "C" fn(*mut RawKey) -> *mut c_void;
    ModuleTypeSetValue: unsafe extern "C" fn(*mut RawKey, *mut RawType, *mut c_void) -> c_int;
    SetExpire: unsafe extern "C" fn(*mut RawKey, c_longlong) -> c_int;
    CreateString: unsafe extern "C" fn(*mut RawContext, *const c_char, usize) -> *mut RawString;
    StringPtrLen: unsafe extern "C" fn(*const RawString, *mut usize) -> *const c_char;
    RetainString: unsafe extern "C" fn(*mut RawContext, *mut RawString);
    TrimStringAllocation: unsafe extern "C" fn(*mut RawString);
    FreeString: unsafe extern "C" fn(*mut RawContext, *mut RawString);

    ReplyWithLongLong: unsafe extern "C" fn(*mut RawContext, c_longlong) -> c_int;
    ReplyWithError: unsafe extern "C" fn(*mut RawContext, *const c_char) -> c_int;
    ReplyWithSimpleString: unsafe extern "C" fn(*mut RawContext, *const c_char) -> c_int;
    ReplyWithArray: unsafe extern "C" fn(*mut RawContext, std::ffi::c_long) -> c_int;
    ReplyWithNull: unsafe extern "C" fn(*mut RawContext) -> c_int;
    ReplyWithStringBuffer: unsafe extern "C" fn(*mut RawContext, *const c_char, usize) -> c_int;

    Call: unsafe extern "C" fn(*mut RawContext, *const c_char, *const c_char, ...) -> *mut RawReply;
    FreeCallReply: unsafe extern "C" fn(*mut RawReply);
    GetCurrentUserName: unsafe extern "C" fn(*mut RawContext) -> *mut RawString;
    GetModuleUserFromUserName: unsafe extern "C" fn(*mut RawString) -> *mut RawUser;
    FreeModuleUser: unsafe extern "C" fn(*mut RawUser) -> c_int;
    ACLCheckKeyPermissions: unsafe extern "C" fn(*mut RawUser, *mut RawString, c_int) -> c_int;

    GetContextFlags: unsafe extern "C" fn(*mut RawContext) -> c_int;
    AvoidReplicaTraffic: unsafe extern "C" fn() -> c_int;
    GetUsedMemoryRatio: unsafe extern "C" fn() -> f32;
    Replicate: unsafe extern "C" fn(*mut RawContext, *const c_char, *const c_char, ...) -> c_int;
    NotifyKeyspaceEvent: unsafe extern "C" fn(*mut RawContext, c_int, *const c_char, *mut RawString) -> c_int;

    BlockClient: unsafe extern "C" fn(*mut RawContext, Option<CommandFn>, Option<CommandFn>, Option<FreeFn>, c_longlong) -> *mut RawBlocked;
    UnblockClient: unsafe extern "C" fn(*mut RawBlocked, *mut c_void) -> c_int;
    GetThreadSafeContext: unsafe extern "C" fn(*mut RawBlocked) -> *mut RawContext;
    FreeThreadSafeContext: unsafe extern "C" fn(*mut RawContext);
    ThreadSafeContextLock: unsafe extern "C" fn(*mut RawContext);
    ThreadSafeContextUnlock: unsafe extern "C" fn(*mut RawContext);

    TryAlloc: unsafe extern "C" fn(usize) -> *mut c_void;
    Free: unsafe extern "C" fn(*mut c_void);

    SaveUnsigned: unsafe extern "C" fn(*mut RawIo, u64);
    LoadUnsigned: unsafe extern "C" fn(*mut RawIo) -> u64;
    SaveDouble: unsafe extern "C" fn(*mut RawIo, c_double);
    LoadDouble: unsafe extern "C" fn(*mut RawIo) -> c_double;
    SaveStringBuffer: unsafe extern "C" fn(*mut RawIo, *const c_char, usize);
    LoadStringBuffer: unsafe extern "C" fn(*mut RawIo, *mut usize) -> *mut c_char;
    IsIOError: unsafe extern "C" fn(*mut RawIo) -> c_int;
    EmitAOF: unsafe extern "C" fn(*mut RawIo, *const c_char, *const c_char, ...);
    SaveDataTypeToString: unsafe extern "C" fn(*mut RawContext, *const c_void, *mut RawType) -> *mut RawString;
    LoadDataTypeFromString: unsafe extern "C" fn(*const RawString, *mut RawType) -> *mut c_void;
    DigestAddStringBuffer: unsafe extern "C" fn(*mut RawDigest, *const c_char, usize);
    DigestAddLongLong: unsafe extern "C" fn(*mut RawDigest, c_longlong);
    DigestEndSequence: unsafe extern "C" fn(*mut RawDigest);
}

static API: OnceLock<Api> = OnceLock::new();

/// The functions of the server that loaded the module.
pub(crate) fn api() -> &'static Api {
    API.get().expect("the server calls the module only after loading it")
}

/// Looks up the functions.
///
/// # Errors
/// The name of a function that the server lacks.
///
/// # Safety
/// `context` is the one that the server passed to the module's entry point.
pub(crate) unsafe fn load(context: *mut RawContext) -> Result<(), &'static CStr> {
    type GetApi = unsafe extern "C" fn(*const c_char, *mut *const c_void) -> c_int;
    // SAFETY: the first word of a context is the server's lookup function, which bootstraps modules.
    let get: GetApi = unsafe { *context.cast::<GetApi>() };
    let table = Api::resolve(|name| {
        let mut function = std::ptr::null();
        // SAFETY: the name ends in a zero, and the output pointer is ours.
        let found = unsafe { get(name.as_ptr(), &raw mut function) };
        (found == OK && !function.is_null()).then_some(function)
    })?;
    API.get_or_init(|| table);
    Ok(())
}

/// Whether [`load`] has succeeded.
pub(crate) fn is_loaded() -> bool {
    API.get().is_some()
}
