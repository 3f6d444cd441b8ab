//! The state that all stops of one child share.

use crate::sync::Mutex;
use crate::sys::Request;
use std::time::Instant;

/// What all stops of one child share.
#[derive(Default)]
pub(crate) struct Stopping(Mutex<Plan>);

#[derive(Default)]
struct Plan {
    /// The last request. It is not repeated, because some programs exit without cleanup at the second request.
    requested: Option<Request>,
    /// `None` is never: a grace beyond the end of the clock.
    deadline: Option<Instant>,
}

impl Stopping {
    /// Adds a stop. Returns when to kill the child, and whether to request it to terminate.
    pub(crate) fn join(&self, request: Request, own: Option<Instant>) -> (Option<Instant>, bool) {
        let mut plan = self.0.lock();
        plan.deadline = match plan.requested {
            None => own,
            Some(_) => [plan.deadline, own].into_iter().flatten().min(),
        };
        let new = plan.requested != Some(request);
        plan.requested = Some(request);
        (plan.deadline, new)
    }
}
