//! Linux: the work of a child between fork and exec.
//!
//! A hook of the command does this work ([`CommandExt::pre_exec`]). std cannot remove a hook, so the hook stays on the
//! command and runs in the child of every later spawn too. Therefore:
//!
//! - The orders belong to one spawn. They are in a variable of the spawning thread, which the fork copies, and which is
//!   cleared when the spawn returns.
//! - Every spawn adds a hook with a number of its own, and only the hook with the spawn's number works. It is the last
//!   hook, so it runs after all hooks that the caller has added, even at a second spawn of the command. Otherwise a
//!   caller's hook that changes the user ID would clear the parent-death signal.
//! - A caller's hook runs earlier in the same process, and may have closed or replaced the descriptors. So this hook
//!   compares device and inode, and writes to no other file.
//!
//! The hook makes async-signal-safe calls only, allocates nothing, and takes no lock.

use crate::command;
use crate::sys::unix::syscall::{above_standard_streams, check};
use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, Command, id};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The work of the child for one spawn, besides opening its own pidfd.
#[derive(Default)]
pub(super) struct Orders {
    /// The `cgroup.procs` of the cgroup to enter, open for writing.
    pub(super) enter: Option<OwnedFd>,
    /// The thread with which the child dies.
    pub(super) die_with: Option<Parent>,
}

#[derive(Clone, Copy)]
pub(super) struct Parent {
    /// The process ID. A child with another parent fails with ESRCH.
    pub(super) id: u32,
    /// The signal mask of the child, instead of that of the spawning thread.
    pub(super) blocked: libc::sigset_t,
}

/// Spawns a child that sends its own pidfd.
pub(crate) fn spawn_with_pidfd(command: &mut Command) -> io::Result<(Child, Option<OwnedFd>)> {
    spawn(command, &Orders::default(), |error| error)
}

/// Spawns the command. Returns the child, and the child's own pidfd if the child has sent one. `explain` completes the
/// error of a child that could not carry out its orders.
///
/// A pidfd that the parent opens by the child's ID may come too late: a thread in `waitpid(-1)` may have reaped the child,
/// and its ID may have a new owner. The child's own pidfd has no such gap. If the child cannot open it (descriptors,
/// sandboxes), the caller opens one by the ID.
pub(super) fn spawn(
    command: &mut Command,
    orders: &Orders,
    explain: impl Fn(io::Error) -> io::Error,
) -> io::Result<(Child, Option<OwnedFd>)> {
    // A number may repeat after 2^32 hooks.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `run_hook` makes async-signal-safe calls only, and reads a variable of its thread that needs no
    // initialisation: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || run_hook(number)) };
    let channel = Channel::open().ok();
    let (mut spawned, mut received) = attempt(command, number, orders, channel.as_ref());
    let is_full =
        |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    if channel.is_some() && received.pid == 0 && spawned.as_ref().is_err_and(is_full) {
        // The channel may have used the last two descriptors, so spawn without it. No child has run the hook, so
        // nothing happens twice.
        drop(channel);
        (spawned, received) = attempt(command, number, orders, None);
    }
    let child = spawned.map_err(|error| match received.errno {
        0 => error,
        errno => explain(io::Error::from_raw_os_error(errno)),
    })?;
    // The IDs differ if a caller's hook has forked and the child of that fork has continued. (They also differ if the
    // child is in another PID namespace. The caller opens a pidfd by the ID of this namespace then.)
    let pidfd = received.pidfd.filter(|_| received.pid == child.id());
    Ok((child, pidfd))
}

fn attempt(
    command: &mut Command,
    number: usize,
    orders: &Orders,
    channel: Option<&Channel>,
) -> (io::Result<Child>, Received) {
    let enter = match orders.enter.as_ref().map(Passed::new).transpose() {
        Ok(enter) => enter,
        Err(error) => return (Err(error), Received::default()),
    };
    let report = channel.and_then(|channel| Passed::new(&channel.child).ok());
    GIVEN.set(Some(Given { number, report, enter, die_with: orders.die_with }));
    // This does not unwind: a panic of std is an error.
    let spawned = command::spawn(command);
    GIVEN.set(None);
    (spawned, channel.map_or_else(Received::default, Channel::receive))
}

/// Returns the signal mask of this thread.
pub(super) fn blocked_signals() -> libc::sigset_t {
    let mut blocked = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: without a new set, this only writes the current one.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr());
        blocked.assume_init()
    }
}

/// The orders that the hook with this number carries out.
#[derive(Clone, Copy)]
struct Given {
    number: usize,
    report: Option<Passed>,
    enter: Option<Passed>,
    die_with: Option<Parent>,
}

thread_local! {
    static GIVEN: Cell<Option<Given>> = const { Cell::new(None) };
}

/// A descriptor that the child inherits with the same number.
#[derive(Clone, Copy)]
struct Passed {
    fd: RawFd,
    file: (u64, u64),
}

impl Passed {
    fn new(fd: &OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: fd.as_raw_fd(), file: file(fd.as_fd())? })
    }

    /// Returns the descriptor if it still refers to the same file.
    fn get(&self) -> io::Result<BorrowedFd<'_>> {
        // SAFETY: not -1, since it was open. If it is closed by now or refers to another file, it is not returned; and this
        // process has one thread, so nothing closes it before its use.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        match file(fd) {
            Ok(file) if file == self.file => Ok(fd),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }
}

#[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
fn file(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat64>::zeroed();
    // SAFETY: the struct outlives the call. It was zeroed, and any bytes are valid integers.
    let stat = unsafe {
        check(libc::fstat64(fd.as_raw_fd(), stat.as_mut_ptr()))?;
        stat.assume_init()
    };
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// Runs in the child: carries out the orders if they are for the hook with this number.
fn run_hook(number: usize) -> io::Result<()> {
    let Some(given) = GIVEN.get().filter(|given| given.number == number) else { return Ok(()) };
    let report = given.report.as_ref().and_then(|report| report.get().ok());
    if let Some(report) = report {
        send_own_pidfd(report);
    }
    let done = given
        .enter
        .map_or(Ok(()), |procs| procs.get().and_then(enter))
        .and_then(|()| given.die_with.map_or(Ok(()), |parent| die_with(&parent)));
    // std does not distinguish an error of the hook from one of exec, so the hook reports its own.
    if let (Some(report), Err(error)) = (report, &done) {
        send(report, error.raw_os_error().unwrap_or(libc::EINVAL), None);
    }
    done
}

fn enter(procs: BorrowedFd<'_>) -> io::Result<()> {
    // 0 means the process that writes it.
    let myself = b"0";
    // SAFETY: the byte outlives the call.
    let written = unsafe { libc::write(procs.as_raw_fd(), myself.as_ptr().cast(), myself.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn die_with(parent: &Parent) -> io::Result<()> {
    // SAFETY: integers, and a set that outlives the call.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const parent.blocked, ptr::null_mut());
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // If the parent died before this, the kernel sends no signal.
    if parent_id() == parent.id { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

fn send_own_pidfd(report: BorrowedFd<'_>) {
    // SAFETY: integers. The descriptor is new, close-on-exec (pidfd_open(2)), and owned by this function.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| OwnedFd::from_raw_fd(fd))
    };
    send(report, 0, pidfd.as_ref().map(AsFd::as_fd));
}

/// The message of a child: its process ID, and an error number or 0.
type Message = [u32; 2];

/// Room for a control message with one descriptor.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Returns a message header for these buffers.
///
/// # Safety
///
/// The pointers must be valid for as long as the header is used.
unsafe fn header(message: *mut libc::iovec, control: *mut Control, length: usize) -> libc::msghdr {
    // SAFETY: a header of zeroes is valid, without a name and buffers. (musl's has private fields.)
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = message;
    header.msg_iovlen = 1;
    if length > 0 {
        header.msg_control = control.cast();
        header.msg_controllen = length as _;
    }
    header
}

/// Sends a message. Never blocks, and raises no signal. The parent does not require the message.
fn send(report: BorrowedFd<'_>, errno: c_int, pidfd: Option<BorrowedFd<'_>>) {
    let mut message: Message = [id(), errno.unsigned_abs()];
    let mut control = Control([0; 64]);
    let mut buffer =
        libc::iovec { iov_base: (&raw mut message).cast(), iov_len: size_of::<Message>() };
    const LENGTH: u32 = size_of::<c_int>() as u32;
    // SAFETY: all that the header points to outlives the call. The control message is written where the macros
    // say, within `control`: 64 bytes are more than CMSG_SPACE of one descriptor, and aligned.
    unsafe {
        let length = if pidfd.is_some() { libc::CMSG_SPACE(LENGTH) as usize } else { 0 };
        let header = header(&raw mut buffer, &raw mut control, length);
        if let Some(pidfd) = pidfd {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(LENGTH) as _;
            libc::CMSG_DATA(first).cast::<c_int>().write_unaligned(pidfd.as_raw_fd());
        }
        libc::sendmsg(
            report.as_raw_fd(),
            &raw const header,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        );
    }
}

/// The messages of a child. Zero is no process and no error.
#[derive(Default)]
struct Received {
    pid: u32,
    errno: c_int,
    pidfd: Option<OwnedFd>,
}

/// A pair of sockets: the child sends, this process receives.
struct Channel {
    parent: OwnedFd,
    child: OwnedFd,
}

impl Channel {
    fn open() -> io::Result<Self> {
        let mut fds = [-1; 2];
        // SAFETY: the array outlives the call, which fills it with new descriptors of ours, or fails.
        let [parent, child] = unsafe {
            let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
            if libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            fds.map(|fd| OwnedFd::from_raw_fd(fd))
        };
        Ok(Self { parent, child: above_standard_streams(child)? })
    }

    /// Receives the messages of the child. The caller's spawn has returned, so this never blocks.
    fn receive(&self) -> Received {
        let mut received = Received::default();
        while let Some((message, pidfd)) = receive(self.parent.as_fd()) {
            received.pid = message[0];
            received.errno = message[1].try_into().unwrap_or(libc::EINVAL);
            received.pidfd = received.pidfd.or(pidfd);
        }
        received
    }
}

fn receive(socket: BorrowedFd<'_>) -> Option<(Message, Option<OwnedFd>)> {
    let mut message: Message = [0; 2];
    let mut control = Control([0; 64]);
    let mut buffer =
        libc::iovec { iov_base: (&raw mut message).cast(), iov_len: size_of::<Message>() };
    // SAFETY: all that the header points to outlives the calls. A control message of this kind from the kernel contains
    // new descriptors that this process owns: one, since one is sent.
    unsafe {
        let mut header = header(&raw mut buffer, &raw mut control, size_of::<Control>());
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let received = loop {
            let received = libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags);
            if received >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break received;
            }
        };
        if usize::try_from(received) != Ok(size_of::<Message>()) {
            return None;
        }
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        // If this process had no free descriptor, the message contains none.
        let pidfd = (!first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_RIGHTS
            && (*first).cmsg_len as usize >= libc::CMSG_LEN(size_of::<c_int>() as u32) as usize)
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<c_int>().read_unaligned()));
        Some((message, pidfd))
    }
}
