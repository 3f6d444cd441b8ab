//! Where there are no cgroups.

use super::environment_marker::EnvironmentMarker;
use crate::sys::FromChild;
use crate::usage::Usage;
use std::convert::Infallible;
use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    Nowhere,
}

pub(super) struct Cgroup(Infallible);

impl Cgroup {
    pub(super) fn create(_: &Place, _: &EnvironmentMarker) -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn directory(&self) -> &Path {
        match self.0 {}
    }

    pub(super) fn spawn(&self, _: &mut Command) -> io::Result<(Child, Option<FromChild>)> {
        match self.0 {}
    }

    pub(super) fn admitted(&mut self, _: u32) {
        match self.0 {}
    }

    pub(super) fn is_complete(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn remove(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn kill_once(&self) {
        match self.0 {}
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) fn signal_those(&self, _: &[i32], _: c_int) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) fn wait_empty(&self, _: Option<Instant>) -> io::Result<bool> {
        match self.0 {}
    }

    pub(super) fn ids(&self) -> io::Result<Vec<i32>> {
        match self.0 {}
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        match self.0 {}
    }

    pub(super) fn done(&self) {
        match self.0 {}
    }
}
