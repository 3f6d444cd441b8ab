//! Linux: looking at processes from outside, and making system calls fail.

use shared_child::SharedChild;
use shared_child::seam::Backend;
use std::ffi::c_int;
use std::fs;
use std::os::unix::net::UnixStream;

/// The state letter of a process in `/proc/PID/stat`; `None` if there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.chars().next()
}

pub(crate) fn is_zombie(pid: u32) -> bool {
    state(pid) == Some('Z')
}

/// Neither gone nor a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

pub(crate) fn pid_t(pid: u32) -> libc::pid_t {
    pid.try_into().expect("a process ID")
}

/// Blocks until the child is a zombie, without reaping it.
pub(crate) fn wait_for_zombie(pid: u32) {
    // SAFETY: the siginfo outlives the call.
    let result = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT)
    };
    assert_eq!(result, 0, "waitid: {}", std::io::Error::last_os_error());
}

/// What a foreign reaper does.
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

/// All children of this process, of all its threads.
pub(crate) fn children() -> Vec<u32> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().map(|pid| pid.parse::<u32>().expect("a pid")));
    }
    children
}

pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count() - 1
}

/// The names of our own threads that are running.
pub(crate) fn helper_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).filter(|name| name.starts_with("child-")).collect()
}

/// Whether each of our own threads has ended or sleeps.
pub(crate) fn helper_threads_rest() -> bool {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter(|stat| stat.contains("(child-")).all(|stat| stat.contains(") S "))
}

/// How many threads of this process are in a system call that waits for an exit.
pub(crate) fn threads_blocked_for_exits() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
    let numbers = calls.filter_map(|call| call.split_whitespace().next()?.parse().ok());
    numbers.filter(|number| [libc::SYS_waitid, libc::SYS_ppoll].contains(number)).count()
}

/// Makes the system calls of this thread, and of what it starts, fail: each with the errno that is
/// named, if the condition on one of its arguments holds.
pub(crate) fn deny(rules: &[Deny]) {
    // seccomp(2): on x86-64, 64-bit ARM and RISC-V the arguments lie at 16 + 8 n, low half first.
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let has_bits = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let mut program = Vec::new();
    for rule in rules {
        program.push(statement(load, 0));
        let number = u32::try_from(rule.call).expect("a system call");
        let deny =
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | rule.errno as u32);
        match rule.when {
            When::Always => program.extend([jump(equals, number, 0, 1), deny]),
            When::Is(index, value) => program.extend([
                jump(equals, number, 0, 3),
                statement(load, 16 + 8 * index),
                jump(equals, value, 0, 1),
                deny,
            ]),
            When::Has(index, bits) => program.extend([
                jump(equals, number, 0, 3),
                statement(load, 16 + 8 * index),
                jump(has_bits, bits, 0, 1),
                deny,
            ]),
        }
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a short program"),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program outlives the calls, which copy it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let result =
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
        assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
    }
}

pub(crate) struct Deny {
    pub(crate) call: libc::c_long,
    pub(crate) when: When,
    pub(crate) errno: c_int,
}

pub(crate) enum When {
    Always,
    /// The argument with this index has this value.
    Is(u32, u32),
    /// The argument with this index has all or some of these bits.
    Has(u32, u32),
}

impl Deny {
    pub(crate) const fn always(call: libc::c_long, errno: c_int) -> Self {
        Self { call, when: When::Always, errno }
    }

    /// No thread can be started; processes can.
    pub(crate) fn threads() -> Vec<Self> {
        let thread = When::Has(0, libc::CLONE_THREAD as u32);
        vec![
            // glibc falls back to `clone`, whose flags a filter can see.
            Self::always(libc::SYS_clone3, libc::ENOSYS),
            Self { call: libc::SYS_clone, when: thread, errno: libc::EAGAIN },
        ]
    }
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

/// A full descriptor table, until it is dropped.
pub(crate) struct NoDescriptors(Vec<fs::File>, #[allow(dead_code)] DescriptorLimit);

impl NoDescriptors {
    pub(crate) fn left() -> Self {
        // A low limit, so that this is quick.
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

/// Puts something else in the place of each epoll of this process, as who closes what is not theirs does.
pub(crate) fn replace_epolls() {
    use std::os::fd::AsRawFd;
    let other = fs::File::open("/dev/null").expect("to open");
    let mut replaced = 0;
    for entry in fs::read_dir("/proc/self/fd").expect("/proc").flatten() {
        if fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
        {
            let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // SAFETY: plain integers. Nothing relies on an epoll for its memory.
            replaced +=
                unsafe { i32::from(libc::dup2(other.as_raw_fd(), fd.expect("a number")) >= 0) };
        }
    }
    assert!(replaced > 0, "there is none");
}

/// Sets what this process does on SIGCHLD.
pub(crate) fn on_sigchld(handler: libc::sighandler_t) {
    // SAFETY: the handlers of these tests do nothing, or are SIG_IGN or SIG_DFL.
    assert_ne!(unsafe { libc::signal(libc::SIGCHLD, handler) }, libc::SIG_ERR);
}

pub(crate) fn is_root() -> bool {
    // SAFETY: it cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Asks until a thread of this process sleeps.
pub(crate) fn until_asleep(thread: i32) {
    super::until("asleep", || {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).expect("/proc");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    });
}

/// Whether a pidfd tells the exit status of a process that was reaped (Linux 6.15). Found out here
/// without the library, so that the tests know what it must be able to do.
pub(crate) fn keeps_status_of_reaped() -> bool {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| {
        let (mut child, stdin) = {
            let mut child = super::stoppable_command(7).spawn().expect("to spawn");
            let stdin = child.stdin.take();
            (child, stdin)
        };
        // SAFETY: plain integers; the descriptor is new and belongs to nobody else.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
            if fd < 0 {
                return false;
            }
            OwnedFd::from_raw_fd(fd as c_int)
        };
        drop(stdin);
        // An error means that somebody else reaps it.
        let _ = child.wait();
        let get_info = libc::_IOWR::<[u64; 8]>(0xff, 11);
        loop {
            let mut info = [0_u64; 8];
            info[0] = 1 << 3;
            // SAFETY: the 64 bytes that the number tells are there.
            match unsafe { libc::ioctl(pidfd.as_raw_fd(), get_info, info.as_mut_ptr()) } {
                0 if info[0] & (1 << 3) != 0 => return true,
                // That somebody is not through yet.
                0 => std::thread::yield_now(),
                _ => return false,
            }
        }
    })
}

/// A child that dies, and is reaped by somebody else, before the spawn has returned.
pub(crate) fn spawn_reaped(backend: Backend) -> SharedChild {
    use std::os::unix::process::CommandExt;
    let mut command = super::helper(&[]);
    // SAFETY: these are system calls that take integers. A fork's child may make them.
    unsafe {
        command.pre_exec(|| {
            let child = libc::getpid();
            if libc::fork() == 0 {
                // The spawn goes on when nobody is left who might report an error to it. That is us.
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
    assert_eq!(state(child.id()), None, "it was to be reaped");
    child
}

/// Runs this in the child of a fork, and gives its answer.
pub(crate) fn in_a_fork(run: impl FnOnce() -> u8) -> u8 {
    // SAFETY: the test runs alone and nearly single-threaded, and what it runs here takes no lock that
    // another thread may hold. The child leaves by `_exit`, whatever happens.
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

/// Runs this on a thread that has given up root for the time being.
pub(crate) fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The bare system call: glibc's would change the user of all threads.
            // SAFETY: plain integers.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0, "setresuid: {}", std::io::Error::last_os_error());
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Has another process trace this one, and returns once it does. What it returns lets the process go,
/// dead or alive.
pub(crate) fn trace_from_a_fork(pid: u32) -> impl FnOnce() {
    let (attached, says_attached) = UnixStream::pair().expect("a pair");
    let (waits_for_release, release) = UnixStream::pair().expect("a pair");
    // SAFETY: the child makes system calls only, none of which needs a lock, and leaves by `_exit`.
    let tracer = unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                drop(release);
                // PTRACE_SEIZE does not stop it. A tracer that ends lets go of all that it traces.
                if libc::ptrace(libc::PTRACE_SEIZE, pid_t(pid), 0, 0) == 0 {
                    drop(says_attached);
                    let _ = std::io::Read::read(&mut &waits_for_release, &mut [0]);
                }
                libc::_exit(0)
            }
            pid => pid as u32,
        }
    };
    drop(says_attached);
    let _ = std::io::read_to_string(attached);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    assert!(status.contains(&format!("TracerPid:\t{tracer}")), "not traced: {status}");
    move || {
        drop(release);
        reap(tracer);
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

/// The directory of the cgroup v2 that this process is in.
pub(crate) fn own_cgroup() -> std::path::PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup v2");
    let point = mount.split(' ').nth(4).expect("a mount point");
    let mine = fs::read_to_string("/proc/self/cgroup").expect("/proc");
    let mine = mine.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup v2");
    std::path::Path::new(point).join(mine)
}

/// The directory of the cgroup that a tree has of its own, if this process is in one.
pub(crate) fn tree_cgroup_of(pid: u32) -> Option<std::path::PathBuf> {
    let list = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = list.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let name = std::path::Path::new(path).file_name()?;
    name.to_str()?.starts_with("shared_child-").then(|| own_cgroup().join(name))
}
