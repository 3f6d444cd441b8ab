//! Killing all members of a batch of trees.

use super::pass::{Among, Batch, Pass, Sighting, Unread};
use super::{Target, copy, put};
use crate::backoff::Backoff;
use crate::sync::Mutex;
use crate::sys::PerProcess;
use crate::tree::processes::{
    self, AT_ONCE, Environment, Other, PASSES, Process, Since, signal_each, signal_processes,
};
use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

/// How long a kill waits, in all, for processes that show no environment in the middle of an exec. An exec can wait for a
/// disk, or for its turn on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills all members of these trees: those that there are, and those that they start meanwhile.
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

/// Processes that were waited for in vain: they show no environment, though they run. No operation waits for them again.
static GIVEN_UP: PerProcess<Mutex<HashSet<(i32, u64)>>> = PerProcess::new();

fn give_up(processes: &[Other]) {
    let mut given_up = GIVEN_UP.get().lock();
    // Entries of processes that have ended are harmless, but must not pile up.
    if given_up.len() > 10_000 {
        given_up.clear();
    }
    given_up.extend(processes.iter().map(Other::key));
}

/// The processes that are worth waiting for: those that are in the middle of an exec, as far as is known.
pub(super) fn unsettled(unread: &[Unread]) -> Vec<Other> {
    let given_up = GIVEN_UP.get().lock();
    let unread = unread.iter().filter(|unread| unread.why == Environment::Unsettled);
    unread.map(|unread| unread.process).filter(|other| !given_up.contains(&other.key())).collect()
}

impl Batch<'_> {
    fn kill(&self) -> Vec<io::Result<()>> {
        // Before the list is read.
        let newest = processes::newest();
        let found = self.find(Among::All, self.nothing_known());
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
        let mut chase = Chase::new(self.targets.len());
        for (i, target) in self.targets.iter().enumerate() {
            let sighting = &mut first.trees[i];
            if let Some(error) = sighting.error.take() {
                put(&mut results[i], Err(error));
            }
            sighting.known = 0;
            chase.kill(target, i, sighting, first.began)?;
        }
        chase.unsettled = unsettled(&first.unread);
        let strayed: Vec<bool> = first.trees.iter().map(|tree| !tree.outside.is_empty()).collect();
        match newest {
            Some(newest) => {
                self.chase(&mut chase, newest, results)?;
                // Some containers have a `/proc` in which the newest ID is not what it should be. So where a process has
                // left the group before, all processes are read once more.
                self.repeat(&mut chase, |i| strayed[i], results)?;
            }
            None => self.repeat(&mut chase, |_| true, results)?,
        }
        for (i, target) in self.targets.iter().enumerate() {
            let refused = target.refused(&first.trees[i].inside, first.began);
            let outside = signal_processes(&chase.outside[i], libc::SIGKILL);
            put(&mut results[i], outside.and(refused));
        }
        Ok(())
    }

    /// Kills the members among the processes whose IDs were handed out after this one, until a pass finds none.
    fn chase(
        &self,
        chase: &mut Chase,
        mut after: i32,
        results: &mut [io::Result<()>],
    ) -> io::Result<()> {
        for _ in 0..PASSES {
            // The dead have no children any more.
            chase.forget_the_dead();
            let newest = processes::newest().unwrap_or(after);
            let mut pass = self.find(Among::New(after, newest), chase.outside.clone())?;
            chase.ended.clear();
            let mut found = false;
            for (i, target) in self.targets.iter().enumerate() {
                found |= chase.kill(target, i, &mut pass.trees[i], pass.began)?;
            }
            chase.unsettled.extend(unsettled(&pass.unread));
            found |= chase.kill_settled(self)?;
            if found {
                // Before they were killed they may have forked, and this pass may have come too early for the child.
                continue;
            }
            // The child of a process that has ended was handed its ID after that. IDs wrap around.
            let ended = chase.ended.iter().copied().min_by_key(|id| (*id <= after, *id));
            if ended.is_none() && !pass.gone && !chase.waits_for_an_exec() {
                return Ok(());
            }
            after = ended.unwrap_or(newest);
        }
        self.all_too_fast(results);
        Ok(())
    }

    /// Kills members in passes over all processes, until a pass finds no new one. Only of the trees that are chosen.
    fn repeat(
        &self,
        chase: &mut Chase,
        chosen: impl Fn(usize) -> bool,
        results: &mut [io::Result<()>],
    ) -> io::Result<()> {
        let chosen: Vec<usize> = (0..self.targets.len()).filter(|i| chosen(*i)).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let targets: Vec<Target<'_>> = chosen.iter().map(|i| self.targets[*i]).collect();
        let batch = Batch::of(&targets);
        for _ in 0..PASSES {
            let mut pass = batch.find(Among::All, batch.nothing_known())?;
            let mut found = false;
            for (sighting, i) in pass.trees.iter_mut().zip(&chosen) {
                found |= chase.kill(&self.targets[*i], *i, sighting, pass.began)?;
            }
            chase.unsettled = unsettled(&pass.unread);
            if !found && !chase.waits_for_an_exec() {
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

    /// Stops all members, until a pass finds no new one. Errors are for the kill to report, which follows.
    fn freeze(&self) {
        let mut stopped: HashSet<i32> = HashSet::new();
        for _ in 0..PASSES {
            let Ok(pass) = self.find(Among::All, self.nothing_known()) else { return };
            drop(self.signal_groups(libc::SIGSTOP));
            for (target, sighting) in self.targets.iter().zip(&pass.trees) {
                let _ = signal_processes(&sighting.outside, libc::SIGSTOP);
                sighting.outside.iter().for_each(|process| target.membership.remember(process));
            }
            let before = stopped.len();
            stopped.extend(pass.trees.iter().flat_map(Sighting::ids));
            if stopped.len() == before {
                return;
            }
        }
    }
}

/// The state of a kill that goes on.
struct Chase {
    /// The members of each tree outside its group.
    outside: Vec<Vec<Process>>,
    /// Members that were killed, and may take a while to die.
    killed: HashSet<i32>,
    /// Processes of the groups that had ended when they were opened, and can have forked before.
    ended: Vec<i32>,
    /// Processes that are in the middle of an exec, and may be members.
    unsettled: Vec<Other>,
    patience: Instant,
    pause: Backoff,
}

impl Chase {
    fn new(trees: usize) -> Self {
        Self {
            outside: vec![Vec::new(); trees],
            killed: HashSet::new(),
            ended: Vec::new(),
            unsettled: Vec::new(),
            patience: Instant::now() + PATIENCE,
            pause: Backoff::new(),
        }
    }

    /// Kills what a pass found of one tree. Returns whether there was a new member. Members that lack the permission to be
    /// killed are reported at the end.
    fn kill(
        &mut self,
        target: &Target<'_>,
        tree: usize,
        sighting: &mut Sighting,
        began: Since,
    ) -> io::Result<bool> {
        let new = &sighting.outside[sighting.known..];
        let mut found = !new.is_empty();
        let _ = signal_processes(new, libc::SIGKILL);
        for process in new {
            self.add(target, tree, process);
        }
        for ids in sighting.inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, began)?;
            let _ = signal_each(&opened.inside, libc::SIGKILL);
            let _ = signal_each(&opened.left, libc::SIGKILL);
            for held in &opened.inside {
                found |= self.killed.insert(held.id());
            }
            for process in &opened.left_processes {
                found |= self.killed.insert(process.id());
                self.add(target, tree, process);
            }
            sighting.outside.extend(opened.left_processes);
            let ended = ids.iter().copied().filter(|id| self.killed.insert(*id));
            self.ended.extend(ended);
        }
        Ok(found)
    }

    fn forget_the_dead(&mut self) {
        for outside in &mut self.outside {
            let mut ids = HashSet::new();
            outside.retain(|process| ids.insert(process.id()) && process.lives());
        }
    }

    /// An exiting process shows no environment, so it is remembered.
    fn add(&mut self, target: &Target<'_>, tree: usize, process: &Process) {
        target.membership.remember(process);
        self.outside[tree].push(process.clone());
        self.killed.insert(process.id());
    }

    /// Kills the members among the processes that have finished an exec. Returns whether there was one.
    fn kill_settled(&mut self, batch: &Batch<'_>) -> io::Result<bool> {
        let mut found = false;
        for (process, trees) in batch.settle(&mut self.unsettled)? {
            let _ = signal_processes(std::slice::from_ref(&process), libc::SIGKILL);
            for tree in trees {
                self.add(&batch.targets[tree], tree, &process);
            }
            found = true;
        }
        Ok(found)
    }

    /// Pauses if there are processes to wait for, and time is left.
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
