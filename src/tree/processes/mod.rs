//! Who lives on this machine, as the system tells it: one file a system.
//!
//! Each offers the same:
//!
//! - `usable`: whether this system lists processes, here and now.
//! - `READS_ENVIRONMENTS`: whether it shows their environment; and `carries`: whether a cookie is in one.
//! - `census`: who is in a group, and who else there is. Raw: by the time that it is read it may be wrong.
//! - `newest` and `census_of_new`: the same, faster, of those who are new. Where IDs are handed out in turn.
//! - `Held`: one process, held so that it is not mistaken for the next owner of its ID. The pattern of
//!   its use is *open, read, [`lives`](Held::lives), act*: what is read of an ID between the opening and
//!   a `lives` that says yes was about this very process, since for so long nobody else could have the ID.
//! - `Since`: when it is that a tree was made. Whoever is older is not in it.

use std::ffi::c_int;
use std::io;
use std::ops::Deref;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use proc::{
    Held, READS_ENVIRONMENTS, Since, carries, census, census_of_new, newest, usable,
};

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod not_in_turn;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use not_in_turn::{census_of_new, newest};

#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
mod started;
#[cfg(any(
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
))]
pub(super) use started::{Held, READS_ENVIRONMENTS, Since, carries, census, usable};

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
mod unknown;
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd"
)))]
pub(super) use unknown::{Held, READS_ENVIRONMENTS, Since, carries, census, usable};

/// Who there is.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Members of the group that was asked about, zombies among them.
    pub(super) group: Vec<i32>,
    /// All the others that live and are not too old, but for this process.
    pub(super) others: Vec<Other>,
    /// Of the new ones: those who are gone, or zombies. They may have had children.
    pub(super) gone: Vec<i32>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Other {
    pub(super) id: i32,
    pub(super) parent: i32,
}

/// The error where the system does not tell.
pub(super) fn not_told(why: &str) -> io::Error {
    let message = format!("who is in a process group cannot be told here: {why}");
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// getpgid(2). (rustix's takes for granted that groups have an ID; here, kernel threads and groups from
/// outside a PID namespace have 0.)
pub(super) fn group_of(id: i32) -> Option<i32> {
    // SAFETY: an integer goes in, and one comes out.
    let group = unsafe { libc::getpgid(id) };
    (group > 0).then_some(group)
}

/// Whether a process may not be signalled by this one (kill(2)).
pub(super) fn refuses(id: i32) -> bool {
    // SAFETY: integers; 0 is no signal, so nothing is sent, whomever the ID means.
    let refused = unsafe { libc::kill(id, 0) } != 0;
    refused && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// How many are held at a time, where there may be many. Other threads want descriptors, too.
pub(super) const AT_ONCE: usize = 64;

/// How often to look for those who are new while a tree is killed: more than any tree takes, and few enough to come
/// to an end.
pub(super) const PASSES: usize = 1000;

/// Signals them all. The error is the last one, and says whom it is about.
pub(super) fn send<T: Deref<Target = Held>>(members: &[T], signal: c_int) -> io::Result<()> {
    let mut result = Ok(());
    for member in members {
        if let Err(error) = member.signal(signal) {
            let message =
                format!("process {} of the tree cannot be signalled: {error}", member.id());
            result = Err(io::Error::new(error.kind(), message));
        }
    }
    result
}
