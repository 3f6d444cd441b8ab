//! Signals all members of a batch of trees once, or kills them until none is left.

use super::pass::{Batch, Found, Pass};
use super::{BRIEF_PATIENCE, Target, first_after, is_among, put};
use crate::backoff::Backoff;
use crate::fork_guard::PerProcess;
use crate::sort::{missing, search, sort};
use crate::sync::Mutex;
use crate::sys::copy_error;
use crate::tree::processes::{
    self, AT_ONCE, Environment, PASSES, Record, signal_each, signal_processes,
};
use std::ffi::c_int;
use std::io;
use std::time::{Duration, Instant};

/// The time for which a kill waits, in all, for processes that show no environment in the middle of an exec. An exec
/// can wait for a disk, or for a CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends each of these signals, in this order, to each member of these trees once. One pass serves all signals.
pub(in crate::tree) fn signal(targets: &[Target<'_>], numbers: &[c_int]) -> Vec<io::Result<()>> {
    let batch = Batch::of(targets);
    if processes::usable() { batch.signal(numbers) } else { batch.signal_groups(numbers) }
}

/// Signals the members of each tree that are not in its sorted list, for a caller that has signalled the listed members.
/// One pass serves all trees.
pub(in crate::tree) fn signal_unlisted(
    targets: &[Target<'_>],
    listed: &[Vec<i32>],
    numbers: &[c_int],
) -> Vec<io::Result<()>> {
    let pass = Batch::of(targets).find(None);
    let mut results = Vec::new();
    for (tree, target) in targets.iter().enumerate() {
        results.push(match &pass {
            Ok(pass) => signal_found(*target, &pass.trees[tree], &listed[tree], numbers),
            Err(error) => Err(copy_error(error)),
        });
    }
    results
}

fn signal_found(
    target: Target<'_>,
    found: &Found,
    listed: &[i32],
    numbers: &[c_int],
) -> io::Result<()> {
    let is_listed = |id: i32| listed.binary_search(&id).is_ok();
    let group = target.membership.group;
    let leader = is_listed(group) || found.inside.contains(&group);
    let mut result = Ok(());
    for ids in missing(&found.inside, listed).chunks(AT_ONCE) {
        let opened = target.open_seen(ids, found.began)?;
        put(&mut result, signal_each(&opened.held, numbers));
    }
    for process in &found.outside {
        if !is_listed(process.id()) {
            put(&mut result, signal_processes(&[*process], numbers));
        }
    }
    if !leader {
        for number in numbers {
            put(&mut result, target.leader.signal(&mut |notice| notice.signal(*number)));
        }
    }
    result
}

/// Kills all members of these trees, and the processes that they start meanwhile.
pub(in crate::tree) fn kill(targets: &[Target<'_>]) -> Vec<io::Result<()>> {
    if !processes::usable() {
        return signal(targets, &[libc::SIGKILL]);
    }
    let mut unmarked = Vec::new();
    for target in targets {
        if target.membership.marker.is_none() {
            unmarked.push(*target);
        }
    }
    if !unmarked.is_empty() {
        Batch::of(&unmarked).freeze();
    }
    Batch::of(targets).kill()
}

/// Running processes that show no environment although a kill has waited for it, in the order of their IDs. No operation
/// waits for them again.
static GIVEN_UP: PerProcess<Mutex<Vec<Record>>> = PerProcess::new();

fn give_up(processes: Vec<Record>) {
    let mut given_up = GIVEN_UP.get().lock();
    // Entries of processes that have ended are harmless, but must not accumulate.
    if given_up.len() > 10_000 {
        given_up.clear();
    }
    for process in processes {
        match given_up_at(&given_up, &process) {
            Ok(at) => given_up[at] = process,
            Err(at) => given_up.insert(at, process),
        }
    }
}

fn given_up_at(given_up: &[Record], process: &Record) -> Result<usize, usize> {
    search(given_up.len(), &mut |at| given_up[at].id.cmp(&process.id))
}

/// Returns the processes to wait for, because they may be in the middle of an exec.
fn unsettled(pass: &Pass) -> Vec<Record> {
    let given_up = GIVEN_UP.get().lock();
    let mut unsettled = Vec::new();
    for (process, why) in &pass.unread {
        let is_known = match given_up_at(&given_up, process) {
            Ok(at) => given_up[at].started == process.started,
            Err(_) => false,
        };
        if *why == Environment::Unsettled && !is_known {
            unsettled.push(*process);
        }
    }
    unsettled
}

impl Batch<'_> {
    fn signal(&self, numbers: &[c_int]) -> Vec<io::Result<()>> {
        let found = self.find(None);
        let mut results = self.signal_groups(numbers);
        let signalled = found.and_then(|pass| self.signal_the_rest(pass, numbers, &mut results));
        or_all(results, signalled)
    }

    /// Signals the leaders and their groups.
    fn signal_groups(&self, numbers: &[c_int]) -> Vec<io::Result<()>> {
        let scans = processes::usable();
        let mut results = Vec::new();
        for target in self.targets {
            let mut result = Ok(());
            for number in numbers {
                match target.signal_group(*number) {
                    // `refused` reports the members that live.
                    Err(error) if scans && error.kind() == io::ErrorKind::PermissionDenied => {}
                    // The ID of the group may belong to another group, so no signal was sent to it. The other members
                    // were found.
                    Err(error) if scans && error.raw_os_error() == Some(libc::ECHILD) => {}
                    sent => put(&mut result, sent),
                }
            }
            results.push(result);
        }
        results
    }

    /// Signals the members outside the groups.
    fn signal_the_rest(
        &self,
        pass: Pass,
        numbers: &[c_int],
        results: &mut [io::Result<()>],
    ) -> io::Result<()> {
        let mut waiting = unsettled(&pass);
        for (i, found) in pass.trees.into_iter().enumerate() {
            let outside = signal_processes(&found.outside, numbers);
            put(&mut results[i], self.targets[i].refused(&found).and(outside));
            put(&mut results[i], found.error.map_or(Ok(()), Err));
        }
        let (until, mut pause) = (Instant::now() + BRIEF_PATIENCE, Backoff::new());
        while !waiting.is_empty() && pause.sleep(Some(until)) {
            for (process, trees) in self.settle(&mut waiting)? {
                if let Err(error) = signal_processes(&[process], numbers) {
                    for i in trees {
                        put(&mut results[i], Err(copy_error(&error)));
                    }
                }
            }
        }
        Ok(())
    }

    fn kill(&self) -> Vec<io::Result<()>> {
        let found = self.find(None);
        let mut results = self.signal_groups(&[libc::SIGKILL]);
        let killed = found.and_then(|first| self.kill_the_rest(first, &mut results));
        or_all(results, killed)
    }

    fn kill_the_rest(&self, mut first: Pass, results: &mut [io::Result<()>]) -> io::Result<()> {
        let mut chase = Chase {
            killed: Vec::new(),
            unsettled: unsettled(&first),
            patience: Instant::now() + PATIENCE,
            pause: Backoff::new(),
        };
        for (i, found) in first.trees.iter_mut().enumerate() {
            put(&mut results[i], found.error.take().map_or(Ok(()), Err));
            found.known = 0;
        }
        chase.kill(self, &mut first)?;
        let mut is_over = self.chase(&mut chase, first.newest)?;
        if first.newest.is_some() {
            // Some containers have a `/proc` whose newest ID is wrong. So if a process has left the group of a tree,
            // read all processes once more for that tree.
            let mut strayed = Vec::new();
            for (i, found) in first.trees.iter().enumerate() {
                if !found.outside.is_empty() {
                    strayed.push(self.targets[i]);
                }
            }
            if !strayed.is_empty() {
                is_over &= Batch::of(&strayed).chase(&mut chase, None)?;
            }
        }
        for (i, target) in self.targets.iter().enumerate() {
            let refused = target.refused(&first.trees[i]);
            let outside = signal_processes(&target.membership.strays(), &[libc::SIGKILL]);
            put(&mut results[i], if is_over { Ok(()) } else { Err(target.too_fast()) });
            put(&mut results[i], outside.and(refused));
        }
        Ok(())
    }

    /// Kills the members until a pass finds no new member (`true`), or until the passes are too many. With `after`, the
    /// passes read only the processes whose IDs were handed out after that ID.
    fn chase(&self, chase: &mut Chase, mut after: Option<i32>) -> io::Result<bool> {
        for _ in 0..PASSES {
            let mut pass = self.find(after)?;
            let (mut is_new, ended) = chase.kill(self, &mut pass)?;
            match after {
                // This pass has read all unsettled processes.
                None => chase.unsettled = unsettled(&pass),
                Some(_) => {
                    chase.unsettled.extend(unsettled(&pass));
                    is_new |= chase.kill_settled(self)?;
                }
            }
            if is_new {
                // The killed members may have forked before, and this pass may have been too early to read the child.
                continue;
            }
            let mut is_complete = true;
            if let Some(start) = after {
                // The child of an ended process has an ID that was handed out after the parent's. IDs wrap around.
                let first = first_after(start, &ended);
                is_complete = first.is_none() && !pass.missed;
                after = first.or(pass.newest).or(after);
            }
            if is_complete && !chase.waits_for_an_exec() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stops all members, until a pass finds no new one. The kill that follows reports errors.
    fn freeze(&self) {
        let mut stopped: Vec<i32> = Vec::new();
        for _ in 0..PASSES {
            let Ok(pass) = self.find(None) else { return };
            drop(self.signal_groups(&[libc::SIGSTOP]));
            let before = stopped.len();
            for (i, found) in pass.trees.iter().enumerate() {
                let _ = signal_processes(&found.outside, &[libc::SIGSTOP]);
                for process in &found.outside {
                    self.targets[i].membership.remember(*process);
                }
                stopped.extend(&found.ids());
            }
            sort(&mut stopped);
            stopped.dedup();
            if stopped.len() == before {
                return;
            }
        }
    }
}

/// Adds an error of the whole batch to the result of each tree.
fn or_all(mut results: Vec<io::Result<()>>, all: io::Result<()>) -> Vec<io::Result<()>> {
    if let Err(error) = all {
        for result in &mut results {
            put(result, Err(copy_error(&error)));
        }
    }
    results
}

/// The state of a kill.
struct Chase {
    /// The IDs of killed members, which may take time to die, and of processes of the groups that had ended. In order.
    killed: Vec<i32>,
    /// Processes in the middle of an exec, which may be members.
    unsettled: Vec<Record>,
    patience: Instant,
    pause: Backoff,
}

impl Chase {
    /// Kills the members that a pass found. Returns whether there was a new member, and the processes of the groups that
    /// had ended when they were opened, and may have forked before. The end of the kill reports errors of members that
    /// this process lacks permission to kill.
    fn kill(&mut self, batch: &Batch<'_>, pass: &mut Pass) -> io::Result<(bool, Vec<i32>)> {
        let mut is_new = false;
        let (mut killed, mut ended) = (Vec::new(), Vec::new());
        for (i, found) in pass.trees.iter_mut().enumerate() {
            let target = &batch.targets[i];
            let new = &found.outside[found.known..];
            is_new |= !new.is_empty();
            let _ = signal_processes(new, &[libc::SIGKILL]);
            for process in new {
                // An exiting process shows no environment, so a later pass might not recognize it.
                target.membership.remember(*process);
                killed.push(process.id());
            }
            self.kill_seen(target, found, &mut killed, &mut ended)?;
        }
        let killed = missing(&killed, &self.killed);
        let ended = missing(&ended, &self.killed);
        is_new |= !killed.is_empty();
        self.killed.extend(&killed);
        self.killed.extend(&ended);
        sort(&mut self.killed);
        self.killed.dedup();
        Ok((is_new, ended))
    }

    /// Kills the processes that a pass found in the group.
    fn kill_seen(
        &self,
        target: &Target<'_>,
        found: &mut Found,
        killed: &mut Vec<i32>,
        ended: &mut Vec<i32>,
    ) -> io::Result<()> {
        for ids in found.inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, found.began)?;
            let _ = signal_each(&opened.held, &[libc::SIGKILL]);
            for id in ids {
                if is_among(&opened.held, *id) { killed.push(*id) } else { ended.push(*id) }
            }
            found.outside.extend(&opened.left);
        }
        Ok(())
    }

    /// Kills the members among the processes that have finished an exec. Returns whether there was a member.
    fn kill_settled(&mut self, batch: &Batch<'_>) -> io::Result<bool> {
        let mut found = false;
        for (process, trees) in batch.settle(&mut self.unsettled)? {
            let _ = signal_processes(&[process], &[libc::SIGKILL]);
            for tree in trees {
                batch.targets[tree].membership.remember(process);
            }
            found = true;
        }
        Ok(found)
    }

    /// Pauses if there are processes to wait for, and time is left. Returns whether it paused.
    fn waits_for_an_exec(&mut self) -> bool {
        if self.unsettled.is_empty() {
            return false;
        }
        if self.pause.sleep(Some(self.patience)) {
            return true;
        }
        give_up(std::mem::take(&mut self.unsettled));
        false
    }
}
