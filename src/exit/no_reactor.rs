//! Where no runtime's reactor serves: the watcher does.

use super::Notice;
use crate::sync::Arc;
use std::convert::Infallible;
use std::task::{Context, Poll};

#[derive(Debug)]
pub(crate) struct Readiness(Infallible);

impl Readiness {
    pub(crate) fn of(_: &Arc<Notice>, _: &Context<'_>) -> Option<Self> {
        None
    }

    pub(crate) fn is_of_this_task(&self, _: &Context<'_>) -> bool {
        match self.0 {}
    }

    pub(crate) fn poll(&self, _: &mut Context<'_>) -> Poll<()> {
        match self.0 {}
    }
}
