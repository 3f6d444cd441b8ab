//! The driver of a capture on the calling thread: it waits for the pipes and the exit in one system call.

use super::engine::{Engine, Next};
use super::{CaptureOptions, Captured, Ready};
use crate::SharedChild;
use crate::backoff::{Backoff, earlier};
use crate::sys::ExitDescriptor;
use std::io;
use std::time::Instant;

pub(super) fn capture(
    child: &SharedChild,
    options: &mut CaptureOptions<'_>,
    began: Instant,
) -> io::Result<Captured> {
    let mut engine = Engine::new(child, options, began)?;
    // `None` if nothing reports the exit: it is polled then.
    let mut exit = child.notice().and_then(ExitDescriptor::new);
    let mut pause = Backoff::new();
    // The first wait does not block, so that output is read even if the deadline has passed.
    let mut next = Next::Wait(Some(began));
    while let Next::Wait(deadline) = next {
        let polls_exit = engine.awaits_exit() && exit.is_none();
        if polls_exit && !engine.has_output() && !engine.has_input() {
            engine.exited(child.exit_by(deadline));
        } else {
            let until = match polls_exit {
                // The exit does not end this wait, but usually closes a pipe, which does.
                true => earlier(deadline, Instant::now().checked_add(pause.next())),
                false => deadline,
            };
            let ready = engine.pipes.wait(engine.has_input(), exit.as_ref(), until);
            let mut ready = ready.unwrap_or_else(|_| {
                // Without a working wait, everything is tried after a pause.
                pause.sleep(until);
                Ready::ALL
            });
            if ready.exit {
                // If the exit that was reported cannot be confirmed yet, it is polled.
                exit = None;
            }
            ready.exit |= polls_exit;
            if engine.advance(ready, deadline) {
                pause = Backoff::new();
            }
        }
        next = engine.next();
    }
    // Members of a stopped tree that hold no pipe may still have to end.
    let ended = match engine.stop.take() {
        None => Ok(()),
        Some(stop) if engine.awaits_exit() => stop.result(),
        Some(stop) => stop.run(),
    };
    Ok(engine.finish(ended))
}
