//! The server under its global lock: keys, replication, events.
//!
//! A [`Context`] exists only while the lock is held: by the main thread during a call, or briefly by a worker. Keys are
//! opened in the database that the client has selected, also by workers.

#![expect(unsafe_code, reason = "keys are opened and set through the server's functions")]

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::api::{self, RawContext, RawKey, api, flags};
use crate::arguments::Arguments;
use crate::buffer;
use crate::failure::Failure;
use crate::persistence::{Value, deserialize, into_raw};
use crate::sum::Sum;
use crate::tensor::Tensor;

/// The server, for as long as its lock is held.
pub(crate) struct Context<'a> {
    raw: *mut RawContext,
    lock: PhantomData<&'a ()>,
}

/// Whether a change of a key removes its expiry time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// The key gets a new value, as from the server's own SET.
    Remove,
    /// The key gets the next version of the same value.
    Keep,
}

impl<'a> Context<'a> {
    /// # Safety
    /// The server's lock is held for `'a`, and the context is valid.
    pub(crate) unsafe fn new(raw: *mut RawContext) -> Context<'a> {
        Context { raw, lock: PhantomData }
    }

    pub(crate) fn raw(&self) -> *mut RawContext {
        self.raw
    }

    fn flags(&self) -> c_int {
        // SAFETY: the context is valid.
        unsafe { (api().GetContextFlags)(self.raw) }
    }

    /// Whether the client must be answered before the call returns.
    pub(crate) fn must_answer_now(&self) -> bool {
        let now = flags::MULTI | flags::LUA | flags::DENY_BLOCKING | flags::REPLICATED | flags::LOADING;
        self.flags() & now != 0
    }

    /// Whether the server accepts writes only from its master.
    pub(crate) fn is_read_only(&self) -> bool {
        self.flags() & flags::READONLY != 0
    }

    /// Whether a failover is in progress, during which nothing may be replicated.
    pub(crate) fn is_paused(&self) -> bool {
        // SAFETY: the lock is held.
        unsafe { (api().AvoidReplicaTraffic)() != 0 }
    }

    /// Whether the call comes from a master or a log, and so was admitted and permitted before.
    pub(crate) fn is_obliged(&self) -> bool {
        self.flags() & (flags::REPLICATED | flags::LOADING) != 0
    }

    /// Refuses work that allocates if `maxmemory` is reached.
    pub(crate) fn admit(&self) -> Result<(), Failure> {
        let used = used_memory();
        buffer::watch(used);
        if used >= 1.0 && !self.is_obliged() { Err(Failure::Memory) } else { Ok(()) }
    }

    /// The tensor at the key that argument `key` names, `None` if the key is empty.
    ///
    /// # Errors
    /// [`Failure::WrongType`] if the key holds another type.
    pub(crate) fn tensor(&self, arguments: Arguments<'_>, key: usize) -> Result<Option<Arc<Tensor>>, Failure> {
        let key = self.open(arguments, key, api::READ);
        Ok(key.value::<Arc<Tensor>>()?.cloned())
    }

    /// Calls `look` with the sum at the key that argument `key` names, or with `None` if the key is empty.
    ///
    /// # Errors
    /// [`Failure::WrongType`] if the key holds another type, and the errors of `look`.
    pub(crate) fn sum<T>(
        &self,
        arguments: Arguments<'_>,
        key: usize,
        look: impl FnOnce(Option<&Sum>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        look(self.open(arguments, key, api::READ).value::<Sum>()?)
    }

    /// Calls `change` with the sum at a key, which `new` creates if the key is empty.
    ///
    /// # Errors
    /// [`Failure::WrongType`] if the key holds another type.
    pub(crate) fn change_sum<T>(
        &self,
        arguments: Arguments<'_>,
        key: usize,
        new: impl FnOnce() -> Sum,
        change: impl FnOnce(&mut Sum) -> T,
    ) -> Result<T, Failure> {
        let mut key = self.open(arguments, key, api::READ | api::WRITE);
        if key.value::<Sum>()?.is_none() {
            key.put(new());
        }
        match key.value_mut::<Sum>()? {
            Some(sum) => Ok(change(sum)),
            None => Err(Failure::Internal),
        }
    }

    /// Stores a sum at a key that is empty or holds a sum.
    ///
    /// # Errors
    /// [`Failure::WrongType`] if the key holds another type.
    pub(crate) fn set_sum(&self, arguments: Arguments<'_>, key: usize, sum: Sum) -> Result<(), Failure> {
        let mut key = self.open(arguments, key, api::READ | api::WRITE);
        match key.value_mut::<Sum>()? {
            Some(old) => *old = sum,
            None => key.put(sum),
        }
        Ok(())
    }

    /// Stores a tensor at a key that is empty or holds a tensor. Returns the old one, because freeing it takes a while.
    ///
    /// # Errors
    /// [`Failure::WrongType`] if the key holds another type.
    pub(crate) fn set_tensor(
        &self,
        arguments: Arguments<'_>,
        key: usize,
        tensor: Arc<Tensor>,
        expiry: Expiry,
    ) -> Result<Option<Arc<Tensor>>, Failure> {
        let mut key = self.open(arguments, key, api::READ | api::WRITE);
        let Some(place) = key.value_mut::<Arc<Tensor>>()? else {
            key.put(tensor);
            return Ok(None);
        };
        let old = std::mem::replace(place, tensor);
        if expiry == Expiry::Remove {
            key.expire_never();
        }
        Ok(Some(old))
    }

    /// Reads a value from its form in the command log; `None` if it is damaged.
    pub(crate) fn deserialize<V: Value>(&self, arguments: Arguments<'_>, payload: usize) -> Option<V> {
        // SAFETY: the string is alive, and the lock is held.
        unsafe { deserialize(arguments.raw(payload)) }
    }

    /// Refuses a key that holds a value of another type.
    pub(crate) fn check<V: Value>(&self, arguments: Arguments<'_>, key: usize) -> Result<(), Failure> {
        self.open(arguments, key, api::READ).value::<V>().map(|_| ())
    }

    /// Sends the same command to the replicas and the log.
    pub(crate) fn replicate(&self, arguments: Arguments<'_>) {
        let rest = arguments.raw_from(1);
        // SAFETY: the format names a vector of strings with its length, all of which are alive.
        let done =
            unsafe { (api().Replicate)(self.raw, arguments.name().as_ptr(), c"v".as_ptr(), rest.as_ptr(), rest.len()) };
        if done != api::OK {
            self.log(c"failed to replicate a command");
        }
    }

    /// Publishes a keyspace event for a key.
    pub(crate) fn notify(&self, event: &CStr, arguments: Arguments<'_>, key: usize) {
        // SAFETY: the context is valid and the string alive.
        unsafe { (api().NotifyKeyspaceEvent)(self.raw, api::NOTIFY_MODULE, event.as_ptr(), arguments.raw(key)) };
    }

    /// Writes a warning to the server's log.
    pub(crate) fn log(&self, text: &CStr) {
        // SAFETY: the format takes one text, which ends in a zero.
        unsafe { (api().Log)(self.raw, c"warning".as_ptr(), c"%s".as_ptr(), text.as_ptr()) };
    }

    fn open<'c>(&'c self, arguments: Arguments<'_>, key: usize, mode: c_int) -> Key<'c> {
        // SAFETY: the context is valid and the string alive; null means that the key is empty.
        let raw = unsafe { (api().OpenKey)(self.raw, arguments.raw(key), mode) };
        Key { raw, context: PhantomData }
    }
}

/// The used share of `maxmemory`, or 0 without a limit. The caller holds the server's lock.
pub(crate) fn used_memory() -> f32 {
    // SAFETY: the lock is held.
    unsafe { (api().GetUsedMemoryRatio)() }
}

/// An open key; dropping it closes it.
struct Key<'a> {
    raw: *mut RawKey,
    context: PhantomData<&'a ()>,
}

impl Key<'_> {
    fn value<V: Value>(&self) -> Result<Option<&V>, Failure> {
        // SAFETY: the key keeps the value alive, and the lock keeps others from changing it.
        Ok(self.pointer::<V>()?.map(|value| unsafe { &*value }))
    }

    fn value_mut<V: Value>(&mut self) -> Result<Option<&mut V>, Failure> {
        // SAFETY: as above; the only open key is borrowed uniquely.
        Ok(self.pointer::<V>()?.map(|value| unsafe { &mut *value }))
    }

    fn pointer<V: Value>(&self) -> Result<Option<*mut V>, Failure> {
        // SAFETY: the key is open; a null one, which is empty, is passed to no function.
        unsafe {
            if self.raw.is_null() || (api().KeyType)(self.raw) == api::KEYTYPE_EMPTY {
                return Ok(None);
            }
            if (api().ModuleTypeGetType)(self.raw) != V::kind().raw() {
                return Err(Failure::WrongType);
            }
            Ok(Some((api().ModuleTypeGetValue)(self.raw).cast()))
        }
    }

    /// Stores a value in an empty key.
    fn put<V: Value>(&mut self, value: V) {
        // SAFETY: the key is open for writing, and the value is of the type.
        unsafe { (api().ModuleTypeSetValue)(self.raw, V::kind().raw(), into_raw(value)) };
    }

    fn expire_never(&mut self) {
        // SAFETY: the key is open for writing and holds a value.
        unsafe { (api().SetExpire)(self.raw, -1) };
    }
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: the key is open and closed once. Closing it after a write notifies its watchers.
            unsafe { (api().CloseKey)(self.raw) };
        }
    }
}
