//! Unix: finding the members of trees in the process table, inside and outside their process groups.
//!
//! Every operation here serves a *batch* of trees: one pass over the process table finds the members of all of them.
//!
//! **Why no recycled process is hit.** A process that is signalled by itself is first opened (a pidfd), then read anew,
//! then found to live still. So what was read is true of the process that was opened:
//!
//! | a process is a member if | why that is so |
//! |---|---|
//! | it is in the group | the leader was still unreaped *after* this was read |
//! | its parent is a member | the parent was still there *after* this was read, so this is not about the next owner of the parent's ID |
//! | it carries the marker | no other tree has the same marker |
//! | it was seen in the group | it is older than the pass that saw it there, so it is not the next owner of its ID |
//!
//! A member that is remembered, rather than opened, is a [`Process`]: opening it again fails if the ID has a new owner.
//! So any number of members can be remembered, and few descriptors are open at a time.
//!
//! **Why no member is missed.** A kill finds all members before it kills any, because with a parent the way to its
//! children is lost. Linux kills a group as one: a process that is being forked just then is killed with it, or not born.
//! A process that was seen in the group may be elsewhere at the moment of the signal, so all that were seen are killed one
//! by one as well. Members outside the group can fork until they are hit. So the passes go on until one finds no new
//! member; and where process IDs are handed out in turn, a pass reads only those that were handed out since the last,
//! which is fast enough to catch up with a process that forks and exits, over and over:
//!
//! - A process that lived while the list was read is in the list. Any other process was born since, or has exited, and
//!   its child, if it had one, was born since.
//! - New processes are read in the order of their IDs, so a parent comes before its child. Suppose that a pass finds no
//!   member, and yet one lives whose ID was handed out before the pass. When its turn came it was not there yet, so its
//!   parent lived, which was not found either: so the parent was not there yet when its own turn came, and so on, up to a
//!   process whose parent had been killed before, and could not fork any more. So there is no such member.
//! - If its ID was handed out during the pass, then one of its ancestors was read, and had died, since its child was born
//!   after the pass began. So the next pass reads the IDs that are newer still, until none of them is dead.
//!
//! Where environments cannot be read, members outside the group are known by their parents alone. There a kill first
//! stops (SIGSTOP) all members, until a pass finds no new one: a stopped process cannot fork, and it stays the parent of its
//! children.
//!
//! **What can be missed.** A process that has left the group, whose parent is dead, and whose environment is empty or does
//! not show the marker, if no pass saw it before. A process whose environment this process may not read (another user's,
//! or one that is not dumpable) is not killed unless a pass saw it below its parent; but while one lives that could be an
//! orphaned member, a tree is not called empty. Hence "best effort" ([`Containment`](super::Containment)).

use super::cookie::{self, Cookie};
use super::processes::{
    self, AT_ONCE, Census, Environment, Groups, Held, Other, PASSES, Process, Since, signal_each,
    signal_processes,
};
use super::{Leader, process_group};
use crate::backoff::Backoff;
use crate::exit::PerProcess;
use crate::sync::Mutex;
use std::collections::{HashMap, HashSet};
use std::ffi::c_int;
use std::io;
use std::time::{Duration, Instant};

/// How long a kill waits, in all, for processes that show no environment in the middle of an exec. An exec can wait for a
/// disk, or for its turn on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for any other signal: a member that misses it is killed later.
const BRIEF_PATIENCE: Duration = Duration::from_millis(100);

/// What the members of one tree have in common.
pub(super) struct Membership {
    /// The leader's process ID, and the group's.
    group: i32,
    marker: Option<Cookie>,
    since: Since,
    /// Members outside the group that a later pass could not recognize, remembered for as long as they live: those that
    /// were found by their parents, and those that were killed, since an exiting process shows no environment.
    strays: Mutex<HashMap<i32, Process>>,
}

impl Membership {
    pub(super) fn new(leader: u32, marker: Option<Cookie>, since: Since) -> Self {
        Self { group: leader as i32, marker, since, strays: Mutex::default() }
    }

    pub(super) fn group(&self) -> i32 {
        self.group
    }

    /// Whether members outside the group can be recognized by their environment.
    pub(super) fn is_marked(&self) -> bool {
        self.marker.is_some()
    }

    fn remember(&self, process: &Process) {
        self.strays.lock().insert(process.id(), process.clone());
    }

    /// The strays that live.
    fn strays(&self) -> Vec<Process> {
        let mut strays = self.strays.lock();
        strays.retain(|_, stray| stray.lives());
        strays.values().cloned().collect()
    }
}

/// One tree of a batch.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) membership: &'a Membership,
    pub(super) leader: &'a Leader,
}

impl Target<'_> {
    fn signal_group(&self, signal: c_int) -> io::Result<()> {
        process_group::signal(self.membership.group, self.leader, signal)
    }

    fn has_its_id(&self) -> bool {
        process_group::has_its_id(self.leader)
    }

    /// Opens processes that were seen in the group, wherever they are now. Only those that live are returned.
    fn open_seen(&self, ids: &[i32], began: Since) -> io::Result<Opened> {
        let mut opened = Opened::default();
        let mut buffer = Vec::new();
        for id in ids {
            let Some(held) = Held::open(*id)? else { continue };
            if held.group() == Some(self.membership.group) {
                opened.inside.push(held);
                continue;
            }
            let is_the_same = match &self.membership.marker {
                _ if held.is_older_than(began)? => true,
                Some(marker) => carries_soon(*id, marker, &mut buffer)?,
                None => false,
            };
            if is_the_same {
                opened.left.push(held);
            }
        }
        opened.inside.retain(Held::lives);
        opened.left.retain(Held::lives);
        if !self.has_its_id() {
            opened.inside.clear();
        }
        for held in &opened.left {
            // Nothing else may lead to these any more.
            if let Some(process) = held.process()? {
                self.membership.remember(&process);
                opened.left_processes.push(process);
            }
        }
        Ok(opened)
    }

    /// The error of members of the group that lack the permission to be signalled. A signal to the group passes over them
    /// without an error if there are other members.
    fn refused(&self, inside: &[i32], began: Since) -> io::Result<()> {
        // By the ID, which may have a new owner: nothing is sent here, and the process is opened next.
        let refusing: Vec<i32> =
            inside.iter().copied().filter(|id| processes::refuses(*id)).collect();
        let mut refused = Ok(());
        for ids in refusing.chunks(AT_ONCE) {
            let opened = self.open_seen(ids, began)?;
            refused = signal_each(&opened.inside, 0).and(signal_each(&opened.left, 0)).and(refused);
        }
        refused
    }

    fn too_fast(&self) -> io::Error {
        let group = self.membership.group;
        io::Error::other(format!("the tree of process {group} grows faster than it can be killed"))
    }
}

/// Processes that were seen in the group of a tree, and live.
#[derive(Default)]
struct Opened {
    inside: Vec<Held>,
    /// Those that have left the group since.
    left: Vec<Held>,
    left_processes: Vec<Process>,
}

/// Whether the process that has this ID carries the marker, as soon as it can be read. It may be in the middle of an exec,
/// as a process usually is after it has left its group.
fn carries_soon(id: i32, marker: &Cookie, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let until = Instant::now() + BRIEF_PATIENCE;
    let mut pause = Backoff::new();
    loop {
        match processes::environment(id, buffer)? {
            Environment::Shown => return Ok(marker.is_in(buffer)),
            Environment::Unsettled | Environment::Exiting if pause.sleep(Some(until)) => {}
            _ => return Ok(false),
        }
    }
}

/// Kills all members of these trees: those that there are, and those that they start meanwhile.
pub(super) fn kill(targets: &[Target<'_>]) -> Vec<io::Result<()>> {
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

/// Signals each member of these trees once.
pub(super) fn signal(targets: &[Target<'_>], number: c_int) -> Vec<io::Result<()>> {
    if !processes::usable() {
        return targets.iter().map(|target| target.signal_group(number)).collect();
    }
    Batch::of(targets).signal(number)
}

/// Blocks until no member of a tree is left (`true`), or until the deadline. Every tree is looked at once at least.
pub(super) fn wait_empty(
    targets: &[Target<'_>],
    deadline: Option<Instant>,
) -> Vec<io::Result<bool>> {
    let mut results: Vec<Option<io::Result<bool>>> = Vec::new();
    for target in targets {
        // While the leader runs, the tree is not empty. (An error means that another part of the program reaped it.)
        let runs = matches!(target.leader.wait(deadline), Ok(None));
        results.push(runs.then_some(Ok(false)));
    }
    let mut pause = Pause::new();
    loop {
        let pending: Vec<usize> = (0..targets.len()).filter(|i| results[*i].is_none()).collect();
        if pending.is_empty() {
            break;
        }
        let batch: Vec<Target<'_>> = pending.iter().map(|i| targets[*i]).collect();
        let mut ended = false;
        let mut uncertain = None;
        for (i, (target, living)) in
            pending.into_iter().zip(batch.iter().zip(Batch::of(&batch).living()))
        {
            results[i] = match living {
                Err(error) => Some(Err(error)),
                Ok(living) if living.is_empty() && living.possible.is_empty() => Some(Ok(true)),
                Ok(living) if living.is_empty() => {
                    uncertain = living.possible.into_iter().next().or(uncertain);
                    has_passed(deadline).then_some(Ok(false))
                }
                Ok(living) => match living.wait(target, deadline) {
                    Ok(true) => {
                        ended = true;
                        None
                    }
                    in_time => Some(in_time),
                },
            };
        }
        // Nothing is left that can be waited for but processes that may be strangers, or may turn out to be.
        if let (false, Some(process)) = (ended, uncertain) {
            let until = Instant::now() + pause.next();
            process.wait(Some(deadline.map_or(until, |deadline| deadline.min(until))));
        }
    }
    results.into_iter().map(|result| result.unwrap_or(Ok(false))).collect()
}

/// A living member of each tree, if there is one: while it lives, the tree is not empty. A process that may be a member
/// counts. The leader has exited.
pub(super) fn survivors(targets: &[Target<'_>]) -> Vec<io::Result<Option<Process>>> {
    let living = Batch::of(targets).living();
    targets
        .iter()
        .zip(living)
        .map(|(target, living)| {
            let Living { inside, outside, possible, began } = living?;
            if let Some(process) = outside.into_iter().next() {
                return Ok(Some(process));
            }
            for ids in inside.chunks(AT_ONCE) {
                for held in target.open_seen(ids, began)?.inside {
                    if let Some(process) = held.process()? {
                        return Ok(Some(process));
                    }
                }
            }
            Ok(possible.into_iter().next())
        })
        .collect()
}

/// The process IDs of the members that live.
pub(super) fn processes(target: Target<'_>) -> io::Result<Vec<i32>> {
    let living = Batch::of(&[target]).living().pop().unwrap_or_else(|| Ok(Living::nothing()))?;
    let mut all: Vec<i32> =
        living.outside.iter().map(Process::id).chain(living.inside.iter().copied()).collect();
    // The leader may have left its group.
    if !all.contains(&target.membership.group) && matches!(target.leader.try_wait(), Ok(None)) {
        all.push(target.membership.group);
    }
    Ok(all)
}

/// Signals the members that are not in this list: for a caller that has signalled those.
pub(super) fn signal_unlisted(
    target: Target<'_>,
    listed: &HashSet<i32>,
    number: c_int,
) -> io::Result<()> {
    let group = target.membership.group;
    let targets = [target];
    let batch = Batch::of(&targets);
    let pass = batch.find(Among::All, batch.nothing_known())?;
    let mut result = Ok(());
    let mut leader = listed.contains(&group);
    for sighting in pass.trees {
        leader |= sighting.inside.contains(&group);
        let inside: Vec<i32> =
            sighting.inside.into_iter().filter(|id| !listed.contains(id)).collect();
        for ids in inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, pass.began)?;
            let left = signal_each(&opened.left, number);
            put(&mut result, signal_each(&opened.inside, number).and(left));
        }
        let outside: Vec<Process> = sighting
            .outside
            .into_iter()
            .filter(|process| !listed.contains(&process.id()))
            .collect();
        put(&mut result, signal_processes(&outside, number));
    }
    if !leader {
        put(&mut result, target.leader.signal(|notice| notice.signal(number)));
    }
    result
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Pauses between passes that cannot be told when to come: from 1 ms, doubling, to half a second.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(Duration::from_millis(1))
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_millis(500));
        pause
    }
}

/// Which processes a pass reads.
#[derive(Clone, Copy)]
enum Among {
    All,
    /// Those whose IDs were handed out after the first of these, up to and including the second.
    New(i32, i32),
}

/// What one pass found of one tree.
struct Sighting {
    /// Members of the group, zombies among them. Empty if the group's ID may belong to another group.
    inside: Vec<i32>,
    /// The other members. All lived.
    outside: Vec<Process>,
    /// How many of these were known before the pass.
    known: usize,
    error: Option<io::Error>,
}

impl Sighting {
    fn ids(&self) -> impl Iterator<Item = i32> {
        self.inside.iter().copied().chain(self.outside.iter().map(Process::id))
    }
}

/// What one pass found.
struct Pass {
    /// A process with an ID that was seen in a group, and older than this, is the process that was seen.
    began: Since,
    trees: Vec<Sighting>,
    /// A process was gone when it was read, and may have had children.
    gone: bool,
    /// Processes whose environments could not be read, and that are not known to be members.
    unread: Vec<Unread>,
}

#[derive(Clone, Copy)]
struct Unread {
    process: Other,
    why: Environment,
}

/// The members of one tree that live.
struct Living {
    inside: Vec<i32>,
    outside: Vec<Process>,
    /// Processes that cannot be read and may be members. Looked for only if there is no other.
    possible: Vec<Process>,
    began: Since,
}

impl Living {
    fn nothing() -> Self {
        let began = Since::now();
        Self { inside: Vec::new(), outside: Vec::new(), possible: Vec::new(), began }
    }

    /// Whether no member is known to live.
    fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }

    /// Blocks until all of these have ended (`true`), or until the deadline.
    fn wait(&self, target: &Target<'_>, deadline: Option<Instant>) -> io::Result<bool> {
        for ids in self.inside.chunks(AT_ONCE) {
            let opened = target.open_seen(ids, self.began)?;
            if !opened.inside.iter().chain(&opened.left).all(|held| held.wait(deadline)) {
                return Ok(false);
            }
        }
        Ok(self.outside.iter().all(|process| process.wait(deadline)))
    }
}

/// What the environment or the parent of a process says.
enum Verdict {
    /// A member of these trees of the batch.
    Member(Process, Vec<usize>),
    Stranger,
    Gone,
    Unread(Environment),
}

/// Where a member of a tree is.
#[derive(Clone, Copy)]
enum Place {
    Group,
    /// At this position of [`Sighting::outside`].
    Outside(usize),
}

/// The members that a pass has found so far: for each process ID its trees, and its place in each.
type Members = HashMap<i32, Vec<(usize, Place)>>;

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
fn unsettled(unread: &[Unread]) -> Vec<Other> {
    let given_up = GIVEN_UP.get().lock();
    let unread = unread.iter().filter(|unread| unread.why == Environment::Unsettled);
    unread.map(|unread| unread.process).filter(|other| !given_up.contains(&other.key())).collect()
}

struct Batch<'a> {
    targets: &'a [Target<'a>],
    /// The position of each tree, by its marker.
    markers: HashMap<&'a [u8], usize>,
    /// When the oldest of the trees was spawned.
    since: Since,
}

impl<'a> Batch<'a> {
    fn of(targets: &'a [Target<'a>]) -> Self {
        let mut markers = HashMap::new();
        for (i, target) in targets.iter().enumerate() {
            if let Some(marker) = &target.membership.marker {
                markers.insert(marker.as_bytes(), i);
            }
        }
        let since = targets.iter().map(|target| target.membership.since).min();
        Self { targets, markers, since: since.unwrap_or_else(Since::now) }
    }

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
            if !pass.gone && !chase.waits_for_an_exec() {
                return Ok(());
            }
            after = newest;
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

    fn signal(&self, number: c_int) -> Vec<io::Result<()>> {
        let found = self.find(Among::All, self.nothing_known());
        let mut results = self.signal_groups(number);
        let signalled = found.and_then(|pass| {
            for (i, (target, sighting)) in self.targets.iter().zip(pass.trees).enumerate() {
                let outside = signal_processes(&sighting.outside, number);
                let refused = target.refused(&sighting.inside, pass.began);
                put(&mut results[i], refused.and(outside));
                put(&mut results[i], sighting.error.map_or(Ok(()), Err));
            }
            let mut waiting = unsettled(&pass.unread);
            let (until, mut pause) = (Instant::now() + BRIEF_PATIENCE, Backoff::new());
            while !waiting.is_empty() && pause.sleep(Some(until)) {
                for (process, trees) in self.settle(&mut waiting)? {
                    let sent = signal_processes(&[process], number);
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
    fn signal_groups(&self, number: c_int) -> Vec<io::Result<()>> {
        let signal = |target: &Target<'_>| match target.signal_group(number) {
            // `refused` reports the members that live.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            // The group's ID may belong to another group, so it was left alone. The other members were found.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
            result => result,
        };
        self.targets.iter().map(signal).collect()
    }

    /// All members that live, but for a leader that has left its group. Of a tree that forks meanwhile some may be missing,
    /// but not all.
    fn living(&self) -> Vec<io::Result<Living>> {
        let all = |error: io::Error| self.targets.iter().map(|_| Err(copy(&error))).collect();
        let newest = processes::newest();
        let pass = match self.find(Among::All, self.nothing_known()) {
            Ok(pass) => pass,
            Err(error) => return all(error),
        };
        let mut unread = pass.unread;
        let mut living: Vec<io::Result<Living>> = Vec::new();
        for (target, sighting) in self.targets.iter().zip(pass.trees) {
            living.push(living_of(target, sighting, pass.began));
        }
        let is_empty =
            |living: &io::Result<Living>| living.as_ref().is_ok_and(|living| living.is_empty());
        let Some(mut after) = newest else {
            self.find_possible(&mut living, &unread);
            return living;
        };
        for _ in 0..PASSES {
            let empty: Vec<usize> = (0..living.len()).filter(|i| is_empty(&living[*i])).collect();
            if empty.is_empty() {
                return living;
            }
            let targets: Vec<Target<'_>> = empty.iter().map(|i| self.targets[*i]).collect();
            let batch = Batch::of(&targets);
            let last = processes::newest().unwrap_or(after);
            let pass = match batch.find(Among::New(after, last), batch.nothing_known()) {
                Ok(pass) => pass,
                Err(error) => return all(error),
            };
            for ((target, sighting), i) in targets.iter().zip(pass.trees).zip(empty) {
                living[i] = living_of(target, sighting, pass.began);
            }
            unread.extend(pass.unread);
            if !pass.gone {
                self.find_possible(&mut living, &unread);
                return living;
            }
            after = last;
        }
        self.targets.iter().map(|target| Err(target.too_fast())).collect()
    }

    /// Of trees without a known living member: finds the processes that cannot be read and may be orphaned members.
    ///
    /// The parent of an orphan is an ancestor of this process, or the init process. A process with another parent is a
    /// member only if its parent is one, or is unread as well. A process in another control group or audit session than
    /// this program (a service that was started meanwhile, say) counts as a stranger.
    fn find_possible(&self, living: &mut [io::Result<Living>], unread: &[Unread]) {
        if unread.is_empty() {
            return;
        }
        let adopters = processes::adopters().unwrap_or_default();
        let orphans: Vec<Other> = unread
            .iter()
            .map(|unread| unread.process)
            .filter(|other| adopters.contains(&other.parent) && !adopters.contains(&other.id))
            .collect();
        for (target, living) in self.targets.iter().zip(living) {
            let Ok(living) = living else { continue };
            if target.membership.marker.is_none() || !living.is_empty() {
                continue;
            }
            let (leader, since) = (target.membership.group, target.membership.since);
            let candidates = orphans.iter().filter(|other| {
                other.may_belong(since) && processes::may_descend_from(other.id, leader)
            });
            for other in candidates {
                let process = Held::open(other.id).and_then(|held| match held {
                    Some(held) if held.lives() => held.process(),
                    _ => Ok(None),
                });
                living.possible.extend(process.ok().flatten());
            }
        }
    }

    fn nothing_known(&self) -> Vec<Vec<Process>> {
        self.targets.iter().map(|_| Vec::new()).collect()
    }

    /// One pass. `known` has the members of each tree outside its group that are known to the caller.
    fn find(&self, among: Among, known: Vec<Vec<Process>>) -> io::Result<Pass> {
        let sighting = |(target, mut outside): (&Target<'_>, Vec<Process>)| {
            let ids: HashSet<i32> = outside.iter().map(Process::id).collect();
            let mut strays = target.membership.strays();
            strays.retain(|stray| !ids.contains(&stray.id()));
            outside.append(&mut strays);
            Sighting { inside: Vec::new(), known: outside.len(), outside, error: None }
        };
        let mut trees: Vec<Sighting> = self.targets.iter().zip(known).map(sighting).collect();
        loop {
            let pinned: Vec<bool> = self.targets.iter().map(Target::has_its_id).collect();
            let mut groups = Groups::new();
            for (i, target) in self.targets.iter().enumerate() {
                if pinned[i] {
                    groups.insert(target.membership.group, i);
                } else if target.membership.marker.is_none() {
                    trees[i].error = Some(reaped_elsewhere(target.membership.group));
                }
            }
            let began = Since::now();
            let census = match among {
                Among::All => processes::census(&groups, self.since)?,
                Among::New(after, newest) => {
                    processes::census_of_new(&groups, self.since, after, newest)?
                }
            };
            let mut pass = Pass { began, trees, gone: census.gone, unread: Vec::new() };
            self.find_outside(&census, &pinned, &mut pass)?;
            // What was read of a group is worth nothing if its ID was free meanwhile.
            if self.targets.iter().zip(&pinned).all(|(target, was)| *was == target.has_its_id()) {
                for (id, tree) in census.grouped {
                    pass.trees[tree].inside.push(id);
                }
                for sighting in &mut pass.trees {
                    // A known member that has come back to its group is known already.
                    let known: HashSet<i32> = sighting.outside.iter().map(Process::id).collect();
                    sighting.inside.retain(|id| !known.contains(id));
                }
                return Ok(pass);
            }
            trees = pass.trees;
        }
    }

    /// Finds the members outside the groups: by their markers, then by their parents.
    fn find_outside(&self, census: &Census, pinned: &[bool], pass: &mut Pass) -> io::Result<()> {
        let mut members = Members::new();
        for (id, tree) in &census.grouped {
            members.entry(*id).or_default().push((*tree, Place::Group));
        }
        for (i, target) in self.targets.iter().enumerate() {
            let leader = members.entry(target.membership.group).or_default();
            if pinned[i] && leader.iter().all(|(tree, _)| *tree != i) {
                leader.push((i, Place::Group));
            }
            for (n, process) in pass.trees[i].outside.iter().enumerate() {
                members.entry(process.id()).or_default().push((i, Place::Outside(n)));
            }
        }
        let is_member_of_all =
            |id: i32| members.get(&id).is_some_and(|trees| trees.len() == self.targets.len());
        let mut rest: Vec<Other> =
            census.others.iter().copied().filter(|other| !is_member_of_all(other.id)).collect();
        if !self.markers.is_empty() {
            let mut buffer = Vec::new();
            let mut unmarked = Vec::new();
            for other in rest {
                match self.judge_by_marker(other, &mut buffer)? {
                    Verdict::Member(process, trees) => {
                        add(pass, &mut members, &process, &trees);
                    }
                    Verdict::Stranger => unmarked.push(other),
                    Verdict::Gone => pass.gone = true,
                    Verdict::Unread(why) => {
                        pass.unread.push(Unread { process: other, why });
                        unmarked.push(other);
                    }
                }
            }
            rest = unmarked;
        }
        // A parent comes before its children, whatever the order of the list.
        loop {
            let mut found = false;
            let mut undecided = Vec::new();
            for other in rest {
                match self.judge_by_parent(other, &members, &pass.trees)? {
                    Verdict::Member(process, trees) => {
                        for tree in &trees {
                            self.targets[*tree].membership.remember(&process);
                        }
                        add(pass, &mut members, &process, &trees);
                        found = true;
                    }
                    Verdict::Gone => pass.gone = true,
                    Verdict::Stranger | Verdict::Unread(_) => undecided.push(other),
                }
            }
            rest = undecided;
            if !found {
                break;
            }
        }
        pass.unread.retain(|unread| !members.contains_key(&unread.process.id));
        Ok(())
    }

    fn judge_by_marker(&self, other: Other, buffer: &mut Vec<u8>) -> io::Result<Verdict> {
        // Most processes are strangers, and need not be opened to find that out.
        match processes::environment(other.id, buffer)? {
            Environment::Shown if self.carried(other, buffer).is_empty() => {
                return Ok(Verdict::Stranger);
            }
            Environment::Shown => {}
            Environment::Empty => return Ok(Verdict::Stranger),
            Environment::Gone => return Ok(Verdict::Gone),
            why => return Ok(Verdict::Unread(why)),
        }
        let Some(held) = Held::open(other.id)? else { return Ok(Verdict::Gone) };
        let trees = match processes::environment(other.id, buffer)? {
            Environment::Shown => self.carried(other, buffer),
            Environment::Empty => Vec::new(),
            Environment::Gone => return Ok(Verdict::Gone),
            why => return Ok(Verdict::Unread(why)),
        };
        Ok(match held.process()? {
            Some(process) if held.lives() && !trees.is_empty() => Verdict::Member(process, trees),
            Some(_) if held.lives() => Verdict::Stranger,
            _ => Verdict::Gone,
        })
    }

    /// The trees whose markers are in this environment.
    fn carried(&self, other: Other, environment: &[u8]) -> Vec<usize> {
        let trees = cookie::carried(environment).filter_map(|marker| self.markers.get(marker));
        trees
            .copied()
            .filter(|tree| other.may_belong(self.targets[*tree].membership.since))
            .collect()
    }

    fn judge_by_parent(
        &self,
        other: Other,
        members: &Members,
        trees: &[Sighting],
    ) -> io::Result<Verdict> {
        let known = members.get(&other.id).map_or(&[][..], Vec::as_slice);
        let mut by_parent = members.get(&other.parent).cloned().unwrap_or_default();
        by_parent.retain(|(tree, _)| {
            known.iter().all(|(other, _)| other != tree)
                && other.may_belong(self.targets[*tree].membership.since)
        });
        if by_parent.is_empty() {
            return Ok(Verdict::Stranger);
        }
        let Some(held) = Held::open(other.id)? else { return Ok(Verdict::Gone) };
        if held.parent()? != Some(other.parent) {
            by_parent.clear();
        }
        // After the parent's ID was read.
        by_parent.retain(|(tree, place)| match place {
            Place::Outside(n) => trees[*tree].outside.get(*n).is_some_and(Process::lives),
            Place::Group => {
                let group = self.targets[*tree].membership.group;
                other.parent == group || processes::group_of(other.parent) == Some(group)
            }
        });
        Ok(match held.process()? {
            Some(process) if held.lives() && !by_parent.is_empty() => {
                Verdict::Member(process, by_parent.into_iter().map(|(tree, _)| tree).collect())
            }
            Some(_) if held.lives() => Verdict::Stranger,
            _ => Verdict::Gone,
        })
    }

    /// Reads processes again that were in the middle of an exec. Returns those that turned out to be members, and leaves
    /// those that are still unsettled.
    fn settle(&self, waiting: &mut Vec<Other>) -> io::Result<Vec<(Process, Vec<usize>)>> {
        let mut buffer = Vec::new();
        let mut members = Vec::new();
        for other in std::mem::take(waiting) {
            match self.judge_by_marker(other, &mut buffer)? {
                Verdict::Member(process, trees) => members.push((process, trees)),
                Verdict::Unread(Environment::Unsettled) => waiting.push(other),
                Verdict::Unread(_) | Verdict::Stranger | Verdict::Gone => {}
            }
        }
        Ok(members)
    }
}

/// Adds a member outside the groups to what a pass has found.
fn add(pass: &mut Pass, members: &mut Members, process: &Process, trees: &[usize]) {
    let places = members.entry(process.id()).or_default();
    for tree in trees {
        if places.iter().all(|(other, _)| other != tree) {
            let outside = &mut pass.trees[*tree].outside;
            places.push((*tree, Place::Outside(outside.len())));
            outside.push(process.clone());
        }
    }
}

fn living_of(target: &Target<'_>, sighting: Sighting, began: Since) -> io::Result<Living> {
    let Sighting { inside: seen, mut outside, error, .. } = sighting;
    if let Some(error) = error {
        return Err(error);
    }
    let mut inside = Vec::new();
    for ids in seen.chunks(AT_ONCE) {
        let opened = target.open_seen(ids, began)?;
        inside.extend(opened.inside.iter().map(Held::id));
        outside.extend(opened.left_processes);
    }
    Ok(Living { inside, outside, possible: Vec::new(), began })
}

/// The state of a kill that goes on.
struct Chase {
    /// The members of each tree outside its group.
    outside: Vec<Vec<Process>>,
    /// Members that were killed, and may take a while to die.
    killed: HashSet<i32>,
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

fn reaped_elsewhere(leader: i32) -> io::Error {
    io::Error::other(format!(
        "process {leader} was reaped by another part of this program, so its process group can no longer be told from others"
    ))
}

/// Keeps the first error.
fn put(result: &mut io::Result<()>, next: io::Result<()>) {
    if result.is_ok() {
        *result = next;
    }
}

fn copy_result(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().map(|()| ()).map_err(copy)
}

/// The same error, for each tree of a batch.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
