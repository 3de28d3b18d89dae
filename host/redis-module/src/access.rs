//! Access checks: asks the server, key by key, whether the user may touch it.
//!
//! The server checks a call's keys against its access list before the module sees the call. It finds them by the
//! specifications in [`crate::command`], and admits a call in which it finds none. So a command whose arguments
//! determine where its keys are checks again, for exactly the keys it is about to touch.

#![expect(unsafe_code, reason = "users belong to the server and are reached through its functions")]

use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

use crate::api::{self, RawString, RawUser, api};
use crate::arguments::Arguments;
use crate::command::Access;
use crate::context::Context;
use crate::failure::Failure;

/// Name of a command that does not exist.
const NO_COMMAND: &CStr = c"SKEIN.NOBODY";

/// Keys that a call is about to touch, as places among its arguments.
pub(crate) struct Touched<'a> {
    pub(crate) keys: &'a [usize],
    pub(crate) access: Access,
}

/// Refuses a call whose user lacks the access in `touched` to any of the keys there.
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
    /// The user for whom the call is made; in a script, the user who runs it. `None` if the call may touch all keys.
    fn of(context: &Context<'_>) -> Option<User> {
        // A command from a master or the command log was permitted when it was first called. The client that
        // replays a log has the default user, which may have fewer permissions.
        if context.is_obliged() || !has_user(context) {
            return None;
        }
        // SAFETY: the lock is held, the call has a user, and the name is ours to free.
        unsafe {
            let name = NonNull::new((api().GetCurrentUserName)(context.raw()))?;
            let user = (api().GetModuleUserFromUserName)(name.as_ptr());
            (api().FreeString)(context.raw(), name.as_ptr());
            // A user created by another module is not on the access list. The server's own check has to suffice.
            NonNull::new(user).map(User)
        }
    }

    fn may(&self, key: *mut RawString, access: Access) -> bool {
        // SAFETY: the lock is held, so the user still exists; the key is alive.
        unsafe { (api().ACLCheckKeyPermissions)(self.0.as_ptr(), key, access.permissions()) == api::OK }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once. The user itself belongs to the access list.
        unsafe { (api().FreeModuleUser)(self.0.as_ptr()) };
    }
}

/// Whether the call is made for a user, and not by another module for itself.
///
/// Most servers crash when asked for the name of a missing user (valkey-io/valkey#1885). But a call in the user's name
/// fails with one error if there is no user, and with another if there is no such command.
fn has_user(context: &Context<'_>) -> bool {
    // SAFETY: the lock is held; by its format the call has no arguments and is made in the user's name.
    let reply = unsafe { (api().Call)(context.raw(), NO_COMMAND.as_ptr(), c"C".as_ptr()) };
    match NonNull::new(reply) {
        None => io::Error::last_os_error().kind() == io::ErrorKind::NotFound,
        Some(reply) => {
            // SAFETY: the reply is ours and freed once.
            unsafe { (api().FreeCallReply)(reply.as_ptr()) };
            true
        }
    }
}
