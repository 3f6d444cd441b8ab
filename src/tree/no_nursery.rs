//! Where the system sends no signal at the death of a parent: a single child is left to the
//! [`guardian`](super::guardian), too.

use std::io;
use std::process::{Child, Command};

pub(super) const AVAILABLE: bool = false;

pub(super) fn spawn(_: &mut Command) -> io::Result<Child> {
    Err(io::ErrorKind::Unsupported.into())
}
