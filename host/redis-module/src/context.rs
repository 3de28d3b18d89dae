//! The server under its global lock: keys, replication, events.
//!
//! A [`Context`] exists only while the lock is held, by the main thread during a call or by a worker for a moment.
//! Keys are opened in the database that the client has selected, in workers too.

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

/// Whether a change of a key removes the time at which it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// The key holds something new, as after the server's own SET.
    Remove,
    /// The key holds the next version of the same thing.
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

    /// Whether the client has to have its answer before the call returns.
    pub(crate) fn must_answer_now(&self) -> bool {
        let now = flags::MULTI | flags::LUA | flags::DENY_BLOCKING | flags::REPLICATED | flags::LOADING;
        self.flags() & now != 0
    }

    /// Whether the server takes writes from its master only.
    pub(crate) fn is_read_only(&self) -> bool {
        self.flags() & flags::READONLY != 0
    }

    /// Whether a failover is under way, during which nothing may be replicated.
    pub(crate) fn is_paused(&self) -> bool {
        // SAFETY: the lock is held.
        unsafe { (api().AvoidReplicaTraffic)() != 0 }
    }

    /// Whether the call comes from a master or a log, and so was admitted and permitted there.
    pub(crate) fn is_obliged(&self) -> bool {
        self.flags() & (flags::REPLICATED | flags::LOADING) != 0
    }

    /// Refuses work that allocates when `maxmemory` is reached.
    pub(crate) fn admit(&self) -> Result<(), Failure> {
        let used = used_memory();
        buffer::watch(used);
        if used >= 1.0 && !self.is_obliged() { Err(Failure::Memory) } else { Ok(()) }
    }

    /// The tensor at the key that argument `key` names.
    ///
    /// # Errors
    /// Something else is there.
    pub(crate) fn tensor(&self, arguments: Arguments<'_>, key: usize) -> Result<Option<Arc<Tensor>>, Failure> {
        let key = self.open(arguments, key, api::READ);
        Ok(key.value::<Arc<Tensor>>()?.cloned())
    }

    /// Lets `look` see the sum at the key that argument `key` names, or that none is there.
    ///
    /// # Errors
    /// Something else is there, and what `look` refuses.
    pub(crate) fn sum<T>(
        &self,
        arguments: Arguments<'_>,
        key: usize,
        look: impl FnOnce(Option<&Sum>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        look(self.open(arguments, key, api::READ).value::<Sum>()?)
    }

    /// Lets `change` change the sum at a key, which `new` makes if there is none.
    ///
    /// # Errors
    /// Something else is there.
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

    /// Puts a sum where nothing or a sum is.
    pub(crate) fn set_sum(&self, arguments: Arguments<'_>, key: usize, sum: Sum) -> Result<(), Failure> {
        let mut key = self.open(arguments, key, api::READ | api::WRITE);
        match key.value_mut::<Sum>()? {
            Some(old) => *old = sum,
            None => key.put(sum),
        }
        Ok(())
    }

    /// Puts a tensor where nothing or a tensor is; gives that one, since freeing it takes a while.
    ///
    /// # Errors
    /// Something else is there.
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

    /// A value as the log of commands keeps it.
    pub(crate) fn deserialize<V: Value>(&self, arguments: Arguments<'_>, payload: usize) -> Option<V> {
        // SAFETY: the string is alive, and the lock is held.
        unsafe { deserialize(arguments.raw(payload)) }
    }

    /// Refuses a key that holds something else than a value of this type.
    pub(crate) fn check<V: Value>(&self, arguments: Arguments<'_>, key: usize) -> Result<(), Failure> {
        self.open(arguments, key, api::READ).value::<V>().map(|_| ())
    }

    /// Has replicas and the log do what was done here, by the same command.
    pub(crate) fn replicate(&self, arguments: Arguments<'_>) {
        let rest = arguments.raw_from(1);
        // SAFETY: the format names a vector of strings with its length, all of which are alive.
        let done =
            unsafe { (api().Replicate)(self.raw, arguments.name().as_ptr(), c"v".as_ptr(), rest.as_ptr(), rest.len()) };
        if done != api::OK {
            self.log(c"a command could not be replicated");
        }
    }

    /// Tells who listens that something happened to a key.
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
        // SAFETY: the context is valid and the string alive; null means that nothing is there.
        let raw = unsafe { (api().OpenKey)(self.raw, arguments.raw(key), mode) };
        Key { raw, context: PhantomData }
    }
}

/// The used share of `maxmemory`, or 0 where there is no limit. The server's lock is held.
pub(crate) fn used_memory() -> f32 {
    // SAFETY: the lock is held.
    unsafe { (api().GetUsedMemoryRatio)() }
}

/// An open key.
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
        // SAFETY: as above; the unique borrow is of the only open key.
        Ok(self.pointer::<V>()?.map(|value| unsafe { &mut *value }))
    }

    fn pointer<V: Value>(&self) -> Result<Option<*mut V>, Failure> {
        // SAFETY: the key is open, or null, which these functions take as empty.
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

    /// Puts a value where nothing is.
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
            // SAFETY: the key is open and closed once. Closing it after writing wakes those who watch it.
            unsafe { (api().CloseKey)(self.raw) };
        }
    }
}
