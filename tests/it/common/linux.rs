//! Linux: threads and cgroups in `/proc`, tracers, and system calls that fail. `unix.rs`, which is re-exported here,
//! has what every Unix shares.

pub(crate) use super::unix::*;

use std::ffi::c_int;
use std::fs;
use std::os::unix::net::UnixStream;

/// Whether each of our own threads has ended or sleeps.
pub(crate) fn helper_threads_rest() -> bool {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter(|stat| stat.contains("(child-")).all(|stat| stat.contains(") S "))
}

/// The number of threads of this process that are in a system call that waits for an exit.
pub(crate) fn threads_blocked_for_exits() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
    let numbers = calls.filter_map(|call| call.split_whitespace().next()?.parse().ok());
    numbers.filter(|number| [libc::SYS_waitid, libc::SYS_ppoll].contains(number)).count()
}

/// The number of threads of this process. A thread that has just begun counts too, although it has no name yet.
pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("/proc").count()
}

/// How often a thread has slept, according to its `status` file.
pub(crate) fn sleeps_in(status: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
    let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    count.expect("the kernel counts them")
}

/// How often a thread of this process has slept.
pub(crate) fn sleeps_of(thread: i32) -> u64 {
    sleeps_in(&fs::read_to_string(format!("/proc/self/task/{thread}/status")).expect("/proc"))
}

/// The ID of the calling thread.
pub(crate) fn this_thread() -> i32 {
    // SAFETY: gettid(2) takes no arguments, and cannot fail.
    unsafe { libc::gettid() }
}

/// The IDs of all processes.
pub(crate) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The living processes that have this word among their arguments.
pub(crate) fn processes_with(word: &str) -> Vec<u32> {
    let has_word = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    processes().filter(|id| has_word(id) && is_alive(*id)).collect()
}

/// The `status` file of a process; empty if there is no such process.
pub(crate) fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

pub(crate) fn is_guardian(pid: u32) -> bool {
    status(pid).starts_with("Name:\tchild-guardian\n") && is_alive(pid)
}

/// The living guardians that are children of this process.
pub(crate) fn guardians_of(parent: u32) -> Vec<u32> {
    let parent = format!("\nPPid:\t{parent}\n");
    processes().filter(|id| is_guardian(*id) && status(*id).contains(&parent)).collect()
}

/// Returns the only guardian, once it has set its name.
pub(crate) fn guardian_of(parent: u32) -> u32 {
    let mut all = Vec::new();
    super::until("there is one guardian", || {
        all = guardians_of(parent);
        all.len() == 1
    });
    all[0]
}

/// A command that runs a program as the first process of a PID namespace, where the test chooses process IDs.
pub(crate) fn namespace() -> &'static [&'static str] {
    const ROOT: &[&str] = &["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"];
    const USER: &[&str] =
        &["unshare", "--map-root-user", "--fork", "--pid", "--mount-proc", "--kill-child"];
    if is_root() { ROOT } else { USER }
}

/// Returns whether this user can make PID namespaces. Prints a line if not.
pub(crate) fn can_make_namespaces(test: &str) -> bool {
    let (program, arguments) = namespace().split_first().expect("a program");
    let trial = std::process::Command::new(program).args(arguments).arg("true").output();
    let works = trial.is_ok_and(|trial| trial.status.success());
    if !works {
        assert!(!is_root(), "root can make namespaces");
        eprintln!("{test} skipped: no PID namespaces for this user");
    }
    works
}

/// Runs the rest of a test in a PID namespace. Skips the test where this user cannot make one.
#[macro_export]
macro_rules! in_a_namespace {
    () => {
        if !$crate::common::linux::can_make_namespaces($crate::function_name!()) {
            return;
        }
        $crate::alone!($crate::common::linux::namespace());
        $crate::watchdog!();
    };
}

/// Makes the system calls of this thread, and of the threads and processes that it starts, fail: each with its errno,
/// if the condition on one of its arguments holds.
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

    /// Threads cannot be started; processes can.
    pub(crate) fn threads() -> Vec<Self> {
        let thread = When::Has(0, libc::CLONE_THREAD as u32);
        vec![
            // glibc falls back to `clone`, whose flags a filter can read.
            Self::always(libc::SYS_clone3, libc::ENOSYS),
            Self { call: libc::SYS_clone, when: thread, errno: libc::EAGAIN },
        ]
    }
}

/// Replaces each epoll of this process with another file, as a program does that closes foreign descriptors.
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

/// Polls until a thread of this process sleeps.
pub(crate) fn until_asleep(thread: i32) {
    super::until("asleep", || {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).expect("/proc");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    });
}

/// Whether a pidfd reports the exit status of a reaped process (Linux 6.15). Determined here without the library, so
/// that the tests know what it must support.
pub(crate) fn keeps_status_of_reaped() -> bool {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| {
        let (mut child, stdin) = {
            let mut child = super::stoppable_command(7).spawn().expect("to spawn");
            let stdin = child.stdin.take();
            (child, stdin)
        };
        // SAFETY: plain integers; the descriptor is new and owned here alone.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
            if fd < 0 {
                return false;
            }
            OwnedFd::from_raw_fd(fd as c_int)
        };
        drop(stdin);
        // An error means that the child is reaped elsewhere.
        let _ = child.wait();
        let get_info = libc::_IOWR::<[u64; 8]>(0xff, 11);
        loop {
            let mut info = [0_u64; 8];
            info[0] = 1 << 3;
            // SAFETY: the ioctl's number encodes 64 bytes, and the array has them.
            match unsafe { libc::ioctl(pidfd.as_raw_fd(), get_info, info.as_mut_ptr()) } {
                0 if info[0] & (1 << 3) != 0 => return true,
                // The reap elsewhere has not finished yet.
                0 => std::thread::yield_now(),
                _ => return false,
            }
        }
    })
}

/// Runs this on a thread that has given up root.
pub(crate) fn without_root<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The bare system call is necessary: glibc's function would change the user of all threads.
            // SAFETY: plain integers.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0, "setresuid: {}", std::io::Error::last_os_error());
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes another process trace this one, and returns once it does. The returned function detaches the tracer, whether
/// the process is dead or alive.
pub(crate) fn trace_from_a_fork(pid: u32) -> impl FnOnce() {
    let (attached, says_attached) = UnixStream::pair().expect("a pair");
    let (waits_for_release, release) = UnixStream::pair().expect("a pair");
    // SAFETY: the child makes system calls only, none of which needs a lock, and leaves by `_exit`.
    let tracer = unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                drop(release);
                // PTRACE_SEIZE does not stop it. The exit of a tracer detaches it from every process that it traces.
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

/// The directory of this process's cgroup v2.
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
