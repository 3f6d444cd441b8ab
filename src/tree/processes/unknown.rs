//! Systems that do not tell who is in a process group; or must not be asked: OpenBSD's sysctl(2) would end
//! a program that has pledged no `ps`, which nothing else here needs.

use super::super::cookie::Cookie;
use super::{Census, not_told};
use std::convert::Infallible;
use std::ffi::c_int;
use std::io;
use std::time::Instant;

pub(in super::super) const READS_ENVIRONMENTS: bool = false;

pub(in super::super) fn usable() -> bool {
    false
}

#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Since;

impl Since {
    pub(in super::super) fn now() -> Self {
        Self
    }
}

pub(in super::super) fn census(_: Option<i32>, _: Since) -> io::Result<Census> {
    Err(not_told("the system does not list processes"))
}

pub(in super::super) fn carries(_: i32, _: &Cookie, _: Instant) -> io::Result<bool> {
    Ok(false)
}

#[derive(Debug)]
pub(in super::super) struct Held(Infallible);

impl Held {
    pub(in super::super) fn open(_: i32) -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(in super::super) fn id(&self) -> i32 {
        match self.0 {}
    }

    pub(in super::super) fn parent(&self) -> io::Result<Option<i32>> {
        match self.0 {}
    }

    pub(in super::super) fn is_older_than(&self, _: Since) -> io::Result<bool> {
        match self.0 {}
    }

    pub(in super::super) fn group(&self) -> Option<i32> {
        match self.0 {}
    }

    pub(in super::super) fn kept(self) -> io::Result<Option<Self>> {
        match self.0 {}
    }

    pub(in super::super) fn lives(&self) -> bool {
        match self.0 {}
    }

    pub(in super::super) fn signal(&self, _: c_int) -> io::Result<()> {
        match self.0 {}
    }

    pub(in super::super) fn wait(&self, _: Option<Instant>) -> bool {
        match self.0 {}
    }
}
