//! Systems that do not list the members of a process group; and OpenBSD, whose sysctl(2) would end a program that has not
//! pledged `ps`, which nothing else here needs.

use super::{Census, Groups, not_told};
use std::convert::Infallible;
use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

pub(in super::super) const READS_ENVIRONMENTS: bool = false;

pub(in super::super) fn usable() -> bool {
    false
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Since;

impl Since {
    pub(in super::super) fn now() -> Self {
        Self
    }
}

pub(in super::super) fn census(_: &Groups, _: Since) -> io::Result<Census> {
    Err(not_told("the system does not list processes"))
}

#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Other {
    pub(in super::super) id: i32,
    pub(in super::super) parent: i32,
    never: Infallible,
}

impl Other {
    pub(in super::super) fn may_belong(&self, _: Since) -> bool {
        match self.never {}
    }

    pub(in super::super) fn key(&self) -> (i32, u64) {
        match self.never {}
    }
}

pub(crate) type Process = Held;

#[derive(Debug, Clone)]
pub(crate) struct Held(Infallible);

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

    pub(in super::super) fn process(&self) -> io::Result<Option<Process>> {
        match self.0 {}
    }

    pub(in super::super) fn hold(&self) -> io::Result<Option<Held>> {
        match self.0 {}
    }

    pub(in super::super) fn lives(&self) -> bool {
        match self.0 {}
    }

    pub(in super::super) fn signal(&self, _: c_int) -> io::Result<()> {
        match self.0 {}
    }

    pub(in super::super) fn exit_descriptor(&self) -> Option<Box<dyn AsFd + Send>> {
        match self.0 {}
    }

    pub(in super::super) fn wait(&self, _: Option<Instant>) -> bool {
        match self.0 {}
    }
}
