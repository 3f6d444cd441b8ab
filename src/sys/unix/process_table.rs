//! The processes of this machine, children or not: reads the process table of the system, and holds a process so that
//! it cannot be mistaken for the next owner of its ID.

use super::by_pid::{self, Pid};
use super::syscall::{poll_readable, try_poll_readable};
use crate::backoff::Backoff;
use crate::sys::PLATFORM;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The process table of one system.
pub(crate) trait ProcessTable: Sync {
    /// Returns whether this process can read the table at present. The error is the reason.
    fn check(&self) -> Result<(), &'static str>;

    /// Returns a time: a process that starts from now on has this start time or a later one.
    fn now(&self) -> Time;

    /// Returns the record of a process, on most systems of a zombie too. `None` if there is no such process, or if it
    /// is hidden. An error means that the system could not report it.
    fn record(&self, id: i32) -> io::Result<Option<Record>>;

    /// Reads the whole table; or, with `new`, the processes whose IDs were handed out after the first of these IDs, up
    /// to and including the second.
    fn list(&self, groups: &Groups, since: Time, new: Option<(i32, i32)>) -> io::Result<Listing>;

    /// Returns the process ID that was handed out last. `None` where IDs are not handed out in turn.
    fn newest(&self) -> Option<i32> {
        None
    }

    /// Returns whether the table has the environments of processes.
    fn has_environments(&self) -> bool {
        false
    }

    /// Calls the function for each variable in the environment of the process that has this ID now. The calls count
    /// only if the result is [`Environment::Shown`]. A variable that is longer than the buffer is cut off.
    fn environment(
        &self,
        _: i32,
        _: &mut [u8],
        _: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Environment> {
        Ok(Environment::Missing)
    }

    /// Returns the processes that may have become the parents of orphaned members.
    fn adopters(&self) -> Vec<i32> {
        Vec::new()
    }

    /// Returns whether an orphan that this process cannot read may come from the tree of this leader.
    fn may_descend_from(&self, _: i32, _: i32) -> bool {
        false
    }
}

/// Descriptors that pin processes other than children: the pidfds of Linux.
pub(crate) struct Pidfds {
    pub(crate) open: fn(Pid) -> io::Result<OwnedFd>,
    pub(crate) send: fn(BorrowedFd<'_>, c_int) -> io::Result<()>,
    /// A number that the kernel gives to one process and to no other until the next boot.
    pub(crate) serial: fn(BorrowedFd<'_>) -> Option<u64>,
}

/// A time on the clock by which the table reports when processes started. A process that is older than a tree does not
/// belong to it.
///
/// The clock of macOS, DragonFly and NetBSD is Unix time, which can be set, so there an age proves little. That matters
/// little, because a process outside the group is known by its parent, except where a debugger traces it
/// ([`Record::must_be_young`]).
///
/// A process that was listed in the group and is not in it any more may have left it, or its ID has a new owner. It is
/// the member only if it started before the list was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) i64);

impl Time {
    pub(crate) fn now() -> Self {
        PLATFORM.process_table.map_or(Self(0), |table| table.now())
    }
}

/// A process, as the table reports it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) id: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// The process is no zombie.
    pub(crate) lives: bool,
    /// Constant until the process is reaped. `None` where the system does not report it: on macOS for another user's
    /// process; on NetBSD for a zombie, and while a process executes a program, or exits.
    pub(crate) started: Option<Time>,
    /// The process can belong to a tree only if it is not older than the tree. This is always set on Linux. On the
    /// other systems it is set if a debugger traces the process, because then the record may name the debugger (macOS,
    /// NetBSD) or a former parent (DragonFly) as the parent.
    pub(crate) must_be_young: bool,
}

impl Record {
    /// Returns whether the process is young enough to belong to a tree that was spawned at that time.
    pub(crate) fn may_belong(&self, since: Time) -> bool {
        !self.must_be_young || self.started.is_some_and(|started| started >= since)
    }
}

/// The process groups of trees, with the position of each tree in the batch, in order.
#[allow(dead_code, reason = "not every system has a process table")]
pub(crate) struct Groups(Vec<(i32, usize)>);

#[allow(dead_code, reason = "not every system has a process table")]
impl Groups {
    pub(crate) fn new(mut groups: Vec<(i32, usize)>) -> Self {
        groups.sort_unstable();
        Self(groups)
    }

    pub(crate) fn tree_of(&self, group: i32) -> Option<usize> {
        let at = self.0.binary_search_by(|(other, _)| other.cmp(&group)).ok()?;
        Some(self.0[at].1)
    }
}

/// The processes of this machine, except this one and processes that are too old to belong to any tree of the batch. A
/// listing may be outdated when it is read.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Members of the groups, including zombies, with the position of their tree.
    pub(crate) grouped: Vec<(i32, usize)>,
    /// The other living processes.
    pub(crate) others: Vec<Record>,
    /// One of the new processes had ended when it was read. It may have had children.
    pub(crate) has_ended: bool,
}

/// The result of reading the environment of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every system has environments in its table")]
pub(crate) enum Environment {
    Shown,
    /// The environment is empty.
    Empty,
    /// The process is in the middle of an exec, or has unmapped its environment.
    Unsettled,
    /// The process is exiting, and shows nothing any more.
    Exiting,
    /// This process lacks permission to read the environment.
    Hidden,
    /// There is no such process.
    Missing,
}

/// Returns the process table of this system, if this process can read it at present.
pub(crate) fn table() -> io::Result<&'static dyn ProcessTable> {
    let table = PLATFORM.process_table.ok_or("the system does not list processes");
    table.and_then(|table| table.check().map(|()| table)).map_err(|why| {
        let message = format!("cannot list the members of a process group: {why}");
        io::Error::new(io::ErrorKind::Unsupported, message)
    })
}

/// Returns whether this system lists processes at present.
pub(crate) fn usable() -> bool {
    table().is_ok()
}

/// See [`ProcessTable::has_environments`].
pub(crate) fn has_environments() -> bool {
    PLATFORM.process_table.is_some_and(ProcessTable::has_environments)
}

static PASSES_MADE: AtomicUsize = AtomicUsize::new(0);

/// Returns how often this process has read the whole process table. The tests count passes where they would cost a user
/// time.
pub(crate) fn passes() -> usize {
    PASSES_MADE.load(Ordering::Relaxed)
}

/// See [`ProcessTable::list`].
pub(crate) fn list(groups: &Groups, since: Time, new: Option<(i32, i32)>) -> io::Result<Listing> {
    let table = table()?;
    if new.is_none() {
        PASSES_MADE.fetch_add(1, Ordering::Relaxed);
    }
    table.list(groups, since, new)
}

/// See [`ProcessTable::newest`].
pub(crate) fn newest() -> Option<i32> {
    PLATFORM.process_table?.newest()
}

/// See [`ProcessTable::environment`].
pub(crate) fn environment(
    id: i32,
    buffer: &mut [u8],
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<Environment> {
    let missing = Ok(Environment::Missing);
    PLATFORM.process_table.map_or(missing, |table| table.environment(id, buffer, each))
}

/// See [`ProcessTable::adopters`].
pub(crate) fn adopters() -> Vec<i32> {
    PLATFORM.process_table.map_or_else(Vec::new, |table| table.adopters())
}

/// See [`ProcessTable::may_descend_from`].
pub(crate) fn may_descend_from(id: i32, leader: i32) -> bool {
    PLATFORM.process_table.is_some_and(|table| table.may_descend_from(id, leader))
}

fn record(id: i32) -> io::Result<Option<Record>> {
    PLATFORM.process_table.map_or(Ok(None), |table| table.record(id))
}

/// Calls getpgid(2). Kernel threads, and groups from outside a PID namespace, have 0.
pub(crate) fn group_of(id: i32) -> Option<i32> {
    // SAFETY: the argument and the result are integers.
    let group = unsafe { libc::getpgid(id) };
    (group > 0).then_some(group)
}

/// Returns whether this process lacks permission to signal another one (kill(2)).
pub(crate) fn refuses(id: i32) -> bool {
    // SAFETY: integers. Signal 0 is no signal, so nothing is sent, whichever process the ID means.
    let refused = unsafe { libc::kill(id, 0) } != 0;
    refused && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// One process, opened so that it cannot be mistaken for the next owner of its ID: *open, read, [`lives`](Self::lives),
/// act*. A read by the ID between `open` and a `lives` that returns `true` is about this very process, because no other
/// process could have the ID meanwhile.
///
/// Without a pidfd the ID and the start identify the process. Then a gap is left between `lives` and `kill`: the
/// process may end, and another may get its ID. That requires that all other IDs are handed out within microseconds,
/// or, where IDs are handed out at random, this very one.
///
/// The guardian opens and signals processes in the child of a fork (`tree/guardian/after_fork.rs`): [`open`](Self::open),
/// [`signal`](Self::signal) and [`Process::hold`] neither allocate nor lock on Linux.
#[derive(Debug)]
pub(crate) struct Held {
    id: Pid,
    pidfd: Option<OwnedFd>,
    /// Used only without a pidfd.
    started: Option<Time>,
}

impl Held {
    /// Opens a process. `None` if there is no such process.
    pub(crate) fn open(id: i32) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::new(id) else { return Ok(None) };
        if let Some(pidfds) = &PLATFORM.pidfds {
            match (pidfds.open)(pid) {
                Ok(fd) => return Ok(Some(Self { id: pid, pidfd: Some(fd), started: None })),
                Err(error) => {
                    // EINVAL and ENOENT: the ID is a thread's.
                    if let Some(libc::ESRCH | libc::EINVAL | libc::ENOENT) = error.raw_os_error() {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(record(id)?.map(|record| Self { id: pid, pidfd: None, started: record.started }))
    }

    pub(crate) fn id(&self) -> i32 {
        self.id.get()
    }

    pub(crate) fn parent(&self) -> io::Result<Option<i32>> {
        Ok(self.record()?.map(|record| record.parent))
    }

    /// Returns whether the process had certainly started by that time.
    pub(crate) fn is_older_than(&self, time: Time) -> io::Result<bool> {
        Ok(self.start()?.flatten().is_some_and(|started| started < time))
    }

    pub(crate) fn group(&self) -> Option<i32> {
        // With a pidfd the system call means this process, and costs less than a record.
        if self.pidfd.is_some() {
            return group_of(self.id());
        }
        Some(self.record().ok()??.group)
    }

    /// Returns the identity of the process without a descriptor. `None` if the process has been reaped.
    pub(crate) fn process(&self) -> io::Result<Option<Process>> {
        let serial = self.pidfd.as_ref().and_then(serial);
        Ok(self.start()?.map(|started| Process { id: self.id(), started, serial }))
    }

    /// Returns whether the process is neither reaped nor a zombie. A process that cannot be read counts as living.
    pub(crate) fn lives(&self) -> bool {
        self.is_known_to_live().unwrap_or(true)
    }

    fn is_known_to_live(&self) -> io::Result<bool> {
        let is_listed = || Ok(self.record()?.is_some_and(|record| record.lives));
        let Some(fd) = &self.pidfd else { return is_listed() };
        match try_poll_readable(fd.as_fd(), Some(Instant::now())) {
            Ok(ended) => Ok(!ended),
            // The system refuses `poll`. The record is this process's if the pidfd can be signalled after that.
            Err(_) => Ok(is_listed()? && is_unreaped(fd)),
        }
    }

    /// Sends a signal. Succeeds without effect if the process has ended.
    pub(crate) fn signal(&self, signal: c_int) -> io::Result<()> {
        if self.pidfd.as_ref().is_some_and(|fd| send(fd, signal).is_ok()) {
            return Ok(());
        }
        // This process may lack permission to signal that process, or to use the pidfd for it. So try its ID.
        if !self.is_known_to_live()? {
            return Ok(());
        }
        match by_pid::signal(self.id, signal) {
            // macOS refuses to signal zombies.
            Err(_) if !self.lives() => Ok(()),
            sent => sent,
        }
    }

    /// Blocks until the process has ended (`true`), or until the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        // The process lives after the registration, so the registration is for this very process.
        let mut exit = match &self.pidfd {
            Some(_) => None,
            None => PLATFORM.exit_of.and_then(|exit_of| exit_of(self.id)),
        };
        let mut pause = Backoff::new();
        while self.lives() {
            let is_before = match (&self.pidfd, exit.take()) {
                // The descriptor is ready and the process lives, so the system refuses `poll`.
                (Some(fd), _) => {
                    poll_readable(fd.as_fd(), deadline) && (!self.lives() || pause.sleep(deadline))
                }
                (None, Some(exit)) => poll_readable(exit.as_fd(), deadline),
                // The process is exiting, no descriptor is spare, or this process lacks permission to watch it.
                (None, None) => pause.sleep(deadline),
            };
            if !is_before {
                return false;
            }
        }
        true
    }

    /// Returns the start time, as far as the system reports it. `None` if the process has been reaped.
    fn start(&self) -> io::Result<Option<Option<Time>>> {
        match (&self.pidfd, self.started) {
            (Some(_), _) => Ok(self.record()?.map(|record| record.started)),
            (None, started) => Ok(Some(started)),
        }
    }

    /// Returns the record of this very process, as far as start times distinguish processes.
    ///
    /// Where the system does not report a start, the ID decides, because a living member must not count as reaped: on
    /// macOS a member that has become another user's, which few programs may signal; on NetBSD a member that executes a
    /// program. Another process is mistaken for the member only if all IDs were handed out once since the process was
    /// found. Signals are sent at once, and waits end at the exit.
    fn record(&self) -> io::Result<Option<Record>> {
        Ok(record(self.id())?.filter(|record| may_be_equal(self.started, record.started)))
    }
}

/// One process, identified without a descriptor, so that any number of processes can be remembered.
///
/// The ID alone may get a new owner. The start distinguishes owners unless all other IDs are handed out within one tick of
/// the clock (10 ms on Linux). From Linux 6.9, the serial number of a pidfd distinguishes them in any case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    id: i32,
    started: Option<Time>,
    serial: Option<u64>,
}

impl Process {
    /// Returns the identity of the process of a record.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn of(record: &Record) -> Self {
        Self { id: record.id, started: record.started, serial: None }
    }

    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// Opens the process. `None` if it has been reaped.
    pub(crate) fn hold(&self) -> io::Result<Option<Held>> {
        let Some(mut held) = Held::open(self.id)? else { return Ok(None) };
        let same = match (&held.pidfd, self.serial) {
            (Some(fd), Some(number)) => serial(fd) == Some(number),
            _ => held.start()?.is_some_and(|started| may_be_equal(self.started, started)),
        };
        if held.pidfd.is_none() {
            held.started = self.started.or(held.started);
        }
        Ok(same.then_some(held))
    }

    /// Returns whether the process is neither reaped nor a zombie. A process that cannot be read counts as living.
    pub(crate) fn lives(&self) -> bool {
        self.hold().map_or(true, |held| held.is_some_and(|held| held.lives()))
    }

    /// Opens a descriptor that becomes readable when the process ends. `None` if no descriptor is spare, or if there is
    /// no such process.
    pub(crate) fn exit_descriptor(&self) -> Option<Box<dyn AsFd + Send>> {
        let held = self.hold().ok()??;
        if let Some(fd) = held.pidfd {
            return Some(Box::new(fd));
        }
        let exit = PLATFORM.exit_of.and_then(|exit_of| exit_of(held.id))?;
        // The process lives after the registration, so the registration is for this very process.
        held.lives().then_some(exit)
    }

    /// Blocks until the process has ended (`true`), or until the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut pause = Backoff::new();
        loop {
            match self.hold() {
                Ok(None) => return true,
                Ok(Some(held)) => return held.wait(deadline),
                // No descriptor is spare.
                Err(_) if !pause.sleep(deadline) => return false,
                Err(_) => {}
            }
        }
    }
}

fn may_be_equal(then: Option<Time>, now: Option<Time>) -> bool {
    then.is_none() || now.is_none() || then == now
}

fn serial(fd: &OwnedFd) -> Option<u64> {
    PLATFORM.pidfds.as_ref().and_then(|pidfds| (pidfds.serial)(fd.as_fd()))
}

fn send(fd: &OwnedFd, signal: c_int) -> io::Result<()> {
    let unsupported = || Err(io::ErrorKind::Unsupported.into());
    PLATFORM.pidfds.as_ref().map_or_else(unsupported, |pidfds| (pidfds.send)(fd.as_fd(), signal))
}

/// Returns whether the process lives or is a zombie.
fn is_unreaped(fd: &OwnedFd) -> bool {
    !send(fd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// The number of processes that are held at a time. Each may require a descriptor, and other threads need descriptors
/// too.
pub(crate) const AT_ONCE: usize = 16;

/// The largest number of passes of an operation: more than any tree requires, and few enough to end.
pub(crate) const PASSES: usize = 1000;

/// Signals one member. The error names the process.
fn signal(member: &Held, signal: c_int) -> io::Result<()> {
    member.signal(signal).map_err(|error| {
        let message = format!("cannot signal process {} of the tree: {error}", member.id());
        io::Error::new(error.kind(), message)
    })
}

/// Signals all of these processes. Returns the last error.
pub(crate) fn signal_each(members: &[Held], number: c_int) -> io::Result<()> {
    let mut result = Ok(());
    for member in members {
        result = signal(member, number).and(result);
    }
    result
}

/// Signals all of these processes, and opens one at a time. Skips a process that has been reaped. Returns the last
/// error.
pub(crate) fn signal_processes(members: &[Process], number: c_int) -> io::Result<()> {
    let mut result = Ok(());
    for member in members {
        let sent = member.hold().and_then(|held| held.map_or(Ok(()), |held| signal(&held, number)));
        result = sent.and(result);
    }
    result
}
