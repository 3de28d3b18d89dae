//! Who may touch which keys, asked of the server key by key.
//!
//! The server holds a call's keys against its access list before the module sees the call. It finds them by the
//! specifications in [`crate::command`], and lets a call pass in which it finds none. So a command whose arguments say
//! where its keys are asks again, for the very keys that it is about to touch.

#![expect(unsafe_code, reason = "users are the server's, and reached through its functions")]

use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

use crate::api::{self, RawString, RawUser, api};
use crate::arguments::Arguments;
use crate::command::Access;
use crate::context::Context;
use crate::failure::Failure;

/// A name that no command has.
const NO_COMMAND: &CStr = c"SKEIN.NOBODY";

/// Keys among the arguments that a call is about to touch.
pub(crate) struct Touched<'a> {
    pub(crate) keys: &'a [usize],
    pub(crate) access: Access,
}

/// Refuses a call whose user may not do to all of these keys what is said of them.
///
/// # Errors
/// [`Failure::Forbidden`]
pub(crate) fn permit(context: &Context<'_>, arguments: Arguments<'_>, touched: &[Touched<'_>]) -> Result<(), Failure> {
    let Some(user) = User::of(context) else { return Ok(()) };
    let permitted =
        |Touched { keys, access }: &Touched<'_>| keys.iter().all(|key| user.may(arguments.raw(*key), *access));
    if touched.iter().all(permitted) { Ok(()) } else { Err(Failure::Forbidden) }
}

/// A user of the server's access list.
struct User(NonNull<RawUser>);

impl User {
    /// The user for whom the call is made: in a script that of who runs it. `None`: the call may touch all keys.
    fn of(context: &Context<'_>) -> Option<User> {
        // What a master or the log of commands sends was permitted where it was first called; the client that
        // replays a log has the default user, whatever that one may.
        if context.is_obliged() || !has_user(context) {
            return None;
        }
        // SAFETY: the lock is held, the call has a user, and the name is ours to free.
        unsafe {
            let name = NonNull::new((api().GetCurrentUserName)(context.raw()))?;
            let user = (api().GetModuleUserFromUserName)(name.as_ptr());
            (api().FreeString)(context.raw(), name.as_ptr());
            // A user that another module made is on no list. What the server itself found out about it has to do.
            NonNull::new(user).map(User)
        }
    }

    fn may(&self, key: *mut RawString, access: Access) -> bool {
        // SAFETY: the lock is held, so the user is still there; the key is alive.
        unsafe { (api().ACLCheckKeyPermissions)(self.0.as_ptr(), key, access.permissions()) == api::OK }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and freed once. The user itself belongs to the list.
        unsafe { (api().FreeModuleUser)(self.0.as_ptr()) };
    }
}

/// Whether the call is made for a user, and not by another module for itself.
///
/// Most servers end when they are asked for the name of a user that is not there (valkey-io/valkey#1885). But a call in
/// the user's name fails by one error where there is none, and by another where there is no such command.
fn has_user(context: &Context<'_>) -> bool {
    // SAFETY: the lock is held; the format says that the call has no arguments and is made in the user's name.
    let reply = unsafe { (api().Call)(context.raw(), NO_COMMAND.as_ptr(), c"C".as_ptr()) };
    match NonNull::new(reply) {
        None => io::Error::last_os_error().kind() == io::ErrorKind::NotFound,
        Some(reply) => {
            // SAFETY: the reply is ours, and freed once.
            unsafe { (api().FreeCallReply)(reply.as_ptr()) };
            true
        }
    }
}
