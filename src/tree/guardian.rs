//! Unix: a process that kills trees and children when this process dies.
//!
//! There is at most one guardian per process. It exists while there are *charges*: trees, or single children, to kill
//! when this process dies. It is a `fork` of this process that runs none of the program's code: it makes only system
//! calls (`after_fork.rs`), from its first instruction to its last.
//!
//! # Alternatives
//!
//! | candidate | kills without PATH, shell or fork | reads an environment exactly | start, beside a 2 GB heap | where |
//! |---|---|---|---|---|
//! | a shell script | no: `grep`, `find`, `rmdir`, and `kill` on some systems | no | 1 ms | where there is a shell |
//! | this program, executed again | yes | yes | 1 ms | programs that opt in when they start |
//! | a process that shares this process's memory (`CLONE_VM`) | yes | yes | 0.1 ms | Linux; the OOM killer kills both, and so does a core dump before 5.16 |
//! | **a `fork` that makes only system calls** | yes | yes | 60 ms | every Unix |
//!
//! This process forks once, not per tree. The fork costs 60 ms of CPU time in a process with 2 GB of pages of 4 KiB,
//! and 0.4 ms with 1 MB. The spawn of a later tree costs the same as without a guardian. The first write to each page
//! after the fork is a page fault of this process (0.75 us). The guardian unmaps its copy of the heap, so no page
//! exists twice. It has 0.2 MB of its own.
//!
//! # How it learns what to kill
//!
//! It reads memory that both processes share ([`table`]). So no message can be lost, garbled by a stray write to a
//! descriptor, or delayed by a stopped guardian; and the next guardian inherits all charges.
//!
//! - *A process group* is charged from the spawn until this process may reap the leader, or finds that other code has
//!   reaped it. After this process's death init reaps the leader. If the group is empty then, its ID is free, and could
//!   have a new owner before the guardian kills it.
//! - *A marker* (Linux) and *a cgroup* are charged before the spawn, so no member lives unguarded.
//!
//! Outside Linux the guardian kills only process groups.
//!
//! # How it learns of the death
//!
//! It polls a pidfd of this process (Linux); elsewhere it checks once a second whether its parent has changed. It also
//! polls a socket whose other end an exec closes, because an exec counts as a death. A copy of that end in another
//! process (the child of a fork; or of a spawn in another thread, where a socket cannot be created close-on-exec)
//! delays only the notice of an exec. If the program closes foreign descriptors, including the socket, the guardian
//! finds the shared memory still mapped in this process (Linux), and continues.
//!
//! # Its life
//!
//! It is in a session of its own, blocks all signals, and holds no directory and no descriptor of the program. If it is
//! killed, a thread of this library (the *keeper*) notices at once and starts another guardian; if it is stopped, the
//! keeper resumes it. Both end when there has been no charge for five to ten seconds, so a program that spawns one tree
//! after the other forks once.
//!
//! On Linux its exit signal is 0: no `waitpid(-1)` reaps it, and no SIGCHLD is sent. The price is that after an exec of
//! this process the guardian stays a zombie until the new program ends. Debuggers do not follow it; a breakpoint in a
//! function that it calls ends it, and the keeper starts another.
//!
//! The child of a fork starts a guardian of its own at its first charge.
//!
//! If this process is a member of another process's tree, and that tree is killed, the guardian may be killed as a
//! descendant before it has killed anything. Its charges are members of the other tree too, and carry that tree's
//! marker.

mod after_fork;
mod calls;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod cgroup;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod kill;
#[cfg(target_os = "linux")]
mod memory;
mod table;

use super::environment_marker::EnvironmentMarker;
use super::processes::Time;
use crate::fork_guard::PerProcess;
use crate::sync::Mutex;
use crate::sys::spawn_helper;
use crate::sys::unix::syscall::above_standard_streams;
#[cfg(target_os = "linux")]
use crate::sys::{linux::pidfd, unix::by_pid::Pid};
use calls::{Orders, Scratch};
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
    /// The lock is never held across anything that blocks.
    table: Mutex<Option<Table>>,
}

struct Guardian {
    process: Arc<Process>,
    /// Whether a thread waits for the exit of the guardian.
    has_keeper: bool,
}

struct Process {
    id: libc::pid_t,
    #[cfg_attr(
        any(target_os = "linux", target_os = "android"),
        expect(dead_code, reason = "it is closed when this is dropped")
    )]
    socket: Socket,
    started: Instant,
}

/// A charge. A drop ends it.
pub(super) struct Bond {
    number: u32,
    group: Option<u32>,
    /// The process that made the charge. The child of a fork must not end it.
    process: u32,
}

/// Charges the guardian with the processes that carry the marker or are in the cgroup.
pub(super) fn watch(marker: Option<&EnvironmentMarker>, cgroup: Option<&Path>) -> io::Result<Bond> {
    let post = POST.get();
    let mut guardian = post.guardian.lock();
    let marker = marker.map(EnvironmentMarker::to_string).unwrap_or_default();
    let cgroup = cgroup.map_or(&b""[..], |path| path.as_os_str().as_bytes());
    let charge = Charge { marker: marker.as_bytes(), cgroup, since: Time::now().0.unsigned_abs() };
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
        // Without a keeper, each new charge resumes the guardian.
        guardian.process.resume();
        let process = Arc::clone(&guardian.process);
        guardian.has_keeper = spawn_helper("guardian-watch", || keep(post, process)).is_ok();
    }
    Ok(bond)
}

impl Bond {
    /// Adds a process group to the charge, or removes it.
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
    /// Returns the shared memory if there are charges.
    fn charges(&self) -> Option<Shared> {
        self.table.lock().as_ref().filter(|table| !table.is_empty()).map(Table::shared)
    }
}

/// Keeps a guardian running while there are charges. Returns when there are none, or another thread is the keeper.
fn keep(post: &'static Post, mut process: Arc<Process>) {
    let mut pause = Duration::ZERO;
    loop {
        if !process.wait_for_its_end() {
            // From now on each new charge checks whether there is a guardian.
            let mut guardian = post.guardian.lock();
            if let Some(now) = guardian.as_mut().filter(|now| Arc::ptr_eq(&now.process, &process)) {
                now.has_keeper = false;
            }
            return;
        }
        // Start the next guardian at once, unless this one ended right after its start.
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

/// The result of a wait for the guardian.
enum Change {
    None,
    Stopped,
    Ended,
    /// The system does not report the state, as in a sandbox.
    Unknown,
}

impl Process {
    fn start(shared: Shared) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        check_namespace()?;
        let (ours, theirs) = UnixStream::pair()?;
        let (ours, theirs) =
            (above_standard_streams(ours.into())?, above_standard_streams(theirs.into())?);
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
        // SAFETY: the sets are initialised before they are used, and the mask is this thread's own. The child never
        // unblocks signals. It only calls `run`, which is async-signal-safe and never returns.
        let (id, error) = unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let id = fork();
            if id == 0 {
                after_fork::run(&orders)
            }
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            (id, error)
        };
        orders.scratch.unmap();
        if id < 0 { Err(error) } else { Ok(Self { id, socket: Socket::new(ours), started }) }
    }

    /// Blocks until the guardian has ended, and resumes it whenever it is stopped. Returns `false` if the system does
    /// not report its end.
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

    /// Reaps the guardian if it has ended. Called if there is no keeper.
    fn reap(&self) {
        self.wait(libc::WNOHANG);
    }

    fn resume(&self) {
        // SAFETY: integers. Only the keeper reaps the guardian, and each caller is the keeper or knows that there is
        // none. So the ID is the guardian's unless other code has reaped it, and SIGCONT does nothing to a running
        // process.
        unsafe { libc::kill(self.id, libc::SIGCONT) };
    }

    /// Waits for a change of the guardian's state, and reaps the guardian if it has ended.
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

    /// Returns whether the guardian has ended. The keeper reaps it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn has_ended(&self) -> bool {
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the struct is one of integers, and outlives the call.
        let (result, info) = unsafe {
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            (libc::waitid(libc::P_PID, self.id as libc::id_t, &raw mut info, options), info)
        };
        // 0 means that the guardian has not ended.
        if result == 0 {
            return info.si_signo != 0;
        }
        io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn has_ended(&self) -> bool {
        // poll(2) reports the end of the socket without a request.
        let mut poll = libc::pollfd { fd: self.socket.fd, events: 0, revents: 0 };
        // SAFETY: one struct, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready > 0
    }
}

/// This process's end of the socket. A program that closes every descriptor may have closed the socket, and another
/// file may have its number.
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
            // SAFETY: the descriptor still refers to this socket.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// Returns the identity of an open file.
fn file(fd: c_int) -> Option<(u64, u64)> {
    // SAFETY: the struct is one of integers, and outlives the call.
    let (result, stat) = unsafe {
        let mut stat = std::mem::zeroed::<libc::stat>();
        (libc::fstat(fd, &raw mut stat), stat)
    };
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    (result == 0).then_some((stat.st_dev as u64, stat.st_ino as u64))
}

#[cfg(target_os = "linux")]
fn own_pidfd() -> Option<OwnedFd> {
    let me = Pid::new(std::process::id() as i32)?;
    above_standard_streams(pidfd::open_any(me).ok()?).ok()
}

#[cfg(not(target_os = "linux"))]
fn own_pidfd() -> Option<OwnedFd> {
    None
}

/// Fails after `unshare(CLONE_NEWPID)`: the next child is the first process of the new namespace. The guardian must not
/// be that process: its end would kill all processes of the namespace, and it could not name the processes of this
/// namespace.
#[cfg(target_os = "linux")]
fn check_namespace() -> io::Result<()> {
    let link = |name| {
        let path = format!("/proc/thread-self/ns/{name}");
        // The link exists but cannot be read before the namespace has its first process.
        let entry = std::fs::symlink_metadata(&path).ok();
        entry.map(|_| std::fs::read_link(path).ok())
    };
    match (link("pid"), link("pid_for_children")) {
        (Some(own), Some(childrens)) if own != childrens => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "cannot start the guardian: the children of this process are in another PID namespace; spawn a tree that is \
             killed with this process before unshare(CLONE_NEWPID)",
        )),
        _ => Ok(()),
    }
}

/// Forks without running the program's handlers (pthread_atfork(3)) and without waiting for the allocator's locks,
/// because the child uses neither. The exit signal of the child is 0: only a wait with `__WALL` or `__WCLONE` reaps it.
///
/// # Safety
///
/// The child must make only system calls.
unsafe fn fork() -> libc::pid_t {
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
    {
        let none = std::ptr::null_mut::<c_int>();
        // Without this, a debugger treats a fork with another exit signal as a thread.
        let flags = libc::CLONE_UNTRACED as libc::c_long;
        // SAFETY: the child has a copy of this stack.
        let id = unsafe {
            if cfg!(target_arch = "s390x") {
                libc::syscall(libc::SYS_clone, none, flags, none, none, none)
            } else {
                libc::syscall(libc::SYS_clone, flags, none, none, none, none)
            }
        };
        let error = if id < 0 { io::Error::last_os_error().raw_os_error() } else { None };
        // An emulator or a sandbox may know only the usual fork.
        if !matches!(error, Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)) {
            return id as libc::pid_t;
        }
    }
    // Android, other systems, and architectures whose `clone` may have other arguments.
    // SAFETY: that of this function.
    unsafe { libc::fork() }
}
