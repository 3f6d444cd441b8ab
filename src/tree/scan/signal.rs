//! Signals each member of a batch of trees once.

use super::kill::unsettled;
use super::pass::{Among, Batch};
use super::{BRIEF_PATIENCE, Target, copy, put};
use crate::backoff::Backoff;
use crate::tree::processes::{self, AT_ONCE, Process, signal_each, signal_processes};
use std::collections::HashSet;
use std::ffi::c_int;
use std::io;
use std::time::Instant;

/// Sends each of these signals, in this order, to each member of these trees once. One pass serves all signals.
pub(in crate::tree) fn signal(targets: &[Target<'_>], numbers: &[c_int]) -> Vec<io::Result<()>> {
    if !processes::usable() {
        let each = |target: &Target<'_>| {
            let mut result = Ok(());
            numbers.iter().for_each(|number| put(&mut result, target.signal_group(*number)));
            result
        };
        return targets.iter().map(each).collect();
    }
    Batch::of(targets).signal(numbers)
}

/// Signals the members that are not in this list, for a caller that has signalled the listed members.
pub(in crate::tree) fn signal_unlisted(
    target: Target<'_>,
    listed: &HashSet<i32>,
    numbers: &[c_int],
) -> io::Result<()> {
    let group = target.membership.group;
    let targets = [target];
    let batch = Batch::of(&targets);
    let pass = batch.find(Among::All)?;
    let mut result = Ok(());
    let mut leader = listed.contains(&group);
    for found in pass.trees {
        leader |= found.inside.contains(&group);
        let inside: Vec<i32> = found.inside.into_iter().filter(|id| !listed.contains(id)).collect();
        for ids in inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, found.began)?;
            for number in numbers {
                let left = signal_each(&opened.left, *number);
                put(&mut result, signal_each(&opened.inside, *number).and(left));
            }
        }
        let outside: Vec<Process> =
            found.outside.into_iter().filter(|process| !listed.contains(&process.id())).collect();
        put(&mut result, send(&outside, numbers));
    }
    if !leader {
        for number in numbers {
            put(&mut result, target.leader.signal(|notice| notice.signal(*number)));
        }
    }
    result
}

impl Batch<'_> {
    fn signal(&self, numbers: &[c_int]) -> Vec<io::Result<()>> {
        let found = self.find(Among::All);
        let mut results: Vec<io::Result<()>> = self.targets.iter().map(|_| Ok(())).collect();
        for number in numbers {
            for (result, sent) in results.iter_mut().zip(self.signal_groups(*number)) {
                put(result, sent);
            }
        }
        let signalled = found.and_then(|pass| {
            for (i, (target, found)) in self.targets.iter().zip(pass.trees).enumerate() {
                let outside = send(&found.outside, numbers);
                let refused = target.refused(&found);
                put(&mut results[i], refused.and(outside));
                put(&mut results[i], found.error.map_or(Ok(()), Err));
            }
            let mut waiting = unsettled(&pass.unread);
            let (until, mut pause) = (Instant::now() + BRIEF_PATIENCE, Backoff::new());
            while !waiting.is_empty() && pause.sleep(Some(until)) {
                for (process, trees) in self.settle(&mut waiting)? {
                    let sent = send(&[process], numbers);
                    trees.iter().for_each(|i| put(&mut results[*i], copy_result(&sent)));
                }
            }
            Ok(())
        });
        match signalled {
            Ok(()) => results,
            Err(error) => results.into_iter().map(|result| result.and(Err(copy(&error)))).collect(),
        }
    }

    /// Signals the leaders and their groups.
    pub(super) fn signal_groups(&self, number: c_int) -> Vec<io::Result<()>> {
        let signal = |target: &Target<'_>| match target.signal_group(number) {
            // `refused` reports the members that live.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            // The ID of the group may belong to another group, so no signal was sent to it. The other members were
            // found.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
            result => result,
        };
        self.targets.iter().map(signal).collect()
    }
}

/// Sends each of these signals, in this order, to each process. After an error of one signal the next one is sent
/// nevertheless.
fn send(processes: &[Process], numbers: &[c_int]) -> io::Result<()> {
    let mut result = Ok(());
    for number in numbers {
        put(&mut result, signal_processes(processes, *number));
    }
    result
}

fn copy_result(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(copy(error)),
    }
}
