//! Unix: processes as other programs see them, and limits of this process.
//!
//! Linux and Android show processes in `/proc`. On other systems `ps` shows them, except on Haiku and iOS: there a
//! zombie and a stopped process count as alive, unless they are children of this process.

use shared_child::SharedChild;
use shared_child::seam::Backend;
use shared_child::unix::ReapedElsewhere;
use std::ffi::c_int;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use by_proc::{children, descriptors, helper_threads, is_alive, runs, state};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use elsewhere::{children, descriptors, helper_threads, is_alive, runs, state};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod by_proc {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    /// The letter that `ps` shows for a process: `Z` for a zombie, `T` if it is stopped. `None` if there is no such process.
    pub(crate) fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.chars().next()
    }

    /// Whether the process exists and is no zombie.
    pub(crate) fn is_alive(pid: u32) -> bool {
        !matches!(state(pid), None | Some('Z' | 'X'))
    }

    /// Whether a process runs this program. An emulator's path may come before the program's.
    pub(crate) fn runs(pid: u32, program: &OsStr) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).take(2).any(|argument| argument == program.as_bytes())
    }

    /// Returns the folders of this process's threads. The kernel ends a listing early if a thread exits meanwhile, so
    /// two in a row must agree.
    fn tasks() -> Vec<std::path::PathBuf> {
        let list = || {
            let entries = fs::read_dir("/proc/self/task").expect("/proc").flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let mut tasks = list();
        loop {
            let again = list();
            if again == tasks {
                return tasks;
            }
            tasks = again;
        }
    }

    /// All children of this process, of all its threads.
    pub(crate) fn children() -> Vec<u32> {
        let mut children = Vec::new();
        for task in tasks() {
            let list = fs::read_to_string(task.join("children")).unwrap_or_default();
            children.extend(list.split_whitespace().map(|pid| pid.parse::<u32>().expect("a pid")));
        }
        children
    }

    pub(crate) fn descriptors() -> usize {
        fs::read_dir("/proc/self/fd").expect("/proc").count() - 1
    }

    /// The names of our own threads that are running.
    pub(crate) fn helper_threads() -> Vec<String> {
        let names = tasks().into_iter();
        names
            .filter_map(|task| fs::read_to_string(task.join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .filter(|name| name.starts_with("child-"))
            .collect()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod elsewhere {
    use std::ffi::OsStr;
    use std::io;
    use std::process::{Command, Stdio};

    const BSD: bool = cfg!(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    ));

    /// Returns what `ps` prints for these arguments, and the process ID of `ps`.
    fn ps(arguments: &[&str]) -> (String, u32) {
        let mut command = Command::new("ps");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().expect("ps");
        let id = child.id();
        let output = child.wait_with_output().expect("ps");
        (String::from_utf8_lossy(&output.stdout).into_owned(), id)
    }

    /// Whether a child of this process is a zombie. `None` if it is no child of this process.
    fn is_zombie_child(which: libc::idtype_t, id: u32) -> Option<bool> {
        let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: a siginfo_t of zeroes is valid, and it outlives the call.
        let (result, info) = unsafe {
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            (libc::waitid(which, id as libc::id_t, &raw mut info, how), info)
        };
        let exited = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
        (result == 0).then(|| info.si_signo == libc::SIGCHLD && exited.contains(&info.si_code))
    }

    /// The letter that `ps` shows for a process: `Z` for a zombie, `T` if it is stopped. `None` if there is no such process.
    pub(crate) fn state(pid: u32) -> Option<char> {
        // SAFETY: integers. Signal 0 sends nothing.
        let found = unsafe { libc::kill(super::pid_t(pid), 0) } == 0
            || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
        if !found {
            return None;
        }
        if is_zombie_child(libc::P_PID, pid) == Some(true) {
            return Some('Z');
        }
        if cfg!(any(target_os = "haiku", target_os = "ios")) {
            return Some('R');
        }
        let letter = if BSD { "stat=" } else { "s=" };
        ps(&["-o", letter, "-p", &pid.to_string()]).0.trim_start().chars().next()
    }

    /// Whether the process exists and is no zombie.
    pub(crate) fn is_alive(pid: u32) -> bool {
        match is_zombie_child(libc::P_PID, pid) {
            Some(is_zombie) => !is_zombie,
            None => !matches!(state(pid), None | Some('Z')),
        }
    }

    /// Whether a process runs this program.
    pub(crate) fn runs(pid: u32, program: &OsStr) -> bool {
        let program = program.to_str().expect("a path in UTF-8");
        let wide: &[&str] = if BSD { &["-ww"] } else { &[] };
        let of = ["-o", "args=", "-p", &pid.to_string()];
        ps(&[wide, &of].concat()).0.trim_start().starts_with(program)
    }

    /// All children of this process.
    pub(crate) fn children() -> Vec<u32> {
        if is_zombie_child(libc::P_ALL, 0).is_none() {
            return Vec::new();
        }
        let all = if BSD { "-ax" } else { "-A" };
        let (list, ps) = ps(&[all, "-o", "pid=", "-o", "ppid="]);
        let mut children = Vec::new();
        for line in list.lines() {
            let mut ids = line.split_whitespace().map(|id| id.parse::<u32>().expect("a pid"));
            let (child, parent) = (ids.next().expect("a pid"), ids.next().expect("a pid"));
            if parent == std::process::id() && child != ps {
                children.push(child);
            }
        }
        children
    }

    /// Tries each number: `/dev/fd` shows only the first three descriptors on some systems, and all possible ones on
    /// others.
    pub(crate) fn descriptors() -> usize {
        // The kernel takes the lowest free number, so no test reaches the limit.
        // SAFETY: integers.
        (0..65_536).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1).count()
    }

    /// No system but Linux and Android shows the names of threads, so there are none here.
    pub(crate) fn helper_threads() -> Vec<String> {
        Vec::new()
    }
}

pub(crate) fn is_zombie(pid: u32) -> bool {
    state(pid) == Some('Z')
}

pub(crate) fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

pub(crate) fn pid_t(pid: u32) -> libc::pid_t {
    pid.try_into().expect("a process ID")
}

/// Blocks until the child is a zombie, without reaping it.
pub(crate) fn wait_for_zombie(pid: u32) {
    let how = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: the siginfo outlives the call.
    let result = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, how)
    };
    assert_eq!(result, 0, "waitid: {}", std::io::Error::last_os_error());
}

/// Reaps a child, as another part of the program would.
pub(crate) fn reap(pid: u32) -> c_int {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let reaped = unsafe { libc::waitpid(pid_t(pid), &raw mut status, 0) };
    assert_eq!(reaped, pid_t(pid), "waitpid: {}", std::io::Error::last_os_error());
    status
}

/// The zombies among the children of this process.
pub(crate) fn zombies() -> Vec<u32> {
    children().into_iter().filter(|pid| is_zombie(*pid)).collect()
}

/// Whether a handle must know the status of a child that was reaped elsewhere after the handle was made. If this is
/// false, the handle may know it.
pub(crate) fn knows_status_of_reaped(backend: Backend) -> bool {
    #[cfg(target_os = "linux")]
    let kept = super::linux::keeps_status_of_reaped();
    #[cfg(not(target_os = "linux"))]
    let kept = false;
    kept && backend == Backend::ALL[0]
}

/// A FIFO, which stays open as long as this file does.
pub(crate) fn fifo(path: &Path) -> fs::File {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the path ends with a zero, and outlives the call.
    let result = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(result, 0, "mkfifo: {}", std::io::Error::last_os_error());
    fs::File::options().read(true).write(true).open(path).expect("to open it")
}

/// A limit on descriptors, until it is dropped.
pub(crate) struct DescriptorLimit(libc::rlimit);

impl DescriptorLimit {
    pub(crate) fn zero() -> Self {
        Self::of(0)
    }

    fn of(limit: libc::rlim_t) -> Self {
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the struct outlives the call.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut old) }, 0);
        Self::set(libc::rlimit { rlim_cur: limit, ..old });
        Self(old)
    }

    fn set(limit: libc::rlimit) {
        // SAFETY: the struct outlives the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    }
}

impl Drop for DescriptorLimit {
    fn drop(&mut self) {
        Self::set(self.0);
    }
}

/// Whether std needs no descriptor for a spawn without pipes. It needs some where `posix_spawn` uses them, or std
/// forks.
pub(crate) fn spawns_without_descriptors() -> bool {
    cfg!(all(target_os = "linux", target_env = "gnu"))
}

/// A full descriptor table, until it is dropped.
pub(crate) struct NoDescriptors(Vec<fs::File>, #[allow(dead_code)] DescriptorLimit);

impl NoDescriptors {
    pub(crate) fn left() -> Self {
        // A low limit keeps this quick.
        let limit = DescriptorLimit::of(200);
        let mut files = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            files.push(file);
        }
        Self(files, limit)
    }

    pub(crate) fn free_one(&mut self) {
        self.0.pop().expect("one to free");
    }
}

/// Sets this process's disposition of SIGCHLD.
pub(crate) fn on_sigchld(handler: libc::sighandler_t) {
    // SAFETY: the handlers of these tests do nothing, or are SIG_IGN or SIG_DFL.
    assert_ne!(unsafe { libc::signal(libc::SIGCHLD, handler) }, libc::SIG_ERR);
}

/// Sets the signals of a terminal to their defaults. The caller of the tests may have ignored them (nohup, a shell's
/// background job), and a child inherits that.
pub(crate) fn default_terminal_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: SIG_DFL runs no code.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Makes SIGUSR1 interrupt system calls, which then fail with EINTR: its handler does nothing, and SA_RESTART is not set.
pub(crate) fn sigusr1_interrupts() {
    extern "C" fn do_nothing(_: c_int) {}
    // SAFETY: a zeroed struct is valid, and outlives the call. The handler does nothing.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = do_nothing as extern "C" fn(_) as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Checks the result of a wait for a child that exited with this code and was reaped elsewhere after its handle was
/// made: the status, or an error where the system does not keep it.
#[track_caller]
pub(crate) fn assert_true_or_lost(backend: Backend, answer: io::Result<ExitStatus>, code: i32) {
    match answer {
        Ok(status) => assert_eq!(status.code(), Some(code)),
        Err(error) => {
            assert!(!knows_status_of_reaped(backend), "the kernel knows the status, but: {error}");
            assert_reaped_elsewhere(&error);
        }
    }
}

#[track_caller]
pub(crate) fn assert_reaped_elsewhere(error: &io::Error) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ReapedElsewhere>());
    let inner = inner.unwrap_or_else(|| panic!("not ReapedElsewhere: {error:?}"));
    let os = std::error::Error::source(inner).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!((os.raw_os_error(), os.kind()), (Some(libc::ECHILD), error.kind()));
    assert!(error.to_string().contains("another part of this program"), "{error}");
}

/// A single child that plays these parts, once it has printed `ready`; and its standard output.
pub(crate) fn ready(backend: Backend, line: &str) -> (SharedChild, ChildStdout) {
    let mut command = super::helper(&super::parts(line));
    let child = backend.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    let mut stdout = child.take_stdout().unwrap();
    expect(&mut stdout, "ready\n");
    (child, stdout)
}

/// Reads this text, and no more.
#[track_caller]
pub(crate) fn expect(said: &mut impl Read, text: &str) {
    let mut read = vec![0; text.len()];
    said.read_exact(&mut read).unwrap();
    assert_eq!(String::from_utf8_lossy(&read), text);
}

pub(crate) fn is_root() -> bool {
    // SAFETY: it cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Returns a child that exits, and is reaped elsewhere, before the spawn returns.
pub(crate) fn spawn_reaped(backend: Backend) -> SharedChild {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(super::HELPER);
    // SAFETY: these are system calls that take integers. A fork's child may make them.
    unsafe {
        command.pre_exec(|| {
            let child = libc::getpid();
            if libc::fork() == 0 {
                // The spawn returns when no process is left that could report an error to it, such as this one.
                for _ in 0..super::LONG.as_millis() {
                    if libc::kill(child, 0) != 0 {
                        break;
                    }
                    libc::poll(std::ptr::null_mut(), 0, 1);
                }
            }
            libc::_exit(0)
        });
    }
    on_sigchld(libc::SIG_IGN);
    let child = backend.spawn(&mut command).expect("to spawn");
    on_sigchld(libc::SIG_DFL);
    assert_eq!(state(child.id()), None, "it was not reaped");
    child
}

/// Runs this in the child of a fork, and returns its result.
pub(crate) fn in_a_fork(run: impl FnOnce() -> u8) -> u8 {
    // SAFETY: the test runs alone and nearly single-threaded, and the function takes no lock that another thread may
    // hold. The child ends by `_exit`, whatever happens.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                libc::alarm(2 * super::LONG.as_secs() as u32);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                libc::_exit(result.map_or(255, i32::from));
            }
            pid => {
                let status = reap(pid as u32);
                assert!(libc::WIFEXITED(status), "the fork died: {status:#x}");
                u8::try_from(libc::WEXITSTATUS(status)).expect("eight bits")
            }
        }
    }
}

/// The CPU time that this process has used.
pub(crate) fn cpu_time() -> std::time::Duration {
    // SAFETY: the struct outlives the call.
    let time = unsafe {
        let mut time = std::mem::zeroed();
        assert_eq!(libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time), 0);
        time
    };
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
