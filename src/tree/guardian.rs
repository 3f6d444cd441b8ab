//! Unix: a process that outlives this one just long enough to kill what dies with it.
//!
//! There is one guardian per process, and it exists while there are *charges*: trees, or single children, that are
//! to be killed with this process. It is a `fork` of this process that runs none of the program's code: it makes
//! system calls and nothing else (`after_fork.rs`), from its first instruction to its last.
//!
//! # What was weighed
//!
//! | candidate | no PATH, shell or fork when killing | reads an environment exactly | start, beside a 2 GB heap | where |
//! |---|---|---|---|---|
//! | a shell script | no: `grep`, `find`, `rmdir`, and `kill` on some systems | no | 1 ms | where there is a shell |
//! | this program, executed again | yes | yes | 1 ms | programs that opt in at their start |
//! | a process that shares our memory (`CLONE_VM`) | yes | yes | 0.1 ms | Linux; the OOM killer kills it with us, and so does a core dump before 5.16 |
//! | **a `fork` that makes system calls alone** | yes | yes | 60 ms | every Unix |
//!
//! The fork is made once, not per tree. What it costs: beside 2 GB of pages of 4 KiB, 60 ms of CPU time; beside 1 MB,
//! 0.4 ms; the spawn of a later tree costs what one costs that is not guarded. The first write to each page afterwards is a
//! page fault of this process (0.75 us). The guardian unmaps what it has copied of the heap, so no page is kept
//! twice: it has 0.2 MB of its own.
//!
//! # How it learns what to kill
//!
//! From memory that both processes share ([`table`]): no message can be lost, garbled by a stray write to a descriptor,
//! or delayed by a guardian that is stopped; and the next guardian inherits all charges.
//!
//! - *A process group*, from the spawn until the leader can be reaped by this process, or is found to have been
//!   reaped by other code. With this process's death the leader is reaped by init. If no other process is in the group, its
//!   ID is free from then on, and could be handed out again before the guardian has killed it.
//! - *A marker* (Linux) and *a cgroup*: both are charged before the spawn, so no member lives unguarded.
//!
//! Elsewhere than on Linux the guardian kills process groups alone.
//!
//! # How it learns of the death
//!
//! By a pidfd of this process (Linux), else by a change of its parent, for which it looks once a second; and by the end of
//! a socket that is closed on exec: to what dies with this process, an exec is a death. A copy of the socket
//! that another process has (the child of a fork; or of a spawn in another thread, where a socket cannot be made
//! close-on-exec at once) delays the notice of an exec alone. If the program closes descriptors that are not its own, the
//! socket among them, the guardian finds the shared memory still mapped in this process (Linux), and goes on.
//!
//! # What can become of it
//!
//! It is in a session of its own, blocks all signals, and holds no directory and no descriptor of the program. If it is
//! killed, a thread of ours (the *keeper*) notices at once and starts another; if it is stopped, the keeper resumes it.
//! It ends, and the keeper with it, when there has been no charge for five to ten seconds, so that a program that spawns
//! one tree after the other forks once.
//!
//! On Linux its exit signal is 0: no `waitpid(-1)` reaps it, and no SIGCHLD is sent. The price: after an exec of this
//! process it stays a zombie until the new program ends, which does not know of it. Debuggers do not follow it; a
//! breakpoint in a function that it calls ends it, and the keeper starts another.
//!
//! The child of a fork has a guardian of its own once it spawns what needs one.
//!
//! If this process is in a tree of another one, and that tree is killed, the guardian may be killed as a descendant before
//! it has killed anything. What it guards is in the other tree as well, and carries that one's marker.

mod after_fork;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod cgroup;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod list;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc;
mod table;

use super::environment_marker::EnvironmentMarker;
use crate::sync::Mutex;
use crate::sys::{PerProcess, spawn_helper};
use after_fork::{Orders, Scratch};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use table::{Charge, Shared, Table};

/// [`after_fork::TICK_MS`], except in a test that would wait for too long.
pub(crate) static TICK_MS: AtomicI32 = AtomicI32::new(after_fork::TICK_MS);

static POST: PerProcess<Post> = PerProcess::new();

#[derive(Default)]
struct Post {
    /// Held while a guardian is started. Locked before `table`.
    guardian: Mutex<Option<Guardian>>,
    /// Never held over anything that takes time.
    table: Mutex<Option<Table>>,
}

struct Guardian {
    process: Arc<Process>,
    /// Whether a thread waits for its end.
    has_keeper: bool,
}

struct Process {
    id: libc::pid_t,
    #[cfg_attr(
        any(target_os = "linux", target_os = "android"),
        expect(dead_code, reason = "it is held to be closed with the rest")
    )]
    socket: Socket,
    started: Instant,
}

/// What the guardian kills, until this is dropped.
pub(super) struct Bond {
    number: u32,
    group: Option<u32>,
    /// A bond that a fork has copied is not the copy's own.
    process: u32,
}

/// Has the guardian kill the processes that carry the marker, or are in the cgroup, when this process dies.
pub(super) fn watch(marker: Option<&EnvironmentMarker>, cgroup: Option<&Path>) -> io::Result<Bond> {
    let post = POST.get();
    let mut guardian = post.guardian.lock();
    let marker = marker.map(EnvironmentMarker::to_string).unwrap_or_default();
    let cgroup = cgroup.map_or(&b""[..], |path| path.as_os_str().as_bytes());
    let charge = Charge { marker: marker.as_bytes(), cgroup, since: now_in_ticks() };
    let (bond, ended, shared) = {
        let mut table = post.table.lock();
        if table.is_none() {
            *table = Some(Table::new().map_err(|error| explain(&error))?);
        }
        let table = table.as_mut().expect("it was made");
        let (number, ended) = table.put(charge)?;
        (Bond { number, group: None, process: process::id() }, ended, table.shared())
    };
    if ended || guardian.as_ref().is_none_or(|guardian| guardian.process.has_ended()) {
        if let Some(old) = guardian.take().filter(|old| !old.has_keeper) {
            old.process.reap();
        }
        let process = Process::start(shared).map_err(|error| explain(&error))?;
        *guardian = Some(Guardian { process: Arc::new(process), has_keeper: false });
    }
    if let Some(guardian) = guardian.as_mut().filter(|guardian| !guardian.has_keeper) {
        // Without a thread each charge does what it can.
        guardian.process.resume();
        let process = Arc::clone(&guardian.process);
        guardian.has_keeper = spawn_helper("guardian-watch", || keep(post, process)).is_ok();
    }
    Ok(bond)
}

impl Bond {
    /// Has the guardian kill this process group as well, or no group any more.
    pub(super) fn set_group(&mut self, group: Option<u32>) {
        if self.group != group && self.process == process::id() {
            self.group = group;
            self.with_table(|table, number| table.set_group(number, group));
        }
    }

    fn with_table(&self, change: impl FnOnce(&mut Table, u32)) {
        if let Some(table) = &mut *POST.get().table.lock() {
            change(table, self.number);
        }
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        if self.process == process::id() {
            self.with_table(Table::remove);
        }
    }
}

impl Post {
    /// The memory with the charges, if there are any.
    fn charges(&self) -> Option<Shared> {
        self.table.lock().as_ref().filter(|table| !table.is_empty()).map(Table::shared)
    }
}

/// Sees to it that there is a guardian while there are charges. Returns when there are none, or another thread does it.
fn keep(post: &'static Post, mut process: Arc<Process>) {
    let mut pause = Duration::ZERO;
    loop {
        if !process.wait_for_its_end() {
            // From here on each charge checks by itself.
            let mut guardian = post.guardian.lock();
            if let Some(now) = guardian.as_mut().filter(|now| Arc::ptr_eq(&now.process, &process)) {
                now.has_keeper = false;
            }
            return;
        }
        // The next is started at once, unless this one ended right after its start.
        let lived = process.started.elapsed();
        pause = if lived < Duration::from_secs(1) { longer(pause) } else { Duration::ZERO };
        process = loop {
            std::thread::sleep(pause);
            let mut guardian = post.guardian.lock();
            let is_replaced =
                guardian.as_ref().is_some_and(|now| !Arc::ptr_eq(&now.process, &process));
            if is_replaced {
                return;
            }
            let Some(shared) = post.charges() else {
                *guardian = None;
                return;
            };
            if let Ok(new) = Process::start(shared) {
                let new = Arc::new(new);
                *guardian = Some(Guardian { process: Arc::clone(&new), has_keeper: true });
                break new;
            }
            pause = longer(pause);
        };
    }
}

fn longer(pause: Duration) -> Duration {
    (2 * pause).clamp(Duration::from_millis(10), Duration::from_secs(10))
}

fn explain(error: &io::Error) -> io::Error {
    let message = format!(
        "cannot start the guardian, the process that kills the tree when this process dies: {error}"
    );
    io::Error::new(error.kind(), message)
}

/// The time that no member of a tree has started before, where processes have such times.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn now_in_ticks() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    // The kernel rounds in its own way, so this is the second before.
    #[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
    (now.tv_sec as u64).saturating_sub(1).saturating_mul(rustix::param::clock_ticks_per_second())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn now_in_ticks() -> u64 {
    0
}

/// What a wait for the guardian reports.
enum Change {
    None,
    Stopped,
    Ended,
    /// The system does not say: a sandbox, perhaps.
    Unknown,
}

impl Process {
    fn start(shared: Shared) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        check_namespace()?;
        let (ours, theirs) = UnixStream::pair()?;
        let (ours, theirs) = (above_streams(ours.into())?, above_streams(theirs.into())?);
        let pidfd = own_pidfd();
        let orders = Orders {
            shared,
            scratch: Scratch::map()?,
            parent: process::id() as libc::pid_t,
            pidfd: pidfd.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            socket: theirs.as_raw_fd(),
            tick_ms: TICK_MS.load(Ordering::Relaxed),
        };
        let started = Instant::now();
        let id = {
            let _blocked = Blocked::all();
            // SAFETY: the child calls `run` alone, which is made for it, and never returns.
            unsafe {
                let id = fork();
                if id == 0 {
                    after_fork::run(&orders)
                }
                id
            }
        };
        let error = io::Error::last_os_error();
        orders.scratch.unmap();
        if id < 0 { Err(error) } else { Ok(Self { id, socket: Socket::new(ours), started }) }
    }

    /// Blocks until the guardian has ended, and resumes it whenever it is stopped. Returns whether it has ended.
    fn wait_for_its_end(&self) -> bool {
        loop {
            match self.wait(0) {
                Change::None => {}
                Change::Stopped => self.resume(),
                Change::Ended => return true,
                Change::Unknown => return false,
            }
        }
    }

    /// Reaps the guardian if it has ended and there is no thread that does.
    fn reap(&self) {
        self.wait(libc::WNOHANG);
    }

    fn resume(&self) {
        // SAFETY: integers. The callers are the keeper, which reaps the guardian, or know that there is no keeper: so the ID
        // is the guardian's, unless other code has reaped it; and SIGCONT does nothing to a process that runs.
        unsafe { libc::kill(self.id, libc::SIGCONT) };
    }

    /// Waits for the guardian alone, and reaps it if it has ended.
    fn wait(&self, options: c_int) -> Change {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let options = options | libc::__WALL;
        let mut status = 0;
        // SAFETY: the status outlives the call. The ID is the guardian's until this thread reaps it. (Where its exit signal
        // is not 0, other code that waits for any child may reap it between two of these calls.)
        let result = unsafe { libc::waitpid(self.id, &raw mut status, options | libc::WUNTRACED) };
        match result {
            0 => Change::None,
            id if id == self.id && libc::WIFSTOPPED(status) => Change::Stopped,
            id if id == self.id => Change::Ended,
            _ => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => Change::None,
                // Other code has reaped it.
                Some(libc::ECHILD) => Change::Ended,
                _ => Change::Unknown,
            },
        }
    }

    /// Whether it has ended. Leaves it to the keeper to reap it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn has_ended(&self) -> bool {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the struct is one of integers, and outlives the call.
        let (result, info) = unsafe {
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            (libc::waitid(libc::P_PID, self.id as libc::id_t, &raw mut info, options), info)
        };
        // 0 is none that has ended.
        if result == 0 {
            return info.si_signo != 0;
        }
        io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn has_ended(&self) -> bool {
        // The end of the socket is reported without being requested.
        let mut poll = libc::pollfd { fd: self.socket.fd, events: 0, revents: 0 };
        // SAFETY: one struct, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready > 0
    }
}

/// The end of the socket that this process has. It may have been closed by a program that closes every descriptor, and its
/// number be another file's by now.
struct Socket {
    fd: c_int,
    file: Option<(u64, u64)>,
}

impl Socket {
    fn new(fd: OwnedFd) -> Self {
        let fd = fd.into_raw_fd();
        Self { fd, file: file(fd) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.file.is_some() && file(self.fd) == self.file {
            // SAFETY: it is the socket that this has.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// What tells an open file from others.
fn file(fd: c_int) -> Option<(u64, u64)> {
    // SAFETY: the struct is one of integers, and outlives the call.
    let (result, stat) = unsafe {
        let mut stat = std::mem::zeroed::<libc::stat>();
        (libc::fstat(fd, &raw mut stat), stat)
    };
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    (result == 0).then_some((stat.st_dev as u64, stat.st_ino as u64))
}

/// Keeps a descriptor of ours from being the program's standard input, output or error, which it may have closed.
fn above_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, libc::STDERR_FILENO + 1)?)
}

#[cfg(target_os = "linux")]
fn own_pidfd() -> Option<OwnedFd> {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    above_streams(pidfd_open(getpid(), PidfdFlags::empty()).ok()?).ok()
}

#[cfg(not(target_os = "linux"))]
fn own_pidfd() -> Option<OwnedFd> {
    None
}

/// After `unshare(CLONE_NEWPID)` the next child is the first process of the new namespace. That is not to be the guardian,
/// whose end would be the end of all in there, and which could not name the processes of this one.
#[cfg(target_os = "linux")]
fn check_namespace() -> io::Result<()> {
    let link = |name| {
        let path = format!("/proc/thread-self/ns/{name}");
        // There is a link to nothing before the namespace has its first process.
        let entry = std::fs::symlink_metadata(&path).ok();
        entry.map(|_| std::fs::read_link(path).ok())
    };
    match (link("pid"), link("pid_for_children")) {
        (Some(own), Some(childrens)) if own != childrens => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the children of this process are in another PID namespace than itself; spawn a tree that is killed with \
             this process before unshare(CLONE_NEWPID)",
        )),
        _ => Ok(()),
    }
}

/// All signals are blocked in this thread, until this is dropped. The child never unblocks them.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        // SAFETY: the sets are initialised before they are used, and the mask is this thread's own.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is what the mask was before.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

/// Forks without the program's handlers (pthread_atfork(3)) and without waiting for the allocator's locks, neither of which
/// the child has a use for. Its exit signal is 0: only a wait with `__WALL` or `__WCLONE` reaps it.
///
/// # Safety
///
/// The child must make system calls alone.
#[cfg(all(
    target_os = "linux",
    any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "s390x",
        target_arch = "powerpc",
        target_arch = "powerpc64",
        target_arch = "loongarch64"
    )
))]
unsafe fn fork() -> libc::pid_t {
    let none = std::ptr::null_mut::<c_int>();
    // A debugger takes a fork with another exit signal for a thread.
    let flags = libc::CLONE_UNTRACED as libc::c_long;
    // SAFETY: the child has a copy of this stack.
    let id = unsafe {
        if cfg!(target_arch = "s390x") {
            libc::syscall(libc::SYS_clone, none, flags, none, none, none)
        } else {
            libc::syscall(libc::SYS_clone, flags, none, none, none, none)
        }
    };
    let refused = || {
        let error = io::Error::last_os_error().raw_os_error();
        matches!(error, Some(libc::EINVAL | libc::ENOSYS | libc::EPERM))
    };
    if id < 0 && refused() {
        // An emulator or a sandbox that knows the usual fork alone.
        // SAFETY: the caller's.
        return unsafe { libc::fork() };
    }
    id as libc::pid_t
}

/// # Safety
///
/// The child must make system calls alone.
#[cfg(not(all(
    target_os = "linux",
    any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "s390x",
        target_arch = "powerpc",
        target_arch = "powerpc64",
        target_arch = "loongarch64"
    )
)))]
unsafe fn fork() -> libc::pid_t {
    // SAFETY: the caller's.
    unsafe { libc::fork() }
}
