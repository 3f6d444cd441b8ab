//! Linux: what a child does between fork and exec, where there is no other way.
//!
//! The work is done by a hook of the command ([`CommandExt::pre_exec`]). std cannot remove a hook, so a hook
//! stays on the command and runs in the child of every later spawn as well. Therefore:
//!
//! - What is to be done belongs to one spawn. It is in a variable of the thread that spawns, which the fork
//!   copies, and which a guard clears when the spawn returns or unwinds.
//! - Every spawn adds a hook with a number of its own, and only the hook with the spawn's number works. That
//!   hook is the last of all, so it runs after every hook that the caller has added before the spawn: at a
//!   second spawn of the same command too. A caller's hook that changes the user ID would otherwise clear the
//!   parent-death signal.
//! - A caller's hook runs in the same process before, and may have closed or replaced our descriptors. So the
//!   hook compares device and inode, and writes to no other file.
//!
//! The hook makes async-signal-safe calls only, allocates nothing, and takes no lock.

use crate::command;
use rustix::fs::fstat;
use rustix::io::fcntl_dupfd_cloexec;
use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, Command, id};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the child does for one spawn, beside opening its own pidfd.
#[derive(Default)]
pub(super) struct Orders {
    /// Enter the cgroup whose `cgroup.procs` this is, open for writing.
    pub(super) enter: Option<OwnedFd>,
    /// Die with the thread that spawns.
    pub(super) die_with: Option<Parent>,
}

#[derive(Clone, Copy)]
pub(super) struct Parent {
    /// The process. If it is not the parent of the child any more, the child dies at once.
    pub(super) id: u32,
    /// The signals that the child starts with blocked, rather than those of the thread that spawns.
    pub(super) blocked: libc::sigset_t,
}

pub(super) enum Error {
    /// The child could not do what it was to do.
    Orders(io::Error),
    /// The spawn failed otherwise.
    Spawn(io::Error),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Orders(error) | Error::Spawn(error) => error,
        }
    }
}

/// Spawns a child that sends its own pidfd.
pub(crate) fn spawn_with_pidfd(command: &mut Command) -> io::Result<(Child, Option<OwnedFd>)> {
    Ok(spawn(command, &Orders::default())?)
}

/// Spawns the command. Returns the child, and the child's own pidfd if the child has sent one.
///
/// A pidfd that the parent opens by the child's ID may come too late: beside a thread in `waitpid(-1)` the
/// child may have been reaped, and its status lost, or its ID be another's. The child's own pidfd has no such
/// moment. It is an extra: where it cannot be had (descriptors, sandboxes), the caller opens one by the ID.
pub(super) fn spawn(
    command: &mut Command,
    orders: &Orders,
) -> Result<(Child, Option<OwnedFd>), Error> {
    // Unique, but for a wrap-around of 32 bits, which takes as many hooks on one command.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `obey` makes async-signal-safe calls only, and reads a variable of its thread that needs no
    // initialisation: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || obey(number)) };
    let channel = Channel::open().ok();
    let (spawned, received) = attempt(command, number, orders, channel.as_ref());
    let (spawned, received) = match spawned {
        // Perhaps for want of the two descriptors of the channel. No child has run the hook, so there is
        // nothing that would happen twice.
        Err(Error::Spawn(error)) if channel.is_some() && is_full(&error) && received.pid == 0 => {
            drop(channel);
            attempt(command, number, orders, None)
        }
        spawned => (spawned, received),
    };
    let child = spawned?;
    // It is another process if a hook has forked, and goes on in the fork. (In another PID namespace, the child
    // knows itself by another ID: there it is opened by the ID that this process knows.)
    let pidfd = received.pidfd.filter(|_| received.pid == child.id());
    Ok((child, pidfd))
}

fn attempt(
    command: &mut Command,
    number: usize,
    orders: &Orders,
    channel: Option<&Channel>,
) -> (Result<Child, Error>, Received) {
    /// Also if the spawn unwinds.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            GIVEN.set(None);
        }
    }
    let enter = match orders.enter.as_ref().map(Passed::new).transpose() {
        Ok(enter) => enter,
        Err(error) => return (Err(Error::Orders(error)), Received::default()),
    };
    let report = channel.and_then(|channel| Passed::new(&channel.child).ok());
    GIVEN.set(Some(Given { number, report, enter, die_with: orders.die_with }));
    let reset = Reset;
    let spawned = command::spawn(command);
    drop(reset);
    let received = channel.map_or_else(Received::default, Channel::receive);
    let spawned = spawned.map_err(|error| match received.errno {
        0 => Error::Spawn(error),
        errno => Error::Orders(io::Error::from_raw_os_error(errno)),
    });
    (spawned, received)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The signals that this thread has blocked.
pub(super) fn blocked_signals() -> libc::sigset_t {
    let mut blocked = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: without a new set, this only writes the current one.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr());
        blocked.assume_init()
    }
}

/// What the hook with this number is to do.
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

/// A descriptor as the child inherits it: by its number.
#[derive(Clone, Copy)]
struct Passed {
    fd: RawFd,
    file: (u64, u64),
}

impl Passed {
    fn new(fd: &OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: fd.as_raw_fd(), file: file(fd.as_fd())? })
    }

    /// The descriptor, if it still means the same file.
    fn get(&self) -> io::Result<BorrowedFd<'_>> {
        // SAFETY: not -1, since it was open. It may be closed by now, or mean another file, which is what is
        // found out here; between here and its use, this process has one thread.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        match file(fd) {
            Ok(file) if file == self.file => Ok(fd),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }
}

#[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
fn file(fd: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// The hook.
fn obey(number: usize) -> io::Result<()> {
    let Some(given) = GIVEN.get().filter(|given| given.number == number) else { return Ok(()) };
    let report = given.report.as_ref().and_then(|report| report.get().ok());
    if let Some(report) = report {
        send_own_pidfd(report);
    }
    let done = given
        .enter
        .map_or(Ok(()), |procs| procs.get().and_then(enter))
        .and_then(|()| given.die_with.map_or(Ok(()), |parent| die_with(&parent)));
    // The error of a hook is like one of exec. This tells them apart.
    if let (Some(report), Err(error)) = (report, &done) {
        send(report, error.raw_os_error().unwrap_or(libc::EINVAL), None);
    }
    done
}

fn enter(procs: BorrowedFd<'_>) -> io::Result<()> {
    // The process that writes this.
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
    // The parent may have died before: then no signal will be sent.
    if parent_id() == parent.id { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

fn send_own_pidfd(report: BorrowedFd<'_>) {
    // SAFETY: integers. The descriptor is new, is closed on exec by the kernel's own doing (pidfd_open(2)), and is
    // this function's.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| OwnedFd::from_raw_fd(fd))
    };
    send(report, 0, pidfd.as_ref().map(AsFd::as_fd));
}

/// The message of a child: its process ID, and an error number if it failed.
type Message = [u32; 2];

/// Room for a control message with one descriptor, or with more than one that this asks for.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// A message header over these. The buffers must outlive its use.
///
/// # Safety
///
/// The pointers must be valid for as long as the header is used.
unsafe fn header(message: *mut libc::iovec, control: *mut Control, length: usize) -> libc::msghdr {
    // SAFETY: a header of zeroes is valid, and has no name and no buffers. (It has private fields on musl.)
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = message;
    header.msg_iovlen = 1;
    if length > 0 {
        header.msg_control = control.cast();
        header.msg_controllen = length as _;
    }
    header
}

/// Never blocks, and raises no signal. If it fails, the parent goes without.
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

/// What a child has sent. Zero is no process and no error.
#[derive(Default)]
struct Received {
    pid: u32,
    errno: c_int,
    pidfd: Option<OwnedFd>,
}

/// A pair of sockets: this process receives, the child sends.
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

    /// What the child has sent, once the spawn has returned. Never blocks.
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

/// The descriptor, or a copy that is not 0, 1 or 2, which std overwrites in the child.
pub(super) fn above_standard_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { Ok(fcntl_dupfd_cloexec(&fd, 3)?) }
}

fn receive(socket: BorrowedFd<'_>) -> Option<(Message, Option<OwnedFd>)> {
    let mut message: Message = [0; 2];
    let mut control = Control([0; 64]);
    let mut buffer =
        libc::iovec { iov_base: (&raw mut message).cast(), iov_len: size_of::<Message>() };
    // SAFETY: all that the header points to outlives the calls. The kernel has written a control message of this
    // kind only with descriptors in it, which are new and ours. There is one, since one is sent.
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
        // Without a descriptor to spare for it, there is none in the message.
        let pidfd = (!first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_RIGHTS
            && (*first).cmsg_len as usize >= libc::CMSG_LEN(size_of::<c_int>() as u32) as usize)
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<c_int>().read_unaligned()));
        Some((message, pidfd))
    }
}
