//! Kills all members of a batch of trees.

use super::pass::{Among, Batch, Found, Pass, Unread};
use super::{Target, copy, put};
use crate::backoff::Backoff;
use crate::fork_guard::PerProcess;
use crate::sync::Mutex;
use crate::tree::processes::{
    self, AT_ONCE, Environment, Held, Other, PASSES, Process, signal_each, signal_processes,
};
use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

/// The time for which a kill waits, in all, for processes that show no environment in the middle of an exec. An exec
/// can wait for a disk, or for a CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills all members of these trees, and the processes that they start meanwhile.
pub(in crate::tree) fn kill(targets: &[Target<'_>]) -> Vec<io::Result<()>> {
    if !processes::usable() {
        return targets.iter().map(|target| target.signal_group(libc::SIGKILL)).collect();
    }
    let unmarked: Vec<Target<'_>> =
        targets.iter().copied().filter(|target| target.membership.marker.is_none()).collect();
    if !unmarked.is_empty() {
        Batch::of(&unmarked).freeze();
    }
    Batch::of(targets).kill()
}

/// Running processes that show no environment although a kill has waited for it. No operation waits for them again.
static GIVEN_UP: PerProcess<Mutex<HashSet<(i32, u64)>>> = PerProcess::new();

fn give_up(processes: &[Other]) {
    let mut given_up = GIVEN_UP.get().lock();
    // Entries of processes that have ended are harmless, but must not accumulate.
    if given_up.len() > 10_000 {
        given_up.clear();
    }
    given_up.extend(processes.iter().map(Other::key));
}

/// Returns the processes to wait for, because they may be in the middle of an exec.
pub(super) fn unsettled(unread: &[Unread]) -> Vec<Other> {
    let given_up = GIVEN_UP.get().lock();
    let unread = unread.iter().filter(|unread| unread.why == Environment::Unsettled);
    unread.map(|unread| unread.process).filter(|other| !given_up.contains(&other.key())).collect()
}

impl Batch<'_> {
    fn kill(&self) -> Vec<io::Result<()>> {
        // Must precede the pass.
        let newest = processes::newest();
        let found = self.find(Among::All);
        let mut results = self.signal_groups(libc::SIGKILL);
        match found.and_then(|first| self.kill_the_rest(first, newest, &mut results)) {
            Ok(()) => results,
            Err(error) => results.into_iter().map(|result| result.and(Err(copy(&error)))).collect(),
        }
    }

    fn kill_the_rest(
        &self,
        mut first: Pass,
        newest: Option<i32>,
        results: &mut [io::Result<()>],
    ) -> io::Result<()> {
        let mut chase = Chase::new();
        for (i, target) in self.targets.iter().enumerate() {
            let found = &mut first.trees[i];
            if let Some(error) = found.error.take() {
                put(&mut results[i], Err(error));
            }
            found.known = 0;
            chase.kill(target, found)?;
        }
        chase.unsettled = unsettled(&first.unread);
        let all: Vec<usize> = (0..self.targets.len()).collect();
        self.chase(&mut chase, &all, newest, results)?;
        if newest.is_some() {
            // Some containers have a `/proc` whose newest ID is wrong. So if a process has left the group of a tree,
            // read all processes once more for that tree.
            let left_the_group = |i: &usize| !first.trees[*i].outside.is_empty();
            let strayed: Vec<usize> = all.into_iter().filter(left_the_group).collect();
            self.chase(&mut chase, &strayed, None, results)?;
        }
        for ((target, found), result) in self.targets.iter().zip(&first.trees).zip(results) {
            let refused = target.refused(found);
            let outside = signal_processes(&target.membership.strays(), libc::SIGKILL);
            put(result, outside.and(refused));
        }
        Ok(())
    }

    /// Kills the members of these trees of the batch until a pass finds no new member. With `after`, the passes read
    /// only the processes whose IDs were handed out after that ID.
    fn chase(
        &self,
        chase: &mut Chase,
        trees: &[usize],
        mut after: Option<i32>,
        results: &mut [io::Result<()>],
    ) -> io::Result<()> {
        if trees.is_empty() {
            return Ok(());
        }
        let targets: Vec<Target<'_>> = trees.iter().map(|i| self.targets[*i]).collect();
        let batch = Batch::of(&targets);
        for _ in 0..PASSES {
            let newest = after.map(|after| processes::newest().unwrap_or(after));
            let mut pass = batch.find(match (after, newest) {
                (Some(after), Some(newest)) => Among::New(after, newest),
                _ => Among::All,
            })?;
            chase.ended.clear();
            let mut killed = false;
            for (target, found) in targets.iter().zip(&mut pass.trees) {
                killed |= chase.kill(target, found)?;
            }
            match after {
                // This pass has read all unsettled processes.
                None => chase.unsettled = unsettled(&pass.unread),
                Some(_) => {
                    chase.unsettled.extend(unsettled(&pass.unread));
                    killed |= chase.kill_settled(&batch)?;
                }
            }
            if killed {
                // The killed members may have forked before, and this pass may have been too early to read the child.
                continue;
            }
            let mut is_complete = true;
            if let Some(start) = after {
                // The child of an ended process has an ID that was handed out after the parent's. IDs wrap around.
                let ended = chase.ended.iter().copied().min_by_key(|id| (*id <= start, *id));
                is_complete = ended.is_none() && !pass.missed;
                after = ended.or(newest);
            }
            if is_complete && !chase.waits_for_an_exec() {
                return Ok(());
            }
        }
        self.all_too_fast(results);
        Ok(())
    }

    fn all_too_fast(&self, results: &mut [io::Result<()>]) {
        for (target, result) in self.targets.iter().zip(results) {
            put(result, Err(target.too_fast()));
        }
    }

    /// Stops all members, until a pass finds no new one. The kill that follows reports errors.
    fn freeze(&self) {
        let mut stopped: HashSet<i32> = HashSet::new();
        for _ in 0..PASSES {
            let Ok(pass) = self.find(Among::All) else { return };
            drop(self.signal_groups(libc::SIGSTOP));
            for (target, found) in self.targets.iter().zip(&pass.trees) {
                let _ = signal_processes(&found.outside, libc::SIGSTOP);
                found.outside.iter().for_each(|process| target.membership.remember(process));
            }
            let before = stopped.len();
            stopped.extend(pass.trees.iter().flat_map(Found::ids));
            if stopped.len() == before {
                return;
            }
        }
    }
}

/// The state of a kill.
struct Chase {
    /// Killed members, which may take time to die.
    killed: HashSet<i32>,
    /// Processes of the groups that had ended when they were opened, and may have forked before.
    ended: Vec<i32>,
    /// Processes in the middle of an exec, which may be members.
    unsettled: Vec<Other>,
    patience: Instant,
    pause: Backoff,
}

impl Chase {
    fn new() -> Self {
        Self {
            killed: HashSet::new(),
            ended: Vec::new(),
            unsettled: Vec::new(),
            patience: Instant::now() + PATIENCE,
            pause: Backoff::new(),
        }
    }

    /// Kills the members of one tree that a pass found. Returns whether there was a new member. The end of the kill
    /// reports errors of members that this process lacks permission to kill.
    fn kill(&mut self, target: &Target<'_>, found: &mut Found) -> io::Result<bool> {
        let new = &found.outside[found.known..];
        let mut is_new = !new.is_empty();
        let _ = signal_processes(new, libc::SIGKILL);
        for process in new {
            self.remember(target, process);
        }
        for ids in found.inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, found.began)?;
            let _ = signal_each(&opened.inside, libc::SIGKILL);
            let _ = signal_each(&opened.left, libc::SIGKILL);
            let left = opened.left_processes.iter().map(Process::id);
            for id in opened.inside.iter().map(Held::id).chain(left) {
                is_new |= self.killed.insert(id);
            }
            found.outside.extend(opened.left_processes);
            let ended = ids.iter().copied().filter(|id| self.killed.insert(*id));
            self.ended.extend(ended);
        }
        Ok(is_new)
    }

    /// Remembers a killed member: an exiting process shows no environment, so a later pass might not recognize it.
    fn remember(&mut self, target: &Target<'_>, process: &Process) {
        target.membership.remember(process);
        self.killed.insert(process.id());
    }

    /// Kills the members among the processes that have finished an exec. Returns whether there was a member.
    fn kill_settled(&mut self, batch: &Batch<'_>) -> io::Result<bool> {
        let mut found = false;
        for (process, trees) in batch.settle(&mut self.unsettled)? {
            let _ = signal_processes(std::slice::from_ref(&process), libc::SIGKILL);
            for tree in trees {
                self.remember(&batch.targets[tree], &process);
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
        give_up(&std::mem::take(&mut self.unsettled));
        false
    }
}
